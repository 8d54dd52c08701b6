//! One text that means different things: in two databases, schemas, roles, sessions.

use super::script::{A, B, Params, Script, TRANSACTION, TRANSACTION_TWO, compare, run};
use crate::harness::Postgres;
use crate::harness::protocol_client::{describe, parse, query, sync};

const SELECT: &str = "select * from people";

/// Two clients, for each of whom the same text stands for other columns.
fn same_text(name: &str, a: Params, b: Params, each: &[&str]) -> Vec<Script> {
    let begin = |name: String| {
        let mut script = Script::new(&name).comes_with(A, a).comes_with(B, b);
        for (client, sql) in [(A, each.first()), (B, each.get(1))] {
            if let Some(sql) = sql {
                script = script.sql(client, sql);
            }
        }
        script
    };
    let prepares =
        |script: Script, client, name: &str| script.ask(client, &[parse(name, SELECT), describe(b'S', name), sync()]);
    let runs = |script: Script, client, name: &str| script.ask(client, &[run(name, &[])]);
    let one_by_one = prepares(begin(format!("{name}, one by one")), A, "s");
    let one_by_one = runs(prepares(runs(one_by_one, A, "s"), B, "s"), B, "s");
    let mixed = prepares(prepares(begin(format!("{name}, mixed")), A, "s"), B, "s");
    let mixed = runs(runs(runs(runs(mixed, A, "s"), B, "s"), A, "s"), B, "s");
    let unnamed = prepares(prepares(begin(format!("{name}, unnamed")), A, ""), B, "");
    let unnamed = runs(runs(unnamed, A, ""), B, "");
    let in_one = begin(format!("{name}, not described"))
        .ask(A, &[parse("s", SELECT), run("s", &[])])
        .ask(B, &[parse("s", SELECT), run("s", &[])])
        .ask(A, &[run("s", &[])])
        .ask(B, &[run("s", &[])]);
    vec![runs(one_by_one, A, "s"), runs(mixed, A, "s"), runs(unnamed, A, ""), in_one]
}

fn server() -> Postgres {
    let postgres = Postgres::start_with(&[]);
    let mut other = crate::harness::ProtocolClient::tcp(postgres.port).logged_in("trust_user", "other");
    other.query("create table people as select 'other'::text as name, 7 as age");
    postgres.sql(
        "create table people as select 1 as id; \
         create schema one; create table one.people as select 'one'::text as one; \
         create schema two; create table two.people as select 2 as two, 'two'::text as text; \
         create schema limited authorization limited; create table limited.people as select 'limited'::text as l; \
         alter table limited.people owner to limited; grant all on public.people to limited; \
         create role own_path login superuser; alter role own_path set search_path = two",
    );
    postgres
}

#[test]
fn same_text_in_two_databases_is_two_statements() {
    let scripts = same_text("two databases", &[], &[("database", "other")], &[]);
    let again = same_text("the other way round", &[("database", "other")], &[], &[]);
    compare(&server(), &TRANSACTION, &[scripts, again].concat());
}

#[test]
fn same_text_in_two_schemas_is_two_statements() {
    let one: Params = &[("options", "-csearch_path=one")];
    let two: Params = &[("options", "-c search_path=two")];
    let scripts = [
        same_text("options", one, two, &[]),
        same_text("options of one", &[], one, &[]),
        same_text("a startup parameter", &[("search_path", "one")], &[("search_path", "two")], &[]),
        same_text("SET", &[], &[], &["set search_path = one", "set search_path = two"]),
        same_text("SET SCHEMA", &[], &[], &["set schema 'one'", "set schema 'two'"]),
        same_text("SET by one", &[], &[], &["select 1", "set search_path = two"]),
    ]
    .concat();
    compare(&server(), &TRANSACTION, &scripts);
}

#[test]
fn same_text_of_two_roles_is_two_statements() {
    let scripts = [
        same_text("$user", &[], &[("user", "limited")], &[]),
        same_text("a role with a search_path", &[], &[("user", "own_path")], &[]),
    ]
    .concat();
    compare(&server(), &TRANSACTION, &scripts);
}

