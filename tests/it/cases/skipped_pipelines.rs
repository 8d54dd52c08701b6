//! Pipelines of which the server skips a part: each Sync is answered, whatever stands in front of it.

use super::script::{A, B, DEFAULTS, SESSION, Script, TRANSACTION, compare, run, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::{close, copy_data, copy_done, describe, execute, flush, parse, query, sync};

fn pipeline(name: &str, parts: &[Vec<u8>]) -> Script {
    Script::new(name).ask(A, parts).sql(A, "select 'goes on', current_setting('lock_timeout')")
}

#[test]
fn pipeline_with_a_setting_behind_an_error_ends() {
    let fails = || step("select 1/0");
    let scripts = [
        pipeline("a setting that is refused", &[step("set lock_timeout to 'zz'"), step("select 1"), sync()]),
        pipeline("a setting behind an error", &[fails(), step("set a.b = 1"), step("select 1"), sync()]),
        pipeline("a setting last", &[fails(), step("set a.b = 1"), sync()]),
        pipeline("SET LOCAL", &[fails(), step("set local a.b = 1"), step("select 1"), sync()]),
        pipeline("RESET", &[fails(), step("reset a.b"), step("select 1"), sync()]),
        pipeline("RESET ALL", &[fails(), step("reset all"), step("select 1"), sync()]),
        pipeline("DEALLOCATE ALL", &[fails(), step("deallocate all"), step("select 1"), sync()]),
        pipeline("DISCARD ALL", &[fails(), step("discard all"), step("select 1"), sync()]),
        pipeline(
            "several",
            &[fails(), step("set local a.b = 1"), step("deallocate all"), step("reset all"), step("select 1"), sync()],
        ),
        pipeline("set_config", &[fails(), step("select set_config('a.b', '1', false)"), step("select 1"), sync()]),
        pipeline("BEGIN", &[fails(), step("begin"), step("set a.b = 1"), step("commit"), sync()]),
        pipeline(
            "a Parse that fails, and queries that are skipped",
            &[parse("", "bogus"), query("set a.b = 1"), query("select 1"), sync()],
        ),
        pipeline(
            "queries of statements that are skipped",
            &[parse("", "bogus"), query("deallocate all"), query("begin"), sync()],
        ),
        pipeline("LISTEN", &[fails(), step("listen a"), step("select 1"), sync()]),
        pipeline("CREATE TEMP TABLE", &[fails(), step("create temp table t (a int)"), step("select 1"), sync()]),
        pipeline(
            "a setting in front of the error",
            &[step("set lock_timeout = '7s'"), fails(), step("select 1"), sync()],
        ),
        pipeline("named statements", &[fails(), parse("n", "set a.b = 1"), describe(b'S', "n"), run("n", &[])]),
        pipeline("Flush between", &[fails(), flush(), step("set a.b = 1"), flush(), step("select 1"), sync()]),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
    compare(Postgres::shared(), &SESSION, &scripts);
}

#[test]
fn pipeline_of_several_syncs_with_an_error_ends() {
    let scripts = [
        Script::new("a setting in the next")
            .send(A, &[step("select 1/0"), step("set a.b = 1"), sync(), step("set a.b = 2"), step("show a.b"), sync()])
            .ready(A, 2),
        Script::new("three of them")
            .send(
                A,
                &[
                    step("set a.b = 1"),
                    sync(),
                    step("select 1/0"),
                    step("set a.b = 2"),
                    sync(),
                    step("show a.b"),
                    sync(),
                ],
            )
            .ready(A, 3),
        Script::new("queries between")
            .send(
                A,
                &[step("select 1/0"), query("set a.b = 1"), sync(), query("set a.b = 2"), step("show a.b"), sync()],
            )
            .ready(A, 3),
        Script::new("psycopg's pipeline in a transaction")
            .aside("drop table if exists skipped_rows; create table skipped_rows (a int primary key)")
            .send(
                A,
                &[
                    step("begin"),
                    sync(),
                    step("insert into skipped_rows values (1)"),
                    sync(),
                    step("insert into skipped_rows values (1)"),
                    step("set local work_mem = '5MB'"),
                    step("deallocate all"),
                    step("select 1"),
                    sync(),
                    step("rollback"),
                    sync(),
                ],
            )
            .ready(A, 4)
            .aside("select count(*) from skipped_rows"),
        Script::new("a savepoint, and back")
            .send(
                A,
                &[
                    query("begin; savepoint s"),
                    step("select 1/0"),
                    step("set a.b = 1"),
                    sync(),
                    query("rollback to s"),
                    step("set a.b = 2"),
                    step("show a.b"),
                    sync(),
                    query("commit"),
                    query("show a.b"),
                ],
            )
            .ready(A, 6),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
    compare(Postgres::shared(), &SESSION, &scripts);
}

#[test]
fn pipeline_of_a_client_with_settings_of_its_own_ends() {
    let with = |name: &str, parts: &[Vec<u8>]| {
        Script::new(name)
            .comes_with(A, &[("TimeZone", "Asia/Tokyo"), ("application_name", "mine")])
            .ask(A, parts)
            .sql(A, "select current_setting('timezone'), current_setting('application_name')")
    };
    let scripts = [
        with("RESET ALL behind an error", &[step("select 1/0"), step("reset all"), step("show timezone"), sync()]),
        with(
            "RESET of one behind an error",
            &[step("select 1/0"), step("reset timezone"), step("show timezone"), sync()],
        ),
        with("DISCARD ALL behind an error", &[step("select 1/0"), step("discard all"), step("show timezone"), sync()]),
        with(
            "SET to default behind an error",
            &[step("select 1/0"), step("set timezone to default"), step("show timezone"), sync()],
        ),
        with("RESET ALL in front of an error", &[step("reset all"), step("select 1/0"), step("show timezone"), sync()]),
        with("a query behind an error", &[parse("", "bogus"), query("reset all"), query("show timezone"), sync()]),
    ];
    compare(Postgres::shared(), &DEFAULTS, &scripts);
}

/// A statement is described, its table is changed, and the statement is run.
fn changed(name: &str, change: &str) -> Script {
    let begin = |script: Script| {
        script.aside("drop table if exists changed, changed_too; create table changed as select 1 as a, 'b'::text as b")
    };
    begin(Script::new(name))
        .ask(A, &[parse("s", "select * from changed"), describe(b'S', "s"), sync()])
        .ask(A, &[run("s", &[])])
        .sql(B, change)
        .ask(A, &[run("s", &[])])
        .sql(A, "select 'goes on'")
        .ask(A, &[run("s", &[])])
        .sql(A, "begin")
        .ask(A, &[run("s", &[])])
        .sql(A, "rollback")
        .sql(A, "select 'goes on'")
}

#[test]
fn described_statement_over_a_changed_table_ends() {
    let scripts = [
        changed("dropped", "drop table changed"),
        changed("renamed", "alter table changed rename to changed_too"),
        changed("narrowed", "alter table changed drop column b"),
        changed("widened", "alter table changed add column c int"),
        changed("a column renamed", "alter table changed rename column a to aa"),
        changed("another type", "alter table changed alter column a type bigint"),
        changed("dropped and made anew", "drop table changed; create table changed as select 'x'::text as x"),
        changed(
            "dropped and made as it was",
            "drop table changed; create table changed as select 1 as a, 'b'::text as b",
        ),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn described_statement_over_a_table_changed_past_pgferry_ends() {
    let postgres = Postgres::start_with(&[]);
    let scripts: Vec<_> = [
        "drop table changed", "alter table changed rename to changed_too", "alter table changed drop column b",
        "drop schema if exists gone cascade; create schema gone; alter table changed set schema gone",
        "revoke all on changed from limited",
    ]
    .into_iter()
    .map(|change| {
        Script::new(change)
            .comes_with(A, &[("user", "limited")])
            .aside("drop schema if exists gone cascade; drop table if exists changed, changed_too; create table changed as select 1 as a, 'b'::text as b; grant all on changed to limited")
            .ask(A, &[parse("s", "select * from changed"), describe(b'S', "s"), sync()])
            .ask(A, &[run("s", &[])])
            .aside(change)
            .ask(A, &[run("s", &[])])
            .sql(A, "select 'goes on'")
            .send(A, &[query("begin"), run("s", &[]), query("rollback"), run("s", &[])])
            .ready(A, 4)
    })
    .collect();
    compare(&postgres, &TRANSACTION, &scripts);
}

#[test]
fn pipeline_with_copy_behind_an_error_ends() {
    let scripts = [
        pipeline("COPY FROM behind an error", &[step("select 1/0"), step("copy copied from stdin"), sync()]),
        pipeline("COPY TO behind an error", &[step("select 1/0"), step("copy numbers to stdout"), sync()]),
        pipeline(
            "COPY data behind an error",
            &[step("select 1/0"), step("copy copied from stdin"), copy_data(b"1\ta\n"), copy_done(), sync()],
        ),
        pipeline("a portal that is not there", &[execute("nowhere", 0), step("set a.b = 1"), step("select 1"), sync()]),
        pipeline(
            "Close behind an error",
            &[step("select 1/0"), close(b'S', "n"), close(b'P', "n"), step("set a.b = 1"), sync()],
        ),
    ];
    compare(Postgres::shared(), &DEFAULTS, &scripts);
}
