//! Texts of errors: the client's own name where PostgreSQL names a prepared statement, and nothing else is touched.

use super::script::{A, B, Script, TRANSACTION, compare, run, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::{bind, close, execute, parse, query, sync};

#[test]
fn error_texts_are_postgresqls_but_for_the_names_of_statements() {
    let named = Script::new("of a number of parameters")
        .ask(A, &[parse("mine", "select $1::int"), sync()])
        .ask(A, &[run("mine", &["1"]), sync()])
        .ask(A, &[run("mine", &[]), sync()])
        .sql(A, "execute mine")
        .sql(A, "execute mine(1, 2)");
    // Statements get numbers one after the other.
    let of_the_client =
        (1..9).fold(Script::new("of the client").ask(A, &[parse("mine", "select 1"), sync()]), |script, n| {
            script
                .ask(A, &[query(&format!("do $$ begin raise 'about \"pgferry_{n}\"'; end $$"))])
                .ask(A, &[step(&format!("select 'pgferry_{n}'::int")), sync()])
        });
    compare(Postgres::shared(), &TRANSACTION[..2], &[named, of_the_client]);
}

#[test]
fn an_error_names_the_statement_that_its_own_request_named() {
    let long = &"n".repeat(70);
    let both = Script::new("one text under two names")
        .ask(A, &[parse("one", "select $1::int"), sync()])
        .ask(A, &[parse("two", "select $1::int"), sync()])
        .ask(A, &[run("one", &[])])
        .ask(A, &[run("two", &[])])
        .sql(A, "execute one")
        .sql(A, "execute two");
    let given_up = Script::new("a name that is given up behind it")
        .ask(A, &[parse("x", "select $1::int"), sync()])
        .send(A, &[bind("", "x", &[]), sync(), close(b'S', "x"), parse("y", "select $1::int"), sync()])
        .ready(A, 2);
    let named_anew = Script::new("a name that gets another statement behind it")
        .ask(A, &[parse("x", "select $1::int"), sync()])
        .send(A, &[bind("", "x", &[]), sync(), close(b'S', "x"), parse("x", "select 2"), execute("", 0), sync()])
        .ready(A, 2);
    let cut_off = Script::new("a name that is longer than what is compared")
        .ask(A, &[parse(long, "select $1::int"), sync()])
        .ask(A, &[run(long, &[])])
        .ask(A, &[parse(long, "select 1"), sync()]);
    compare(Postgres::shared(), &TRANSACTION, &[both, given_up, named_anew, cut_off]);
}

#[test]
fn notices_about_a_text_reach_every_client_that_prepares_it() {
    // About a name of more than 63 bytes, and about a backslash in a string that is not written as E'…'.
    let cut_off = &format!("select 1 as {}", "n".repeat(70));
    let escaped = r"select 'it\'";
    let second = Script::new("by the second client")
        .ask(A, &[parse("a", cut_off), bind("", "a", &[]), execute("", 0), sync()])
        .ask(B, &[parse("b", cut_off), bind("", "b", &[]), execute("", 0), sync()])
        .ask(A, &[parse("c", cut_off), bind("", "c", &[]), execute("", 0), sync()]);
    let taken = Script::new("under a name that is taken")
        .ask(A, &[parse("a", "select 1"), sync()])
        .ask(A, &[parse("a", cut_off), sync()])
        .sql(A, "set standard_conforming_strings = off")
        .ask(A, &[parse("a", escaped), sync()]);
    // A text in which a name is replaced, and one that something is put into.
    let moved = Script::new("behind what is edited")
        .ask(A, &[parse("a", "select 1"), sync()])
        .sql(A, "set standard_conforming_strings = off")
        .sql(A, r"execute a; reset datestyle; select 'a\\b'");
    compare(Postgres::shared(), &TRANSACTION, &[second, taken, moved]);
}
