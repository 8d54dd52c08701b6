//! Session state that is made in unusual words: its client keeps it, and the next one does not have it.

use super::script::{A, B, SESSION, Script, TRANSACTION, TRANSACTION_TWO, compare, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::{bind, execute, parse, sync};

// A setting of an extension's kind that was reset is empty, not absent: PostgreSQL never forgets its name.
const MAKES: [(&str, &str); 25] = [
    ("update pg_settings set setting = '5555' where name = 'work_mem'", "show work_mem"),
    (
        "with u as (select 1) update pg_catalog.pg_settings set setting = '5555' where name = 'work_mem'",
        "show work_mem",
    ),
    ("UPDATE pg_settings s SET setting = '5555' FROM (select 1) x WHERE s.name = 'work_mem'", "show work_mem"),
    ("set local.x = 'a'", "select nullif(current_setting('local.x', true), '')"),
    ("set LOCAL . x = 'a'", "select nullif(current_setting('local.x', true), '')"),
    ("set session.x = 'a'", "select nullif(current_setting('session.x', true), '')"),
    ("set names.x = 'a'", "select nullif(current_setting('names.x', true), '')"),
    ("set schema.x = 'a'", "select nullif(current_setting('schema.x', true), ''), current_setting('search_path')"),
    ("set transaction.x = 'a'", "select nullif(current_setting('transaction.x', true), '')"),
    ("set role.x = 'a'", "select nullif(current_setting('role.x', true), ''), current_user"),
    ("set session.characteristics = 'a'", "select nullif(current_setting('session.characteristics', true), '')"),
    ("set time.zone = 'a'", "select nullif(current_setting('time.zone', true), ''), current_setting('timezone')"),
    ("set \"local\".\"X\" = 'a'", "select nullif(current_setting('local.x', true), '')"),
    ("set constraints.all to 'deferred'", "select nullif(current_setting('constraints.all', true), '')"),
    ("set xml.option = 'a'", "select nullif(current_setting('xml.option', true), '')"),
    ("set xml option document", "show xmloption"),
    ("set names 'LATIN1'", "show client_encoding"),
    ("set schema 'one_path'", "show search_path"),
    ("set time zone interval '+02:00' hour to minute", "show timezone"),
    ("set session characteristics as transaction isolation level serializable", "show default_transaction_isolation"),
    ("set catalog.x = 'a'", "select nullif(current_setting('catalog.x', true), '')"),
    (
        "select set_config(n, 'a', false) from (values ('a.computed')) v (n)",
        "select nullif(current_setting('a.computed', true), '')",
    ),
    ("set a.b.c = 'd'", "select nullif(current_setting('a.b.c', true), '')"),
    ("SET/**/work_mem/**/=/**/'5555kB'", "show work_mem"),
    ("set work_mem = '55'\n'55kB'", "show work_mem"),
];

#[test]
fn setting_in_unusual_words_stays_with_its_client() {
    let scripts: Vec<_> = MAKES
        .iter()
        .flat_map(|(makes, shows)| {
            let with =
                |script: Script| script.sql(A, shows).sql(B, shows).sql(A, shows).sql(B, "select 1").sql(A, shows);
            [
                with(Script::new(makes).sql(A, makes)),
                with(Script::new(&format!("{makes}; in extended form")).ask(A, &[step(makes), sync()])),
                with(Script::new(&format!("{makes}; among others")).sql(A, &format!("select 1; {makes}"))),
                with(
                    Script::new(&format!("{makes}; after search_path"))
                        .sql(A, "set search_path = two_path, public")
                        .sql(A, makes),
                )
                .sql(A, "show search_path"),
            ]
        })
        .collect();
    let alone = |setup: &super::script::Setup| setup.pool == "2";
    let setups: Vec<_> = TRANSACTION.into_iter().filter(alone).collect();
    compare(Postgres::shared(), &setups, &scripts);
}

#[test]
fn setting_in_unusual_words_goes_with_its_client() {
    let scripts: Vec<_> = MAKES
        .iter()
        .map(|(makes, shows)| Script::new(makes).sql(A, makes).leave(A).sql(B, shows).sql(B, "select 1").sql(B, shows))
        .collect();
    let resets: Vec<_> = SESSION.into_iter().chain(TRANSACTION).filter(|setup| setup.reset != "never").collect();
    compare(Postgres::shared(), &resets, &scripts);
}

/// In a pipeline nothing but the code's own words tells what becomes of what was set before it.
#[test]
fn setting_in_front_of_code_that_ends_the_transaction_is_what_that_makes_of_it() {
    let postgres = Postgres::start_with(&[]);
    for end in ["commit", "rollback"] {
        for (name, then) in [("s", ""), ("s_and_fails", "perform 1 / 0;")] {
            let body = format!("begin {end}; {then} end");
            postgres.sql(&format!("create procedure {end}{name}() language plpgsql as '{body}'"));
        }
    }
    let sets = ["set work_mem = '5555kB'", "reset work_mem", "set local work_mem = '5555kB'", "set a.b = 'c'"];
    let ends = [
        "call commits()",
        "call rollbacks()",
        "call commits_and_fails()",
        "call rollbacks_and_fails()",
        "do 'begin rollback; end'",
        "do 'begin rollback; perform 1 / 0; end'",
    ];
    let shows = "select current_setting('work_mem'), nullif(current_setting('a.b', true), '')";
    let script = |set: &str, end: &str, last: &str| {
        let script = Script::new(&format!("{set}, {end}, {last}")).sql(A, "set work_mem = '4444kB'; set a.b = 'd'");
        let script = script.ask(A, &[step(set), step(end), step(last), sync()]);
        script.sql(A, shows).sql(B, shows).sql(A, shows).sql(B, shows).sql(A, shows)
    };
    let all = |sets: &[&str], ends: &[&str]| {
        let pairs = sets.iter().flat_map(|set| ends.iter().map(move |end| (*set, *end)));
        pairs.flat_map(|(set, end)| ["select 1", "select 1 / 0"].map(|last| script(set, end, last))).collect::<Vec<_>>()
    };
    compare(&postgres, &TRANSACTION, &all(&sets, &ends));
    // What these leave keeps the client on its connection.
    let pinned =
        [all(&["reset all"], &ends), all(&sets, &["do 'begin commit; end'", "do 'begin commit; perform 1 / 0; end'"])]
            .concat();
    compare(&postgres, &TRANSACTION_TWO, &pinned);
}

/// A portal that is suspended has no tag that tells of what it has done.
#[test]
fn setting_by_a_suspended_portal_behind_a_rollback_stays_with_its_client() {
    let shows = "show work_mem";
    let scripts: Vec<_> =
        ["select set_config('work_mem', '5555kB', false)", "select set_config('work_mem', '5555kB', true)"]
            .into_iter()
            .map(|sets| {
                let suspended = [step("rollback"), parse("", sets), bind("", "", &[]), execute("", 1), sync()];
                let script = Script::new(sets).ask(A, &suspended);
                script.sql(B, shows).sql(A, shows).sql(B, shows).sql(A, shows).leave(A).sql(B, shows)
            })
            .collect();
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn temporary_schema_as_search_path_keeps_what_is_made_there() {
    let paths = [
        "set search_path = 'pg_temp'",
        "set search_path = 'pg_'\n'temp'",
        "set search_path = pg_temp, public",
        "set search_path to pg_temp",
        "select set_config('search_path', 'pg_temp', false)",
        "set schema 'pg_temp'",
        "begin; set search_path = pg_temp; commit",
        "set search_path = \"pg_temp\"",
    ];
    let scripts: Vec<_> = paths
        .iter()
        .map(|path| {
            Script::new(path)
                .sql(A, path)
                .sql(A, "create table unseen_temp (a int); insert into unseen_temp values (1)")
                .sql(A, "select * from unseen_temp")
                .sql(B, "select * from unseen_temp")
                .sql(B, "select to_regclass('pg_temp.unseen_temp')")
                .sql(A, "select * from unseen_temp")
                .leave(A)
                .sql(B, "select to_regclass('pg_temp.unseen_temp')")
        })
        .collect();
    let setups = [TRANSACTION[1], TRANSACTION[3], SESSION[1], SESSION[3]];
    compare(Postgres::shared(), &setups, &scripts);
}
