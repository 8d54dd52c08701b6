//! Settings of a client that came earlier: they are never those of a later one, whatever it resets and however.

use super::script::{A, B, DEFAULTS, Params, SESSION, Script, Setup, TRANSACTION, compare, run, step};
use crate::harness::protocol_client::{bind, close, describe, execute, extended, flush, parse, query, sync};
use crate::harness::{Pgferry, Postgres};

const OTHER: Params = &[
    ("DateStyle", "German, DMY"),
    ("application_name", "other"),
    ("TimeZone", "Asia/Tokyo"),
    ("client_encoding", "LATIN1"),
    ("IntervalStyle", "iso_8601"),
];
const MINE: Params = &[("application_name", "mine"), ("TimeZone", "Europe/Berlin")];

/// A name of 40 bytes: PostgreSQL compares the first 63.
const LONG: &str = "a_name_of_forty_bytes_of_which_two_makes";

const SHOWS: &str = "select current_setting('datestyle'), current_setting('application_name'), current_setting('timezone'), \
    current_setting('client_encoding'), current_setting('intervalstyle'), current_setting('work_mem'), now()::date > '2020-01-01'";

/// Another client was there; then ours says something, and looks.
fn then(name: &str, parts: &[Vec<u8>], ready: usize) -> Vec<Script> {
    let come =
        |script: Script, mine: Params| script.comes_with(A, OTHER).comes_with(B, mine).sql(A, "select 1").leave(A);
    let says =
        |script: Script| script.send(B, parts).ready(B, ready).sql(B, SHOWS).sql(B, "select 'again'").sql(B, SHOWS);
    vec![
        says(come(Script::new(&format!("{name}, with settings of its own")), MINE)),
        says(come(Script::new(&format!("{name}, without settings of its own")), &[])),
        // In the middle of its session, with a setting that it has made.
        says(
            come(Script::new(&format!("{name}, later")), MINE).sql(B, "set datestyle = 'SQL, MDY'").sql(B, "select 1"),
        ),
    ]
}

fn texts(texts: &[&str]) -> Vec<Script> {
    texts.iter().flat_map(|text| then(text, &[query(text)], 1)).collect()
}

#[test]
fn settings_after_a_reset_among_several_statements_are_the_clients_own() {
    let scripts = texts(&[
        "reset all",
        "reset all; select 1",
        "select 1; reset all",
        "reset all;;",
        "reset datestyle; select 1",
        "reset application_name; reset timezone; reset datestyle",
        "begin; reset all; commit",
        "begin; reset all; rollback",
        "reset all; select 1/0",
        "select 1/0; reset all",
        "set datestyle to default; select 1",
        "set datestyle = 'default'",
        "set datestyle to \"DEFAULT\"; select 1",
        "begin; set local datestyle = 'default'; select now()::date > '2020-01-01'; commit",
        "set timezone = default; set application_name to default",
        "set time zone default; select 1",
        "set time zone local; select 1",
        "set session timezone to default; select 1",
        "set local timezone to default; select 1",
        "set datestyle = 'YMD'; reset all; select 1",
        "reset all; set application_name = 'set'; reset application_name",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
        "do $$ begin reset all; end $$",
        "do $$ begin execute 'reset timezone'; end $$",
        "set names default; select 1",
        "reset all -- a comment\n; set application_name = 'mine too'",
        "create function pg_temp.body() returns int begin atomic select case when true then 1 end; end; reset all; select 1",
        "create procedure pg_temp.body() language sql begin /* none */ atomic end; reset timezone; select 1",
        "reset all -- a comment\n",
        "reset timezone -- a comment",
        "reset timezone /* a comment -- */; select 1 -- another",
        "set datestyle to default /* a /* nested */ comment */ -- and another\n\n ; select 1",
        "set local timezone to default",
        "begin; set local timezone to default",
    ]);
    compare(Postgres::shared(), &SESSION, &scripts);
    compare(Postgres::shared(), &[TRANSACTION[0], TRANSACTION[2]], &scripts);
}

