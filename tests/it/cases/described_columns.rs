//! Columns that a client was told of: it never gets rows of other ones.

use super::script::{A, B, Script, TRANSACTION, TRANSACTION_TWO, compare, compare_with, run};
use crate::harness::protocol_client::{bind, describe, execute, message, parse, query, sync, tags};
use crate::harness::{Pgferry, Postgres, ProtocolClient, eventually};

/// Binds no parameters, with all results in binary.
fn bind_binary(portal: &str, name: &str) -> Vec<u8> {
    let mut body = format!("{portal}\0{name}\0").into_bytes();
    body.extend([0, 0, 0, 0, 0, 1, 0, 1]);
    message(b'B', &body)
}

fn run_binary(name: &str) -> Vec<u8> {
    [bind_binary("", name), execute("", 0), sync()].concat()
}

const CHANGES: [&str; 6] = [
    "alter table told alter column a type bigint",
    "alter table told alter column a type text using 'x'",
    "alter table told add column c int default 7",
    "alter table told drop column b",
    "alter table told rename column a to aa",
    "drop table told; create table told as select 'x'::text as a",
];

/// How a client comes to know a statement's columns, and how it runs it afterwards.
fn told(how: &str, learns: &[Vec<u8>], runs: &[u8], change: &str, elsewhere: bool) -> Script {
    let script = Script::new(&format!("{how}, {change}, elsewhere: {elsewhere}"))
        .aside("drop table if exists told; create table told as select 42 as a, 'b'::text as b")
        .ask(A, learns);
    // By another client of pgferry, or past it.
    let script = if elsewhere { script.aside(change) } else { script.sql(B, change) };
    script.ask(A, &[runs.to_vec()]).ask(A, &[runs.to_vec()]).sql(A, "select 'goes on'").aside("drop table told")
}

fn over_all_changes(how: &str, learns: &[Vec<u8>], runs: &[u8]) -> Vec<Script> {
    let both = CHANGES.iter().flat_map(|&change| [(change, false), (change, true)]);
    both.map(|(change, elsewhere)| told(how, learns, runs, change, elsewhere)).collect()
}

#[test]
fn columns_described_by_a_portal_do_not_change() {
    let describes =
        [parse("s", "select * from told"), bind_binary("", "s"), describe(b'P', ""), execute("", 0), sync()];
    compare(
        &Postgres::start_with(&[]),
        &TRANSACTION,
        &over_all_changes("a portal of a name", &describes, &run_binary("s")),
    );
}

#[test]
fn columns_described_by_a_named_portal_do_not_change() {
    let describes =
        [parse("s", "select * from told"), bind_binary("p", "s"), describe(b'P', "p"), execute("p", 0), sync()];
    compare(
        &Postgres::start_with(&[]),
        &TRANSACTION,
        &over_all_changes("a named portal", &describes, &run_binary("s")),
    );
}

#[test]
fn columns_described_by_a_statement_do_not_change() {
    let describes = [parse("s", "select * from told"), describe(b'S', "s"), sync()];
    compare(&Postgres::start_with(&[]), &TRANSACTION, &over_all_changes("a statement", &describes, &run_binary("s")));
}

#[test]
fn columns_of_the_unnamed_statement_do_not_change() {
    let describes = [parse("", "select * from told"), bind_binary("", ""), describe(b'P', ""), execute("", 0), sync()];
    compare(
        &Postgres::start_with(&[]),
        &TRANSACTION,
        &over_all_changes("the unnamed statement", &describes, &run_binary("")),
    );
}

