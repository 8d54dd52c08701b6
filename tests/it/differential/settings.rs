//! Scripts for what a client has set.

use super::protocol::{Script, all, each, one_by_one, run, with_probes};
use crate::harness::protocol_client::{bind, execute, extended, parse, query, sync};

#[expect(clippy::too_many_lines, reason = "a table of scripts")]
pub fn settings() -> Vec<Script> {
    // A setting of nobody's that has been reset once is empty from then on, which no RESET undoes: a stated limit.
    let show = "select current_setting('search_path'), current_setting('work_mem'), current_setting('timezone'), \
        coalesce(current_setting('a.b', true), ''), current_setting('datestyle'), current_setting('application_name')";
    let watched = |queries: &[&str]| one_by_one(&queries.iter().flat_map(|sql| [*sql, show]).collect::<Vec<_>>());
    with_probes(vec![
        (
            "sets",
            watched(&[
                "set search_path = pg_catalog, \"X y\"",
                "set work_mem to '5MB'",
                "set a.b = c",
                "reset work_mem",
            ]),
        ),
        (
            "reported sets",
            watched(&[
                "set timezone = 'Europe/Berlin'",
                "set datestyle = german",
                "set time zone 3",
                "set names 'latin1'",
            ]),
        ),
        ("an empty application_name", watched(&["set application_name = 'x'", "set application_name = ''"])),
        (
            "resets",
            watched(&[
                "set search_path = x",
                "set timezone = 'GMT'",
                "reset search_path",
                "reset timezone",
                "set a.b = c",
                "reset all",
            ]),
        ),
        (
            "to default",
            watched(&[
                "set search_path = x",
                "set search_path to default",
                "set timezone = 'GMT'",
                "set timezone to default",
            ]),
        ),
        (
            "discard all",
            watched(&["set search_path = x", "set timezone = 'GMT'", "set application_name = 'x'", "discard all"]),
        ),
        (
            "values that are keywords elsewhere",
            one_by_one(&[
                "set synchronous_commit to local",
                "show synchronous_commit",
                "set synchronous_commit = LOCAL; select 1",
                "show synchronous_commit",
                "set time zone 'Asia/Tokyo'",
                "set time zone local",
                "show timezone",
                "set timezone to local",
                "show timezone",
            ]),
        ),
        ("in a transaction", watched(&["begin", "set search_path = x", "set timezone = 'GMT'", "commit", "select 1"])),
        (
            "rolled back",
            watched(&["set a.b = before", "begin", "set a.b = c", "set timezone = 'GMT'", "rollback", "select 1"]),
        ),
        ("failed", watched(&["begin", "set a.b = c", "select 1/0", "commit"])),
        (
            "local",
            watched(&["begin", "set local a.b = c", "set local timezone = 'GMT'", "commit", "set local a.b = d"]),
        ),
        (
            "savepoints",
            watched(&[
                "begin",
                "set a.b = one",
                "savepoint s",
                "set a.b = two",
                "set timezone = 'GMT'",
                "rollback to s",
                "release s",
                "commit",
            ]),
        ),
        (
            "savepoints in one text",
            watched(&[
                "begin; set a.b = one; savepoint s; set a.b = two; rollback to s",
                "set work_mem = '7MB'",
                "commit",
            ]),
        ),
        ("several in one text", watched(&["set a.b = one; set work_mem = '6MB'", "select 1; set a.b = two"])),
        (
            "a text that fails",
            watched(&["set a.b = one; select 1/0", "set a.b = two", "set work_mem = lots", "set no_such_setting = 1"]),
        ),
        (
            "chained",
            watched(&["begin", "set a.b = one", "commit and chain", "set a.b = two", "rollback and chain", "commit"]),
        ),
        (
            "set_config",
            watched(&[
                "select set_config('a.b', 'x', false)",
                "select set_config('a.b', 'y', true)",
                "begin; select set_config('a.b', 'z', true)",
                "commit",
            ]),
        ),
        (
            "in the extended protocol",
            each(&[
                extended("set a.b = one", &[]),
                query(show),
                [parse("p", "set a.b = two"), sync()].concat(),
                query(show),
                [bind("", "p", &[]), execute("", 0), sync()].concat(),
                query(show),
                extended("set timezone = 'GMT'", &[]),
                query(show),
                extended("reset all", &[]),
                query(show),
            ]),
        ),
        (
            "an implicit transaction that fails",
            all(
                &[
                    [parse("", "set a.b = one"), bind("", "", &[]), execute("", 0)].concat(),
                    [parse("", "select 1/0"), bind("", "", &[]), execute("", 0), sync()].concat(),
                    query(show),
                ],
                2,
            ),
        ),
        (
            "all in one pipeline",
            all(
                &[
                    query("begin"),
                    query("set a.b = one"),
                    extended("set work_mem = '9MB'", &[]),
                    query("commit"),
                    query(show),
                    query("reset a.b"),
                    query(show),
                    query("discard all"),
                    query(show),
                ],
                9,
            ),
        ),
        (
            "characters",
            one_by_one(&[
                "set client_encoding = latin1",
                "select 'abc'",
                "set standard_conforming_strings = off",
                "select 'a\\\\b'",
                "reset all",
                "select 'a\\\\b'",
            ]),
        ),
        (
            "read only",
            watched(&[
                "set default_transaction_read_only = on",
                "create table never (a int)",
                "reset default_transaction_read_only",
            ]),
        ),
        (
            "characteristics",
            watched(&["set session characteristics as transaction read only", "create table never (a int)"]),
        ),
        (
            "prepared under a path",
            each(&[
                query("set search_path = one_path"),
                [parse("s", "select v from pathed"), sync()].concat(),
                run("s", &[]),
                query("set search_path = two_path"),
                run("s", &[]),
                query("begin; set local search_path = one_path"),
                run("s", &[]),
                query("commit"),
                run("s", &[]),
            ]),
        ),
        (
            "prepared in another zone",
            each(&[
                [parse("s", "select '2020-01-01 00:00'::timestamptz::text, '1/2/2020'::date::text"), sync()].concat(),
                query("set timezone = 'Asia/Tokyo'"),
                query("set datestyle = 'ISO, DMY'"),
                run("s", &[]),
                query("begin"),
                run("s", &[]),
                query("commit"),
                query("set client_encoding = latin1"),
                run("s", &[]),
                query("discard all"),
            ]),
        ),
        (
            "a set run by sql",
            each(&[
                [parse("s", "set work_mem = '7MB'"), sync()].concat(),
                query("execute s"),
                query("show work_mem"),
                query("discard all"),
            ]),
        ),
        (
            "prepared in a zone",
            each(&[
                query("begin"),
                query("set local timezone = 'Asia/Tokyo'"),
                [parse("s", "select '2020-01-01 00:00'::timestamptz at time zone 'UTC'"), sync()].concat(),
                run("s", &[]),
                query("commit"),
            ]),
        ),
    ])
}
