//! The unnamed statement is the client's own, on whichever connection it is bound.

use super::script::{A, B, Script, TRANSACTION, TRANSACTION_TWO, compare, run, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::{bind, close, describe, execute, parse, query, sync};

/// Two clients that drive each other from one connection to the other.
fn pushed_aside(name: &str, by: &[Vec<u8>]) -> Script {
    Script::new(name)
        .sql(B, "begin")
        .ask(A, &[parse("", "select 'old'"), describe(b'S', ""), sync()])
        .sql(B, "commit")
        .ask(A, &[parse("", "select 'new'"), describe(b'S', ""), sync()])
        .ask(B, by)
        .ask(A, &[run("", &[])])
        .sql(B, "rollback")
        .again(60)
}

#[test]
fn unnamed_statement_survives_a_change_of_connection() {
    let scripts = [
        pushed_aside("taken again by BEGIN", &[query("begin")]),
        pushed_aside("taken again by BEGIN in extended form", &[step("begin"), sync()]),
        pushed_aside("taken again by a statement of the same text", &[query("begin; select 'new'")]),
        pushed_aside("taken again by an unnamed statement", &[step("begin"), step("select 'other'"), sync()]),
        pushed_aside("taken by a Parse of the same text", &[step("begin"), parse("", "select 'old'"), sync()]),
    ];
    compare(Postgres::shared(), &TRANSACTION_TWO, &scripts);
}

#[test]
fn unnamed_statement_with_parameters_survives_a_change_of_connection() {
    let script = Script::new("the same parameters, another text")
        .sql(B, "begin")
        .ask(A, &[parse("", "select 'old ' || $1"), describe(b'S', ""), sync()])
        .sql(B, "commit")
        .ask(A, &[parse("", "select 'new ' || $1"), describe(b'S', ""), sync()])
        .ask(A, &[run("", &["1"])])
        .sql(B, "begin")
        .ask(A, &[run("", &["2"])])
        .sql(B, "commit")
        .ask(A, &[run("", &["3"])])
        .again(40);
    compare(Postgres::shared(), &TRANSACTION_TWO, &[script]);
}

#[test]
fn unnamed_statement_that_writes_is_the_last_one_parsed() {
    let script = Script::new("a SELECT that must not insert")
        .aside("drop table if exists unnamed_rows; create table unnamed_rows (a int)")
        .sql(B, "begin")
        .ask(A, &[parse("", "insert into unnamed_rows values (1)"), describe(b'S', ""), sync()])
        .sql(B, "commit")
        .ask(A, &[parse("", "select 1 from unnamed_rows"), describe(b'S', ""), sync()])
        .sql(B, "begin")
        .ask(A, &[run("", &[])])
        .sql(B, "commit")
        .aside("select count(*) from unnamed_rows")
        .again(20);
    compare(Postgres::shared(), &TRANSACTION_TWO, &[script]);
}

#[test]
fn unnamed_statement_of_another_client_is_out_of_reach() {
    let scripts = [
        Script::new("bound where none was parsed").ask(A, &[step("select 'secret'"), sync()]).ask(B, &[run("", &[])]),
        Script::new("bound behind a Parse of a name, in one write")
            .ask(A, &[step("select 'secret'"), sync()])
            .send(B, &[parse("n", "select 1"), sync(), run("", &[])])
            .ready(B, 2)
            .ask(B, &[close(b'S', "n"), sync()])
            .again(10),
        Script::new("described behind a Parse of a name, in one write")
            .ask(A, &[step("select 'secret'"), sync()])
            .send(B, &[parse("n", "select 1"), sync(), describe(b'S', ""), sync()])
            .ready(B, 2)
            .ask(B, &[close(b'S', "n"), sync()])
            .again(10),
        Script::new("bound behind a simple query, in one write")
            .ask(A, &[step("select 'secret'"), sync()])
            .send(B, &[query("select 1"), run("", &[])])
            .ready(B, 2)
            .again(10),
        Script::new("bound behind the use of a name, in one write")
            .ask(B, &[parse("n", "select 1"), sync()])
            .ask(A, &[step("select 'secret'"), sync()])
            .send(B, &[run("n", &[]), run("", &[])])
            .ready(B, 2)
            .ask(B, &[close(b'S', "n"), sync()])
            .again(10),
        Script::new("bound in a transaction")
            .ask(A, &[step("select 'secret'"), sync()])
            .send(B, &[query("begin"), run("", &[]), query("rollback")])
            .ready(B, 3)
            .again(10),
        Script::new("closed, and still the other's")
            .ask(A, &[parse("", "select 'mine'"), describe(b'S', ""), sync()])
            .ask(B, &[close(b'S', ""), sync()])
            .ask(A, &[run("", &[])])
            .again(10),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

/// Parses an unnamed statement, does something, lets another client have the connection, and binds.
fn after(name: &str, parts: &[Vec<u8>]) -> Script {
    Script::new(name)
        .ask(A, &[parse("", "select 'first'"), describe(b'S', ""), sync()])
        .ask(A, parts)
        .ask(B, &[step("select 'other'"), sync()])
        .ask(A, &[run("", &[])])
        .ask(A, &[bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()])
}

#[test]
fn unnamed_statement_ends_where_postgresql_ends_it() {
    let named = |sql: &str| [parse("n", sql), bind("", "n", &[]), execute("", 0), close(b'S', "n"), sync()].concat();
    let scripts = [
        after("by a simple query", &[query("select 1")]),
        after("by an empty query", &[query("")]),
        after("by a simple query that fails", &[query("select 1/0")]),
        after("by a simple query that does not parse", &[query("selec")]),
        after("by a Parse that fails", &[parse("", "selec"), sync()]),
        after("by a Close", &[close(b'S', ""), sync()]),
        after("not by a Close that is skipped", &[parse("n", "selec"), close(b'S', ""), sync()]),
        after("not by a Parse that is skipped", &[parse("n", "selec"), parse("", "select 'second'"), sync()]),
        after("by a Parse behind which something fails", &[parse("", "select 'second'"), parse("n", "selec"), sync()]),
        after("not by DEALLOCATE ALL", &[named("deallocate all")]),
        after("not by DISCARD ALL", &[named("discard all")]),
        after("not by DISCARD PLANS", &[named("discard plans")]),
        after("not by ROLLBACK", &[named("begin"), named("rollback")]).ready(A, 0),
        after("by a Parse in a Sync of its own", &[parse("", "select 'second'"), sync()]),
        after("by an empty Parse", &[parse("", ""), sync()]),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn unnamed_statement_parsed_in_a_transaction_that_fails_stays() {
    let scripts = [
        Script::new("rolled back")
            .sql(A, "begin")
            .ask(A, &[parse("", "select 'mine'"), describe(b'S', ""), sync()])
            .ask(A, &[parse("r", "rollback"), bind("", "r", &[]), execute("", 0), sync()])
            .ask(B, &[step("select 'other'"), sync()])
            .ask(A, &[run("", &[])]),
        Script::new("a Bind that fails")
            .ask(A, &[parse("", "select $1::int"), describe(b'S', ""), sync()])
            .ask(A, &[run("", &["x"])])
            .ask(B, &[step("select 'other'"), sync()])
            .ask(A, &[run("", &["7"])]),
        Script::new("an Execute that fails")
            .ask(A, &[parse("", "select 1 / $1::int"), describe(b'S', ""), sync()])
            .ask(A, &[run("", &["0"])])
            .ask(B, &[step("select 'other'"), sync()])
            .ask(A, &[run("", &["1"])]),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

/// What is no text in the client's encoding is refused before the unnamed statement is dropped, which may be another client's.
#[test]
fn unnamed_statement_of_another_client_is_not_run_behind_what_is_no_text() {
    let bytes = |tag, parts: &[&[u8]]| crate::harness::protocol_client::message(tag, &parts.concat());
    let by_query = bytes(b'Q', &[b"select '\xff'\0"]);
    let by_parse = [bytes(b'P', &[b"\0select '\xff'\0\0\0"]), sync()].concat();
    let scripts = [
        Script::new("behind a query").ask(A, &[parse("", "select 'another'"), sync()]).ask(B, &[by_query]),
        Script::new("behind a Parse").ask(A, &[parse("", "select 'another'"), sync()]).ask(B, &[by_parse]),
    ];
    let scripts = scripts.map(|script| script.ask(B, &[run("", &[])]));
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}
