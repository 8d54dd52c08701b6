//! Names that PostgreSQL cuts off: those of SQL at the end of a character within 63 bytes, those of the protocol at 63 bytes.

use super::script::{A, B, Script, TRANSACTION, TRANSACTION_TWO, compare, run};
use crate::harness::Postgres;
use crate::harness::protocol_client::{parse, sync};

/// A name that is cut off within a character by the protocol, and in front of it by SQL.
fn wide() -> String {
    "ä".repeat(40)
}

#[test]
fn savepoint_whose_name_is_cut_off_is_rolled_back_to() {
    let names = [
        ("n".repeat(70), "n".repeat(63)),
        ("n".repeat(63), "n".repeat(90)),
        (wide(), "ä".repeat(31)),
        (format!("\"{}\"", "N".repeat(70)), format!("\"{}\"", "N".repeat(64))),
        ("\"a\"\"b\"".to_owned(), "\"a\"\"b\"".to_owned()),
    ];
    let scripts: Vec<_> = names
        .iter()
        .map(|(made, returned_to)| {
            Script::new(made)
                .sql(A, "begin")
                .sql(A, "set a.b = 'kept'")
                .sql(A, &format!("savepoint {made}"))
                .sql(A, "set a.b = 'undone'")
                .sql(A, &format!("rollback to {returned_to}"))
                .sql(A, "commit")
                .sql(B, "begin")
                .sql(A, "select current_setting('a.b')")
                .sql(B, "rollback")
                .sql(A, "select current_setting('a.b')")
        })
        .collect();
    compare(Postgres::shared(), &TRANSACTION_TWO, &scripts);
}

#[test]
fn statement_whose_name_is_cut_off_is_the_one_that_sql_means() {
    let wide = wide();
    let short = "ä".repeat(31);
    // That a name is cut off is a notice of the server's, which gets the name of the statement there.
    let quiet = "set client_min_messages = warning";
    let scripts = [
        Script::new("not found by its name in full")
            .sql(A, quiet)
            .ask(A, &[parse(&wide, "select 1"), sync()])
            .sql(A, &format!("execute {wide}"))
            .ask(A, &[run(&wide, &[])]),
        Script::new("the one with the name that is left")
            .sql(A, quiet)
            .ask(A, &[parse(&wide, "select 1"), parse(&short, "select 2"), sync()])
            .sql(A, &format!("execute {wide}"))
            .sql(A, &format!("deallocate {wide}"))
            .ask(A, &[run(&wide, &[])])
            .ask(A, &[run(&short, &[])]),
        Script::new("in letters of one byte")
            .sql(A, quiet)
            .ask(A, &[parse(&"n".repeat(70), "select 1"), sync()])
            .sql(A, &format!("execute {}", "N".repeat(66)))
            .sql(A, &format!("deallocate \"{}\"", "n".repeat(63)))
            .ask(A, &[run(&"n".repeat(63), &[])]),
        Script::new("with quotes in it")
            .ask(A, &[parse("a\"b", "select 1"), parse("a\"\"b", "select 2"), sync()])
            .sql(A, "execute \"a\"\"b\"")
            .sql(A, "deallocate \"a\"\"b\"")
            .ask(A, &[run("a\"b", &[])])
            .ask(A, &[run("a\"\"b", &[])]),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}