#[test]
fn columns_described_again_after_a_change_are_the_ones_of_the_statement() {
    let scripts = [
        Script::new("a portal that is described again")
            .aside("drop table if exists told; create table told as select 42 as a")
            .ask(A, &[parse("s", "select * from told"), describe(b'S', "s"), sync()])
            .sql(B, "alter table told alter column a type bigint")
            .ask(A, &[bind_binary("", "s"), describe(b'P', ""), execute("", 0), sync()])
            .ask(A, &[run_binary("s")]),
        Script::new("another client, that was told afterwards")
            .aside("drop table if exists told; create table told as select 42 as a")
            .ask(
                A,
                &[parse("s", "select * from told"), bind_binary("", "s"), describe(b'P', ""), execute("", 0), sync()],
            )
            .aside("alter table told alter column a type bigint")
            .ask(B, &[parse("s", "select * from told"), describe(b'S', "s"), sync()])
            .ask(B, &[run_binary("s")])
            .ask(A, &[run_binary("s")])
            .ask(B, &[run_binary("s")]),
        Script::new("in a transaction")
            .aside("drop table if exists told; create table told as select 42 as a")
            .ask(
                A,
                &[parse("s", "select * from told"), bind_binary("", "s"), describe(b'P', ""), execute("", 0), sync()],
            )
            .aside("alter table told alter column a type bigint")
            .send(A, &[query("begin"), run_binary("s"), query("commit")])
            .ready(A, 3)
            .ask(A, &[run("s", &[])]),
        Script::new("changed by the client itself")
            .aside("drop table if exists told; create table told as select 42 as a")
            .ask(
                A,
                &[parse("s", "select * from told"), bind_binary("", "s"), describe(b'P', ""), execute("", 0), sync()],
            )
            .sql(A, "alter table told alter column a type bigint")
            .ask(A, &[run_binary("s")])
            .ask(A, &[run_binary("s")]),
    ];
    compare(&Postgres::start_with(&[]), &TRANSACTION, &scripts);
}

/// Changes and what undoes them.
const UNDONE: [(&str, &str); 5] = [
    ("alter table told alter column a type bigint", "alter table told alter column a type int"),
    ("alter table told add column c int default 7", "alter table told drop column c"),
    ("alter table told drop column b", "alter table told add column b text default 'b'"),
    ("alter table told rename column a to aa", "alter table told rename column aa to a"),
    (
        "drop table told; create table told as select 'x'::text as a",
        "drop table told; create table told as select 42 as a, 'b'::text as b",
    ),
];

#[test]
fn columns_that_are_changed_back_are_those_that_the_client_was_told() {
    let (text, ends) = ("select * from told", [describe(b'P', ""), execute("", 0), sync()]);
    let unnamed = [vec![parse("", text), bind_binary("", "")], ends.to_vec()].concat();
    let named = [vec![parse("s", text), bind_binary("", "s")], ends.to_vec()].concat();
    let described = vec![parse("s", text), describe(b'S', "s"), sync()];
    for (how, name, learns) in [("unnamed", "", unnamed), ("a portal", "s", named), ("a statement", "s", described)] {
        let runs = [run_binary(name)];
        let scripts = UNDONE.iter().flat_map(|&(change, undo)| {
            [false, true].map(|elsewhere| {
                let script = Script::new(&format!("{how}, {change}, elsewhere: {elsewhere}"))
                    .aside("drop table if exists told; create table told as select 42 as a, 'b'::text as b")
                    .ask(A, &learns);
                let change_to = |script: Script, to: &str| if elsewhere { script.aside(to) } else { script.sql(B, to) };
                let script = change_to(script, change).ask(A, &runs).ask(A, &runs);
                change_to(script, undo).ask(A, &runs).ask(A, &runs).aside("drop table told")
            })
        });
        compare(&Postgres::start_with(&[]), &TRANSACTION, &scripts.collect::<Vec<_>>());
    }
}

/// Binds one parameter of eight bytes, in binary.
fn bind_eight_bytes(portal: &str, name: &str) -> Vec<u8> {
    let mut body = format!("{portal}\0{name}\0").into_bytes();
    body.extend([0, 1, 0, 1, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0]);
    message(b'B', &body)
}

