//! Statements that clients have prepared, and definitions that change by statements which pgferry does not see.

use crate::harness::protocol_client::{bind, describe, execute, parse, sync};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually};

/// What there is, a statement that refers to it and a parameter of it, and how it is changed.
const CHANGES: [(&str, &str, &str, &str); 5] = [
    (
        "create table wider (a int)",
        "insert into wider values ($1)",
        "3000000000",
        "alter table wider alter column a type bigint",
    ),
    (
        "create table zoned (a timestamp)",
        "insert into zoned values ($1) returning a at time zone 'UTC' = '2020-01-01 00:00'",
        "2020-01-01 05:00+05",
        "alter table zoned alter column a type timestamptz",
    ),
    (
        "create type mood as enum ('sad', 'ok')",
        "select 'ok'::mood::text, 'mood'::regtype::oid, $1::text",
        "",
        "drop type mood; create type mood as enum ('bad', 'ok')",
    ),
    (
        "create schema early; create table public.late (a int); insert into public.late values (1)",
        "select a, $1::text from late",
        "",
        "create table early.late (a int); insert into early.late values (2)",
    ),
    (
        "create domain small as int check (value < 10)",
        "select $1::small",
        "20",
        "drop domain small; create domain small as int check (value < 30)",
    ),
];

/// What a new client is told that prepares `sql` and runs it with `param`, in a transaction that is rolled back.
fn told(mut client: ProtocolClient, sql: &str, param: &str) -> Vec<Message> {
    client.query("begin");
    client.send(&[parse("s", sql), describe(b'S', "s"), sync()].concat());
    let mut told = client.until_ready();
    client.send(&[bind("", "s", &[param]), execute("", 0), sync()].concat());
    told.extend(client.until_ready());
    client.query("rollback");
    told
}

#[test]
fn new_clients_get_what_is_there_now() {
    let postgres = Postgres::start_with(&["search_path='early, public'"]);
    for (make, ..) in CHANGES {
        postgres.sql(make);
    }
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let direct = || ProtocolClient::logged_in(ProtocolClient::tcp(postgres.port), "trust_user", "postgres");
    let before: Vec<_> = CHANGES.iter().map(|(_, sql, param, _)| told(ferry.session(), sql, param)).collect();
    // What is known of the definitions is of before they change.
    ferry.logs("its code leaves");
    for (.., change) in CHANGES {
        postgres.sql(change);
    }
    for ((_, sql, param, _), before) in CHANGES.iter().zip(before) {
        let now = told(direct(), sql, param);
        assert_ne!(now, before, "{sql}");
        eventually(sql, || told(ferry.session(), sql, param) == now);
    }
}
