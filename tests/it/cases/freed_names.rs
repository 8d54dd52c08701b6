//! Names of prepared statements that SQL frees, in whatever text: a name then stands for what it was last given.

use super::script::{A, B, Script, TRANSACTION, TRANSACTION_TWO, compare, run, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::{bind, close, describe, execute, parse, query, sync};

const FIRST: &str = "select 'first' where $1::int = 1";
const SECOND: &str = "select 2 where $1::int = 1";

/// A name that is given, freed or not by `parts`, given again, and run.
fn given_again(name: &str, parts: &[Vec<u8>], ready: usize) -> Script {
    Script::new(name)
        .ask(A, &[parse("x", FIRST), describe(b'S', "x"), sync()])
        .send(A, parts)
        .ready(A, ready)
        .ask(A, &[run("x", &["1"])])
        .ask(A, &[parse("x", SECOND), describe(b'S', "x"), sync()])
        .ask(A, &[run("x", &["1"])])
        .ask(B, &[step("select 'other'"), sync()])
        .ask(A, &[run("x", &["1"])])
}

#[test]
fn name_freed_by_one_text_of_several_statements_is_free() {
    let texts = [
        "select 1; deallocate x",
        "deallocate x; select 1",
        "deallocate x;;",
        ";deallocate x",
        "; ; deallocate x",
        "begin; deallocate x; commit",
        "begin; deallocate x; rollback",
        "deallocate prepare x; select 1",
        "DEALLOCATE PREPARE \"x\"; select 1",
        "deallocate all; select 1",
        "select 1; deallocate prepare all",
        "deallocate x; select 1/0",
        "select 1/0; deallocate x",
        "deallocate nothing; deallocate x",
        "deallocate x; deallocate x",
        "/* x */ deallocate x -- x",
        "select 1; -- ; deallocate x",
        "select 'deallocate x'",
        "select 1; deallocate \"X\"",
        "select 1; deallocate X",
        "deallocate x; discard plans",
        "explain select 1; deallocate x",
    ];
    let scripts: Vec<_> = texts.iter().map(|text| given_again(text, &[query(text)], 1)).collect();
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_freed_in_a_savepoint_is_free() {
    let texts = [
        &["savepoint s;deallocate x;release s", "commit"][..],
        &["savepoint s;deallocate x;release s", "rollback"],
        &["savepoint s; deallocate x", "rollback to s; release s", "commit"],
        &["savepoint s;deallocate nothing;release s", "rollback to s", "deallocate x", "commit"],
        &["select 1/0", "deallocate x", "rollback"],
        &["select 1/0", "rollback; deallocate x"],
        &["deallocate x", "select 1/0", "rollback"],
    ];
    let scripts: Vec<_> = texts
        .iter()
        .map(|texts| {
            let queries: Vec<_> = texts.iter().map(|text| query(text)).collect();
            let name = format!("begin | {}", texts.join(" | "));
            given_again(&name, &[&[query("begin")], &queries[..]].concat(), queries.len() + 1)
        })
        .collect();
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_freed_in_a_pipeline_is_free() {
    let scripts = [
        given_again("alone", &[step("deallocate x"), sync()], 1),
        given_again("before an error", &[step("deallocate x"), step("select 1/0"), sync()], 1),
        given_again("behind an error", &[step("select 1/0"), step("deallocate x"), sync()], 1),
        given_again("DEALLOCATE ALL before an error", &[step("deallocate all"), step("select 1/0"), sync()], 1),
        given_again("DISCARD ALL", &[step("discard all"), sync()], 1),
        given_again("in a query behind an error", &[step("select 1/0"), query("deallocate x"), sync()], 1),
        given_again("two Syncs", &[step("select 1/0"), sync(), step("deallocate x"), sync()], 2),
        given_again("parsed and not executed", &[parse("", "deallocate x"), sync()], 1),
        given_again("by Close, before an error", &[close(b'S', "x"), step("select 1/0"), sync()], 1),
        given_again("by Close, behind an error", &[step("select 1/0"), close(b'S', "x"), sync()], 1),
        given_again(
            "by Close in a transaction that fails",
            &[step("begin"), close(b'S', "x"), step("select 1/0"), step("x"), sync(), query("rollback")],
            2,
        ),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_freed_and_given_again_in_one_write() {
    let with = |name: &str, parts: &[Vec<u8>], ready| {
        Script::new(name)
            .ask(A, &[parse("x", FIRST), describe(b'S', "x"), sync()])
            .send(A, parts)
            .ready(A, ready)
            .ask(B, &[step("select 'other'"), sync()])
            .ask(A, &[run("x", &["1"])])
            .ask(A, &[describe(b'S', "x"), sync()])
    };
    let again = || parse("x", SECOND);
    let scripts = [
        with("a simple query", &[query("deallocate x"), again(), sync()], 2),
        with("several statements", &[query("select 1; deallocate x"), again(), sync()], 2),
        with("that fails first", &[query("select 1/0; deallocate x"), again(), sync()], 2),
        with("that fails afterwards", &[query("deallocate x; select 1/0"), again(), sync()], 2),
        with("one pipeline", &[step("deallocate x"), again(), run("x", &["1"])], 1),
        with("one pipeline that fails afterwards", &[step("deallocate x"), again(), step("select 1/0"), sync()], 1),
        with("one pipeline that fails first", &[step("select 1/0"), step("deallocate x"), again(), sync()], 1),
        with("one pipeline that fails between", &[step("deallocate x"), step("select 1/0"), again(), sync()], 1),
        with("deallocate all", &[query("deallocate all; select 1"), again(), run("x", &["1"])], 2),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_freed_by_code_inside_the_database_is_free() {
    let scripts = [given_again("beside settings", &[query("set a.b = 'c'; deallocate x; reset a.b")], 1)];
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create function free_name(name text) returns void language plpgsql as \
         'begin execute format(''deallocate %I'', name); end'",
    );
    // The client may have to keep its connection.
    compare(&postgres, &TRANSACTION_TWO, &scripts);
}

#[test]
fn name_freed_by_another_client_is_that_clients_only() {
    let texts = ["deallocate x", "select 1; deallocate x", "deallocate all", "deallocate all; select 1", "discard all"];
    let scripts: Vec<_> = texts
        .iter()
        .map(|text| {
            Script::new(text)
                .ask(A, &[parse("x", FIRST), describe(b'S', "x"), sync()])
                .ask(B, &[parse("x", SECOND), describe(b'S', "x"), sync()])
                .sql(B, text)
                .ask(A, &[run("x", &["1"])])
                .ask(B, &[run("x", &["1"])])
                .ask(A, &[parse("y", SECOND), run("y", &["1"])])
                .ask(B, &[parse("x", FIRST), run("x", &["1"])])
                .ask(A, &[run("x", &["1"])])
        })
        .collect();
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_freed_never_runs_what_another_client_prepared() {
    let scripts: Vec<_> = ["select 1; deallocate x", "deallocate x;;", ";deallocate x", "begin; deallocate x; commit"]
        .iter()
        .map(|text| {
            Script::new(text)
                .aside("drop table if exists freed_rows; create table freed_rows as select 1 as a")
                .ask(A, &[parse("x", "select 'mine'"), describe(b'S', "x"), sync()])
                .sql(A, text)
                .ask(B, &[parse("x", "delete from freed_rows"), describe(b'S', "x"), sync()])
                .ask(A, &[run("x", &[])])
                .ask(A, &[parse("x", "select 'again'"), describe(b'S', "x"), sync()])
                .ask(A, &[run("x", &[])])
                .aside("select count(*) from freed_rows")
        })
        .collect();
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_of_sql_and_name_of_the_protocol_are_one() {
    let scripts = [
        Script::new("prepared by SQL, bound by the protocol")
            .sql(A, "prepare foobar as select 'foobar'")
            .ask(A, &[run("foobar", &[])])
            .ask(A, &[close(b'S', "foobar"), sync()])
            .sql(A, "execute foobar"),
        Script::new("EXECUTE as a prepared statement")
            .sql(A, "prepare foobar as select 'foobar'")
            .ask(A, &[parse("st1", "EXECUTE foobar"), describe(b'S', "st1"), sync()])
            .ask(A, &[run("st1", &[])])
            .ask(A, &[run("st1", &[])])
            .sql(A, "deallocate foobar")
            .ask(A, &[run("st1", &[])]),
        Script::new("EXECUTE in one pipeline")
            .sql(A, "prepare foobar (int) as select $1 + 1")
            .ask(A, &[parse("st1", "EXECUTE foobar(41)"), describe(b'S', "st1"), run("st1", &[])])
            .ask(A, &[step("execute foobar(1)"), sync()]),
        Script::new("prepared by the protocol, executed by SQL")
            .ask(A, &[parse("x", FIRST), sync()])
            .sql(A, "execute x(1)")
            .ask(A, &[step("execute x(1)"), sync()])
            .sql(A, "explain execute x(1)"),
        Script::new("prepared among several statements")
            .sql(A, "select 1; prepare foobar as select 'foobar'")
            .ask(A, &[parse("st1", "execute foobar"), run("st1", &[])])
            .ask(A, &[run("foobar", &[])]),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_freed_with_all_others_is_the_clients_own_in_errors() {
    let freed = |text: &str| {
        Script::new(text)
            .ask(A, &[parse("x", FIRST), parse("y", SECOND), sync()])
            .sql(A, text)
            .ask(A, &[parse("x", SECOND), describe(b'S', "x"), sync()])
    };
    let scripts = ["deallocate all; deallocate x", "deallocate all; select 1; execute y(1)"].map(freed);
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_in_the_text_of_a_named_statement_is_the_clients_own() {
    let elsewhere = || [step("select 'other'"), sync()].concat();
    let scripts = [
        Script::new("a statement that frees itself")
            .ask(A, &[parse("x", "deallocate x"), describe(b'S', "x"), sync()])
            .ask(B, &[elsewhere()])
            .ask(A, &[run("x", &[])])
            .ask(A, &[run("x", &[])])
            .ask(A, &[parse("x", SECOND), run("x", &["1"])]),
        Script::new("one that frees another, twice")
            .ask(A, &[parse("y", "deallocate prepare x"), parse("x", FIRST), sync()])
            .ask(B, &[elsewhere()])
            .ask(A, &[run("y", &[])])
            .ask(A, &[run("x", &["1"])])
            .ask(A, &[run("y", &[])])
            .ask(A, &[parse("x", SECOND), sync()])
            .ask(A, &[run("y", &[])])
            .ask(A, &[run("x", &["1"])]),
        Script::new("one that frees another, twice in one pipeline")
            .ask(A, &[parse("y", "deallocate x"), parse("x", FIRST), sync()])
            .ask(A, &[bind("", "y", &[]), execute("", 0), bind("", "y", &[]), execute("", 0), sync()])
            .ask(A, &[run("x", &["1"])]),
        Script::new("one that runs another")
            .ask(A, &[parse("x", FIRST), parse("y", "execute x(1)"), describe(b'S', "y"), sync()])
            .ask(B, &[elsewhere()])
            .ask(A, &[run("y", &[])])
            .ask(A, &[describe(b'S', "y"), run("y", &[])])
            .sql(A, "deallocate x")
            .ask(A, &[run("y", &[])])
            .ask(A, &[parse("x", "select 'third' where $1::int = 1"), sync()])
            .ask(B, &[elsewhere()])
            .ask(A, &[run("y", &[])]),
        Script::new("one that shows the plan of another")
            .ask(A, &[parse("x", FIRST), parse("y", "explain execute x(1)"), run("y", &[])])
            .ask(A, &[run("y", &[])]),
        Script::new("two clients that share both")
            .ask(A, &[parse("x", FIRST), parse("y", "execute x(1)"), sync()])
            .ask(B, &[parse("x", SECOND), parse("y", "execute x(1)"), sync()])
            .ask(A, &[run("y", &[])])
            .ask(B, &[run("y", &[])])
            .sql(B, "deallocate x")
            .ask(A, &[run("y", &[])])
            .ask(B, &[run("y", &[])]),
        Script::new("a text that frees and then runs")
            .ask(A, &[parse("x", FIRST), sync()])
            .sql(A, "select 1; deallocate x; execute x(1)")
            .ask(A, &[run("x", &["1"])]),
        Script::new("a text that frees and then prepares")
            .ask(A, &[parse("x", FIRST), sync()])
            .sql(A, "deallocate x; prepare x (int) as select 'again' where $1 = 1; execute x(1)")
            .sql(A, "execute x(1)"),
        Script::new("PREPARE of a name that is taken")
            .ask(A, &[parse("x", FIRST), sync()])
            .ask(B, &[elsewhere()])
            .sql(A, "prepare x as select 'second'")
            .ask(A, &[step("prepare x as select 'second'"), sync()])
            .ask(A, &[parse("y", "prepare x as select 'second'"), run("y", &[])])
            .ask(A, &[run("x", &["1"])]),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_freed_by_one_client_is_there_for_another_that_shares_the_statement() {
    let scripts: Vec<_> = [vec![query("deallocate x")], vec![step("deallocate x"), sync()]]
        .into_iter()
        .map(|frees| {
            Script::new("a shared statement")
                .ask(A, &[parse("x", FIRST), run("x", &["1"])])
                .ask(B, &[parse("z", FIRST), run("z", &["1"])])
                .ask(A, &frees)
                .ask(B, &[run("z", &["1"])])
                .ask(A, &[parse("x", FIRST), run("x", &["1"])])
                .ask(B, &[run("z", &["1"])])
        })
        .collect();
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn name_that_a_statement_has_on_the_server_is_no_other_clients() {
    let texts: Vec<_> =
        (1..10).flat_map(|n| [format!("execute pgferry_{n}"), format!("deallocate pgferry_{n}")]).collect();
    let script =
        Script::new("names that only the server knows").ask(A, &[parse("x", FIRST), describe(b'S', "x"), sync()]);
    let script =
        texts.iter().fold(script, |script, text| script.ask(B, &[query(text)]).ask(B, &[parse("", text), sync()]));
    compare(Postgres::shared(), &TRANSACTION, &[script.ask(A, &[run("x", &["1"])])]);
}

#[test]
fn name_freed_with_all_others_may_be_made_by_sql_in_the_same_text() {
    let texts = [
        "deallocate all; prepare x as select 7",
        "deallocate prepare all; prepare x (int) as select $1; execute x(5)",
        "execute x(1); deallocate all; prepare \"x\" as select 9; execute x",
        "deallocate all; execute x(1)",
        "deallocate all; deallocate x",
    ];
    let scripts: Vec<_> = texts
        .iter()
        .map(|text| {
            Script::new(text)
                .ask(A, &[parse("x", FIRST), describe(b'S', "x"), sync()])
                .sql(A, text)
                .ask(A, &[parse("y", FIRST), run("y", &["1"])])
                .sql(A, "execute x")
                .ask(A, &[run("x", &[])])
                .ask(B, &[parse("x", FIRST), run("x", &["1"])])
        })
        .collect();
    // The client keeps its connection.
    compare(Postgres::shared(), &TRANSACTION_TWO, &scripts);
}

#[test]
fn names_that_are_keywords() {
    let names = ["all", "prepare", "transaction", "execute", "function", "as", "select"];
    let scripts = names.iter().map(|name| {
        Script::new(name)
            .ask(A, &[parse(name, "select 1"), parse("other", "select 2"), sync()])
            .sql(A, &format!("execute {name}"))
            .sql(A, &format!("execute \"{name}\""))
            .sql(A, &format!("prepare {name} as select 3"))
            .sql(A, "explain (costs off) execute other")
            .sql(A, &format!("deallocate \"{name}\""))
            .ask(A, &[run(name, &[])])
            .ask(A, &[parse(name, "select 4"), sync()])
            .sql(A, &format!("deallocate prepare {name}"))
            .ask(A, &[run("other", &[])])
            .sql(A, "deallocate prepare all")
            .ask(A, &[run(name, &[])])
            .ask(A, &[run("other", &[])])
    });
    compare(Postgres::shared(), &TRANSACTION, &scripts.collect::<Vec<_>>());
}

#[test]
fn names_written_with_escapes() {
    let texts = [
        r#"execute u&"\0078"(1)"#,
        r#"explain (costs off) execute U&"!0078" uescape '!' (1)"#,
        r#"prepare u&"x" as select 3"#,
        r#"prepare u&"\007" as select 3"#,
    ];
    let mut scripts: Vec<_> = [
        r#"deallocate u&"\0078""#,
        "deallocate prepare U&\"!0078\" /* c */ UESCAPE -- c\n'!'; select 1",
        r#"deallocate u&"\+000078"; deallocate u&"x""#,
        r#"deallocate u&"X""#,
    ]
    .iter()
    .flat_map(|text| {
        let in_pipeline = [step(text.split(';').next().unwrap_or_default()), sync()];
        [given_again(text, &[query(text)], 1), given_again(text, &in_pipeline, 1)]
    })
    .collect();
    scripts.extend(texts.iter().map(|text| {
        Script::new(text)
            .ask(B, &[parse("other", "select 'another client''s'"), run("other", &[])])
            .ask(A, &[parse("x", "select 'mine' where $1::int = 1"), sync()])
            .sql(A, text)
            .ask(A, &[step(text), sync()])
            .ask(A, &[run("x", &["1"])])
    }));
    scripts.push(
        Script::new("one of pgferry's")
            .ask(B, &[parse("other", "select 'another client''s'"), run("other", &[])])
            .sql(A, r#"execute u&"\0070gferry_1""#),
    );
    compare(Postgres::shared(), &TRANSACTION_TWO, &scripts);
}