#[test]
fn settings_after_a_reset_in_a_pipeline_are_the_clients_own() {
    let named = [parse("n", "reset all"), sync(), bind("", "n", &[]), execute("", 0), sync()].concat();
    let scripts = [
        then("RESET ALL first", &[step("reset all"), step("select 1"), sync()], 1),
        then("RESET ALL last", &[step("select 1"), step("reset all"), sync()], 1),
        then("RESET ALL between, and looked at", &[step("reset all"), step(SHOWS), sync()], 1),
        then("RESET ALL that fails with what follows", &[step("reset all"), step("select 1/0"), sync()], 1),
        then("RESET of one", &[step("reset timezone"), step("show timezone"), sync()], 1),
        then("DISCARD ALL", &[step("discard all"), sync()], 1),
        then("DISCARD ALL as a query", &[query("discard all")], 1),
        then("DISCARD ALL and a query in one write", &[query("discard all"), query(SHOWS)], 2),
        then("RESET ALL and a query in one write", &[query("reset all"), query(SHOWS)], 2),
        then("RESET ALL and an extended query in one write", &[query("reset all"), extended(SHOWS, &[])], 2),
        then("RESET ALL as a prepared statement", &[named], 2),
        then("RESET ALL in a transaction", &[query("begin"), query("reset all"), query(SHOWS), query("commit")], 4),
        then(
            "RESET ALL in a transaction that is rolled back",
            &[query("begin"), query("reset all"), query("rollback")],
            3,
        ),
        then(
            "RESET ALL to a savepoint",
            &[query("begin; savepoint s"), query("reset all"), query("rollback to s"), query("commit")],
            4,
        ),
        then(
            "RESET ALL in a failed transaction",
            &[query("begin"), query("select 1/0"), query("reset all"), query("rollback")],
            4,
        ),
        then("RESET ALL twice", &[query("reset all"), query("reset all")], 2),
        then("SET LOCAL TO DEFAULT", &[step("set local timezone to default"), step("show timezone"), sync()], 1),
        then("a comment behind it", &[step("reset all -- a comment"), step(SHOWS), sync()], 1),
        then("described and not executed", &[parse("", "reset all"), describe(b'S', ""), sync()], 1),
    ]
    .concat();
    compare(Postgres::shared(), &SESSION, &scripts);
    compare(Postgres::shared(), &[TRANSACTION[0], TRANSACTION[2]], &scripts);
}

#[test]
fn settings_after_code_that_resets_are_the_clients_own() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create function forget() returns int language plpgsql as 'begin reset all; return 1; end'; \
         create function forget_one() returns int language plpgsql as 'begin execute ''reset timezone''; return 1; end'; \
         create procedure forget_all() language plpgsql as 'begin reset all; end'; \
         create function quiet() returns int language plpgsql set datestyle = 'ISO' as 'begin return 1; end'",
    );
    let scripts = texts(&[
        "select forget()",
        "select forget_one()",
        "call forget_all()",
        "select quiet()",
        "select 1; select forget()",
        "select set_config('datestyle', reset_val, false) from pg_settings where name = 'DateStyle'",
        "select set_config('timezone', '', true)",
    ]);
    compare(&postgres, &SESSION, &scripts);
    compare(&postgres, &[TRANSACTION[0], TRANSACTION[2]], &scripts);
}

/// Whether `standard_conforming_strings` is on decides how a client escapes: it must know before it says anything more.
#[test]
fn settings_are_reported_before_the_ready_for_query_they_belong_to() {
    let with = |name: &str, mine: Params, parts: &[Vec<u8>], ready: usize| {
        Script::new(name)
            .comes_with(A, OTHER)
            .sql(A, "select 1")
            .leave(A)
            .comes_with(B, mine)
            .sql(B, "select 1")
            .sql(B, "set standard_conforming_strings = off")
            .sql(B, "set datestyle = 'German'")
            .send(B, parts)
            .ready(B, ready)
            .sql(B, "select 'it\\'")
    };
    let mut scripts = Vec::new();
    for mine in [MINE, &[]] {
        for text in [
            "reset all",
            "discard all",
            "reset standard_conforming_strings",
            "reset all; select 1",
            "reset datestyle; reset all",
            "set standard_conforming_strings to default",
            "begin; reset all; commit",
            "do $$ begin reset all; end $$",
        ] {
            scripts.push(with(text, mine, &[query(text)], 1));
            scripts.push(with(&format!("{text}; extended"), mine, &[step(text), sync()], 1));
            scripts.push(with(&format!("{text}; with another query"), mine, &[query(text), query("select 2")], 2));
        }
    }
    // What several statements in extended form get is an error, directly as well.
    compare(Postgres::shared(), &DEFAULTS, &scripts);
    compare(Postgres::shared(), &[TRANSACTION[2]], &scripts);
}