/// What makes a client keep its connection needs one more for the other.
#[test]
fn same_text_of_clients_that_keep_their_connections_is_two_statements() {
    let one = "select set_config('search_path', 'one', false)";
    let scripts = [
        same_text("set_config", &[], &[], &[one, "select 1"]),
        same_text(
            "several statements",
            &[],
            &[],
            &["select 1; set search_path = one", "select 1; set search_path = two"],
        ),
        same_text("SET ROLE", &[], &[], &["select 1", "set role limited"]),
    ]
    .concat();
    compare(&server(), &TRANSACTION_TWO, &scripts);
}

#[test]
fn same_text_in_one_session_means_what_its_search_path_says() {
    let scripts = [
        Script::new("prepared under two search paths")
            .sql(A, "set search_path = one")
            .ask(A, &[parse("o", SELECT), describe(b'S', "o"), sync()])
            .sql(A, "set search_path = two")
            .ask(A, &[parse("t", SELECT), describe(b'S', "t"), sync()])
            .sql(B, "select 1")
            .ask(A, &[run("t", &[])]),
        Script::new("in a transaction with SET LOCAL")
            .sql(A, "begin; set local search_path = one")
            .ask(A, &[parse("o", SELECT), describe(b'S', "o"), sync(), run("o", &[])])
            .ready(A, 1)
            .sql(A, "commit")
            .ask(A, &[parse("p", SELECT), describe(b'S', "p"), sync()])
            .ask(A, &[run("p", &[])])
            .sql(B, "select 1")
            .ask(A, &[run("p", &[])]),
        Script::new("hidden by a temporary table")
            .sql(A, "create temp table people as select 'temp'::text as temp")
            .ask(A, &[parse("o", SELECT), describe(b'S', "o"), sync()])
            .ask(B, &[parse("o", SELECT), describe(b'S', "o"), sync()])
            .ask(A, &[run("o", &[])])
            .ask(B, &[run("o", &[])])
            .sql(A, "drop table pg_temp.people")
            .ask(B, &[run("o", &[])])
            .ask(A, &[parse("p", SELECT), describe(b'S', "p"), sync()])
            .ask(A, &[run("p", &[])]),
    ];
    compare(&server(), &TRANSACTION_TWO, &scripts);
    let hides = Script::new("constants under two settings")
        .ask(A, &[query("set datestyle = 'ISO, DMY'")])
        .ask(B, &[query("set datestyle = 'ISO, MDY'")])
        .ask(A, &[parse("s", "select '02/03/2020'::date::text"), describe(b'S', "s"), sync()])
        .ask(B, &[parse("s", "select '02/03/2020'::date::text"), describe(b'S', "s"), sync()])
        .ask(A, &[run("s", &[])])
        .ask(B, &[run("s", &[])]);
    compare(&server(), &TRANSACTION, &[hides]);
}

#[test]
fn columns_told_to_a_client_that_has_gone_bind_no_other() {
    let scripts: Vec<_> = [
        "alter table people add column new text",
        "alter table people rename column id to no",
        "drop table people; create table people as select 'x'::text as x",
    ]
    .into_iter()
    .map(|change| {
        Script::new(change)
            .aside("drop table if exists people; create table people as select 1 as id")
            .ask(A, &[parse("s", SELECT), describe(b'S', "s"), sync()])
            .ask(A, &[run("s", &[])])
            .leave(A)
            .aside(change)
            .ask(B, &[parse("s", SELECT), describe(b'S', "s"), sync()])
            .ask(B, &[run("s", &[])])
            .ask(B, &[run("s", &[])])
            .ask(A, &[parse("", SELECT), describe(b'S', ""), sync()])
            .ask(A, &[run("", &[])])
    })
    .collect();
    compare(&server(), &TRANSACTION, &scripts);
}