/// A client that knows a parameter's type runs its statement on a connection where it has not been, behind a change of that type.
fn told_types(text: &str, change: &str, elsewhere: bool) -> Script {
    // Of this script alone: what is changed elsewhere is noticed only some time later.
    let text = &format!("{text} -- {change}, {elsewhere}");
    let runs = [bind_eight_bytes("", "s"), execute("", 0), sync()];
    let script = Script::new(&format!("{text}, {change}, elsewhere: {elsewhere}"))
        .aside("drop table if exists told; create table told as select 1::int8 as id, 42::int8 as a")
        .ask(A, &[parse("s", text), describe(b'S', "s"), sync()])
        .ask(A, &runs);
    let script = if elsewhere { script.aside(change) } else { script.sql(B, change) };
    // Another one holds the connection.
    let script = script
        .sql(B, "begin")
        .ask(A, &runs)
        .sql(B, "commit")
        .sql(A, "begin")
        .sql(B, "select 1")
        .ask(A, &runs)
        .sql(A, "rollback");
    // One that prepares it anew has the types of then, as soon as the change has been noticed.
    let parses = [parse("s", text), describe(b'S', "s"), sync()];
    let script = if elsewhere { script } else { script.ask(B, &parses).ask(B, &runs) };
    script.ask(A, &runs).sql(A, "select * from told").aside("drop table told")
}

#[test]
fn types_of_parameters_that_a_client_was_told_do_not_change() {
    let texts = ["update told set a = $1", "insert into told (a) values ($1)", "select id from told where a = $1"];
    let types = ["float8", "timestamptz using '2026-01-02'", "numeric", "int4", "text"];
    let scripts = texts.iter().flat_map(|text| {
        let changes = types.iter().map(|to| format!("alter table told alter column a type {to}"));
        changes.flat_map(|change| [told_types(text, &change, false), told_types(text, &change, true)])
    });
    compare(&Postgres::start_with(&[]), &TRANSACTION_TWO, &scripts.collect::<Vec<_>>());
}

#[test]
fn a_statement_that_was_closed_to_make_room_is_prepared_once_more() {
    let scripts = [Script::new("a temporary table, and another statement")
        .ask(A, &[query("begin")])
        .ask(A, &[parse("s", "select 42 as a"), describe(b'S', "s"), sync()])
        .sql(A, "create temp table hidden (a int)")
        .ask(A, &[parse("second", "select 43 as a"), sync()])
        .ask(A, &[run_binary("s")])
        .ask(A, &[parse("third", "select 44 as a"), sync()])
        .ask(A, &[run_binary("s")])
        .sql(A, "rollback")];
    let env = [("PGFERRY_MAX_PREPARED_STATEMENTS", "1")];
    compare_with(&Postgres::start_with(&[]), &TRANSACTION, &env, &scripts);
}

/// What was sent is not sent once more in part because another client has found out meanwhile that its plan is out of date.
#[test]
fn columns_that_change_while_several_clients_wait_for_a_lock() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "3"]);
    let mut clients = [ferry.session(), ferry.session(), ferry.session()];
    let mut alters = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    for round in 0..3 {
        let (table, name) = (format!("t{round}"), format!("s{round}"));
        alters.query(&format!("create table {table} (a int); insert into {table} values (1)"));
        // Each prepares it on a connection of its own.
        for client in &mut clients {
            client.query("begin; select 1");
        }
        for client in &mut clients {
            let prepares =
                [parse(&name, &format!("select * from {table}")), bind("", &name, &[]), execute("", 0), sync()];
            client.send(&prepares.concat());
            assert_eq!(tags(&client.until_ready()), "12DCZ");
        }
        for client in &mut clients {
            client.query("commit");
        }
        alters.query(&format!("begin; alter table {table} add b int"));
        for client in &mut clients {
            client.send(&run(&name, &[]));
        }
        let waiting = "select count(*) from pg_locks where not granted";
        eventually("all wait", || alters.value(waiting) == "3");
        alters.query("commit");
        for client in &mut clients {
            let answer = client.until_ready();
            assert_eq!(tags(&answer), "2DCZ", "{answer:?}");
        }
    }
    assert_eq!(ferry.report().get("upstream_opened"), 3, "no connection has ended");
}