/// asyncpg.Pool gives its connections back with this, and takes them again.
#[test]
fn settings_survive_the_release_query_of_asyncpg() {
    const RELEASE: &str = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";
    let script = Script::new("ten uses")
        .comes_with(A, &[("TimeZone", "Asia/Tokyo"), ("application_name", "pool"), ("client_encoding", "utf-8")])
        .comes_with(B, OTHER)
        .ask(A, &[extended("select current_setting('timezone'), current_setting('application_name')", &[])])
        .sql(A, "set work_mem = '7MB'")
        .sql(A, RELEASE)
        .sql(A, "select current_setting('timezone'), current_setting('application_name'), current_setting('work_mem')")
        .again(5);
    let with_another = Script::new("with another client between")
        .comes_with(A, &[("TimeZone", "Asia/Tokyo"), ("application_name", "pool")])
        .comes_with(B, OTHER)
        .sql(A, "select current_setting('timezone'), current_setting('application_name')")
        .sql(A, RELEASE)
        .sql(B, SHOWS)
        .sql(B, RELEASE)
        .sql(B, SHOWS)
        .again(4);
    compare(Postgres::shared(), &DEFAULTS, std::slice::from_ref(&script));
    compare(Postgres::shared(), &TRANSACTION, &[script, with_another.clone()]);
    compare(Postgres::shared(), &super::script::SESSION_TWO, &[with_another]);
}

/// A failed transaction takes no SET beside the statement that ends it.
#[test]
fn a_named_statement_ends_a_failed_transaction_elsewhere() {
    let scripts: Vec<_> = ["rollback", "commit", "rollback to s"]
        .iter()
        .map(|text| {
            Script::new(text)
                .sql(A, "select 1")
                .ask(A, &[parse("ends", text), sync()])
                .sql(B, "begin")
                .sql(A, "set timezone = 'Asia/Tokyo'")
                .sql(A, "begin; savepoint s")
                .sql(A, "selec")
                .ask(A, &[run("ends", &[])])
                .sql(A, "rollback")
                .sql(B, "rollback")
        })
        .collect();
    compare(Postgres::shared(), &super::script::TRANSACTION_TWO, &scripts);
}

#[test]
fn settings_of_options_survive_a_reset() {
    const MINE: Params = &[("options", "-c work_mem=1234kB -c timezone=Asia/Tokyo"), ("application_name", "mine")];
    let scripts: Vec<_> =
        ["reset all; select 1", "discard all", "begin; reset all; commit", "reset work_mem; reset timezone"]
            .iter()
            .map(|text| {
                Script::new(text)
                    .comes_with(
                        A,
                        &[("options", "-c work_mem=1234kB -c timezone=Asia/Tokyo"), ("application_name", "other")],
                    )
                    .sql(A, "set work_mem = '9MB'")
                    .leave(A)
                    .comes_with(B, MINE)
                    .sql(B, text)
                    .sql(B, SHOWS)
            })
            .collect();
    compare(Postgres::shared(), &DEFAULTS, &scripts);
}

/// The server reports settings with a ReadyForQuery; a client may leave without having asked for one.
#[test]
fn settings_of_a_client_that_has_asked_for_no_answer_are_not_those_of_the_next() {
    let leaves = |name: &str, parts: &[Vec<u8>]| {
        Script::new(name)
            .comes_with(A, OTHER)
            .sql(A, "select 1")
            .leave(A)
            .sql(B, "select 1")
            .leave(B)
            .send(A, parts)
            .half_close(A)
            .gone(A)
            .leave(A)
            .sql(B, SHOWS)
            .sql(B, "select 'again'")
            .sql(B, SHOWS)
    };
    let scripts = [
        leaves("Flush", &[flush()]),
        leaves("Parse and Flush", &[parse("", "select 1"), flush()]),
        leaves("Close and Flush", &[close(b'S', ""), flush()]),
        leaves("Flush, and a query", &[flush(), flush(), query("select 1")]),
    ];
    let never = [Setup { mode: "session", reset: "never", pool: "1" }];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
    compare(Postgres::shared(), &SESSION, &scripts);
    compare(Postgres::shared(), &never, &scripts);
}

/// A DISCARD ALL is committed when it is done; what it goes back to is the client's own before anything else runs.
#[test]
fn settings_after_discard_all_are_the_clients_own_before_the_next_message() {
    let behind =
        |name: &str, parts: &[Vec<u8>], ready: usize| then(name, &[&[step("discard all")], parts].concat(), ready);
    let scripts = [
        behind("a query", &[query(SHOWS), sync()], 2),
        behind("a query that fails", &[query("select nothing"), sync(), query(SHOWS)], 3),
        behind("an error", &[parse("", "bogus"), sync()], 1),
        behind("a step", &[step(SHOWS), sync()], 1),
        behind(
            "code that sets",
            &[query("select set_config('TimeZone', 'Asia/Seoul', false)"), query(SHOWS), sync()],
            3,
        ),
        behind("a transaction", &[step("begin"), step(SHOWS), step("rollback"), sync(), query(SHOWS)], 2),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts.concat());
    compare(Postgres::shared(), &SESSION, &scripts.concat());
}

#[test]
fn settings_after_a_reset_by_a_named_statement_are_the_clients_own() {
    let named = |sql: &str| [parse("n", sql), bind("", "n", &[]), execute("", 0)].concat();
    let again = || [bind("", "n", &[]), execute("", 0)].concat();
    let freed = || [close(b'S', "n"), parse("n", "set timezone = 'Asia/Seoul'")].concat();
    let scripts = [
        then("RESET", &[named("reset timezone"), sync()], 1),
        then("RESET ALL, and a look at it", &[named("reset all"), step(SHOWS), sync()], 1),
        then("SET TO DEFAULT, and a look at it", &[named("set datestyle to default"), step(SHOWS), sync()], 1),
        then("DISCARD ALL", &[named("discard all"), step(SHOWS), sync()], 1),
        then("prepared before", &[parse("n", "reset all"), sync(), again(), step(SHOWS), sync()], 2),
        then(
            "names of more than 63 bytes",
            &[
                parse(&LONG.repeat(2), "reset all"),
                bind(&LONG.repeat(3), &LONG.repeat(4), &[]),
                execute(&LONG.repeat(2), 0),
                step(SHOWS),
                sync(),
            ],
            1,
        ),
        then("a name that is given again", &[named("reset all"), freed(), again(), step(SHOWS), sync()], 1),
        then(
            "a name that can't be given again",
            &[named("reset all"), sync(), parse("n", "select 1"), sync(), again(), step(SHOWS), sync()],
            3,
        ),
        then(
            "a name that can't be given to a reset",
            &[
                parse("n", "set timezone = 'Asia/Seoul'"),
                sync(),
                parse("n", "reset all"),
                sync(),
                again(),
                step(SHOWS),
                sync(),
            ],
            3,
        ),
    ];
    compare(Postgres::shared(), &SESSION, &scripts.concat());
    compare(Postgres::shared(), &TRANSACTION, &scripts.concat());
}

#[test]
fn settings_after_a_hidden_reset_behind_a_plain_set_are_the_clients_own() {
    let hidden = |name: &str, parts: &[Vec<u8>], ready: usize| {
        Script::new(name)
            .aside(
                "create or replace function resets_all() returns text language plpgsql \
                 as $f$ begin execute 'reset all'; return 'done'; end $f$",
            )
            .comes_with(A, OTHER)
            .send(A, parts)
            .ready(A, ready)
            .sql(A, SHOWS)
            .sql(A, "select 'again'")
            .sql(A, SHOWS)
    };
    let set = "set datestyle = 'ISO, MDY'; select resets_all()";
    let scripts = [
        hidden("in one text", &[query(set)], 1),
        hidden("in a transaction", &[query(&format!("begin; {set}"))], 1),
        hidden("in a pipeline", &[step("set datestyle = 'ISO, MDY'"), step("select resets_all()"), sync()], 1),
        hidden("without a reset", &[query("set datestyle = 'ISO, MDY'")], 1),
        hidden("without a reset, in a transaction", &[query("begin; set datestyle = 'ISO, MDY'")], 1),
    ];
    compare(Postgres::shared(), &SESSION, &scripts);
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

/// A connection is opened with what the startup packet of its client has asked for, and not with what the client has set since.
#[test]
fn code_that_resets_goes_back_to_the_startup_packet_on_a_new_connection() {
    let postgres = Postgres::start_with(&["timezone='UTC'"]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "2"]);
    let (mut one, mut other) = (ferry.session(), ferry.session());
    one.query("set timezone = 'Asia/Tokyo'");
    other.query("begin; select 1");
    assert_eq!(one.value("show timezone"), "Asia/Tokyo");
    one.query("do $$ begin reset all; end $$");
    assert_eq!(one.value("show timezone"), "UTC");
    other.query("rollback");
}
