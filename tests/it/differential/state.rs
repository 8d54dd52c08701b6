//! Scripts for what a client's session remembers: prepared statements, settings, and all that keeps it on a connection.

use super::protocol::Step::{Ready, Send, Until};
use super::protocol::{Script, all, one_by_one, with_probes};
use crate::harness::raw::{bind, close, describe, execute, extended, flush, parse, query, sync};

/// Uses a named statement, on its own.
fn run(name: &str, params: &[&str]) -> Vec<u8> {
    [bind("", name, params), describe(b'P', ""), execute("", 0), sync()].concat()
}

/// Each part on its own, waiting for its answer.
fn each(parts: &[Vec<u8>]) -> Vec<super::Step> {
    parts.iter().flat_map(|part| [Send(part.clone()), Ready(1)]).collect()
}

pub fn statements() -> Vec<Script> {
    let name = "n".repeat(9_500);
    let longer = "n".repeat(40_000);
    let big = format!("select length('{}')", "x".repeat(3_000_000));
    let prepared = |sql: &str| [parse("s", sql), sync()].concat();
    with_probes(vec![
        (
            "prepared once, run in other transactions",
            each(&[
                prepared("select $1::text"),
                run("s", &["a"]),
                run("s", &["b"]),
                query("select 1"),
                run("s", &["c"]),
            ]),
        ),
        (
            "described in another transaction",
            each(&[prepared("select $1::int + 1 as x"), [describe(b'S', "s"), sync()].concat(), run("s", &["4"])]),
        ),
        (
            "a statement that fails to parse",
            each(&[prepared("selec"), run("s", &[]), prepared("select 1"), run("s", &[])]),
        ),
        (
            "a failed parse among others",
            all(
                &[
                    parse("a", "select 'a'"),
                    parse("b", "selec"),
                    parse("c", "select 'c'"),
                    sync(),
                    run("a", &[]),
                    run("b", &[]),
                    run("c", &[]),
                    [parse("c", "select 'c'"), sync()].concat(),
                    run("c", &[]),
                ],
                6,
            ),
        ),
        (
            "a close that is skipped",
            all(
                &[
                    prepared("select 's'"),
                    [parse("", "selec"), close(b'S', "s"), parse("t", "select 't'"), sync()].concat(),
                    run("s", &[]),
                    run("t", &[]),
                ],
                4,
            ),
        ),
        ("a name taken", each(&[prepared("select 1"), prepared("select 2"), prepared("selec"), run("s", &[])])),
        (
            "closed and prepared again",
            each(&[
                prepared("select 1"),
                [close(b'S', "s"), parse("s", "select 2"), sync()].concat(),
                run("s", &[]),
                [close(b'S', "s"), close(b'S', "s"), sync()].concat(),
                run("s", &[]),
            ]),
        ),
        (
            "two names for one text",
            each(&[
                [parse("a", "select 1"), parse("b", "select 1"), sync()].concat(),
                [close(b'S', "a"), sync()].concat(),
                run("b", &[]),
                run("a", &[]),
            ]),
        ),
        ("the same text with other types", {
            let typed = |name: &str, oid: u32| {
                let mut body = format!("{name}\0select $1\0").into_bytes();
                body.extend([0, 1]);
                body.extend(oid.to_be_bytes());
                crate::harness::raw::message(b'P', &body)
            };
            each(&[
                [typed("i", 23), typed("t", 25), sync()].concat(),
                run("i", &["1"]),
                run("t", &["x"]),
                run("i", &["x"]),
            ])
        }),
        (
            "a malformed parse",
            each(&[
                [crate::harness::raw::message(b'P', b"s\0select 1\0\0\x05"), sync()].concat(),
                prepared("select 1"),
                run("s", &[]),
            ]),
        ),
        (
            "in a transaction that fails",
            each(&[
                query("begin"),
                prepared("select 1"),
                query("select 1/0"),
                run("s", &[]),
                [parse("t", "select 2"), sync()].concat(),
                [parse("r", "rollback"), sync()].concat(),
                run("r", &[]),
                run("s", &[]),
                run("t", &[]),
            ]),
        ),
        (
            "a known text in a failed transaction",
            each(&[
                prepared("select 1"),
                query("begin"),
                query("select 1/0"),
                [parse("t", "select 1"), sync()].concat(),
                query("rollback"),
                run("t", &[]),
                run("s", &[]),
            ]),
        ),
        (
            "many in one pipeline",
            all(
                &[
                    (0..300)
                        .flat_map(|n| {
                            [
                                parse(&format!("s{n}"), &format!("select {n}")),
                                bind("", &format!("s{n}"), &[]),
                                execute("", 0),
                            ]
                        })
                        .collect::<Vec<_>>()
                        .concat(),
                    sync(),
                    run("s0", &[]),
                    run("s299", &[]),
                    [close(b'S', "s7"), sync()].concat(),
                    run("s7", &[]),
                    run("s8", &[]),
                ],
                6,
            ),
        ),
        (
            "many in a pipeline that fails in the middle",
            all(
                &[
                    (0..300)
                        .flat_map(|n| parse(&format!("s{n}"), if n == 230 { "selec" } else { "select 1" }))
                        .collect(),
                    sync(),
                    run("s0", &[]),
                    run("s229", &[]),
                    run("s231", &[]),
                ],
                4,
            ),
        ),
        (
            "with flushes",
            vec![
                Send([parse("s", "select $1::text"), describe(b'S', "s"), flush()].concat()),
                Until(b'T'),
                Send([bind("", "s", &["x"]), execute("", 0), flush()].concat()),
                Until(b'C'),
                Send([close(b'S', "s"), flush()].concat()),
                Until(b'3'),
                Send(sync()),
                Ready(1),
            ],
        ),
        (
            "deallocate all",
            each(&[prepared("select 1"), query("deallocate all"), run("s", &[]), prepared("select 2"), run("s", &[])]),
        ),
        (
            "deallocate all and prepared again in one go",
            all(&[prepared("select 1"), query("deallocate all"), prepared("select 2"), run("s", &[])], 4),
        ),
        (
            "deallocate all among others, and by a function",
            each(&[
                prepared("select 1"),
                query("select 1; deallocate all"),
                run("s", &[]),
                prepared("select 2"),
                query("do $$ begin execute 'deallocate all'; end $$"),
                query("select 1"),
            ]),
        ),
        (
            "discard all",
            each(&[prepared("select 1"), query("discard all"), run("s", &[]), prepared("select 2"), run("s", &[])]),
        ),
        (
            "sql sees it",
            each(&[
                prepared("select $1::text || '!'"),
                query("execute s('sql')"),
                query("explain (costs off) execute s('x')"),
                query("deallocate s"),
                run("s", &["x"]),
                query("execute s('sql')"),
            ]),
        ),
        (
            "sql in the extended protocol sees it",
            each(&[
                prepared("select 'x'"),
                extended("execute s", &[]),
                extended("deallocate s", &[]),
                extended("execute s", &[]),
            ]),
        ),
        (
            "the protocol sees what sql prepared",
            each(&[query("prepare s as select 'sql'"), run("s", &[]), query("deallocate s"), run("s", &[])]),
        ),
        ("wrong number of parameters", each(&[prepared("select $1::text"), run("s", &[]), run("s", &["a", "b"])])),
        (
            "a name longer than any buffer",
            each(&[
                [parse(&name, "select 'long'"), describe(b'S', &name), sync()].concat(),
                run(&name, &[]),
                [close(b'S', &name), sync()].concat(),
                run(&name, &[]),
            ]),
        ),
        (
            "a name too long to be described",
            each(&[[parse(&longer, "select 'longer'"), sync()].concat(), run(&longer, &[]), run(&longer[1..], &[])]),
        ),
        (
            "a text longer than can be kept",
            each(&[prepared(&big), run("s", &[]), query("select 1"), run("s", &[]), prepared("select 1")]),
        ),
        (
            "a long text among short ones",
            each(&[prepared(&big[..500_000]), prepared("select 1"), query("select 1"), run("s", &[])]),
        ),
        (
            "a parameter larger than any buffer",
            each(&[prepared("select length($1)"), run("s", &[&big[..200_000]]), run("s", &["x"])]),
        ),
        (
            "the table it reads changes",
            each(&[
                query("create table changing_table as select 1 as a"),
                prepared("select * from changing_table"),
                run("s", &[]),
                query("drop table changing_table"),
                run("s", &[]),
                query("select 1"),
            ]),
        ),
        (
            "portals with names",
            all(
                &[
                    prepared("select n from numbers order by n limit 5"),
                    query("begin"),
                    [
                        bind("p1", "s", &[]),
                        bind("p2", "s", &[]),
                        execute("p1", 2),
                        execute("p2", 3),
                        execute("p1", 0),
                        sync(),
                    ]
                    .concat(),
                    [close(b'P', "p2"), execute("p2", 0), sync()].concat(),
                    query("rollback"),
                ],
                5,
            ),
        ),
        (
            "a batch with a query in it, failing",
            all(
                &[
                    prepared("select 1/$1::int"),
                    bind("", "s", &["0"]),
                    execute("", 0),
                    query("select 'skipped'"),
                    sync(),
                    run("s", &["1"]),
                ],
                3,
            ),
        ),
        (
            "the unnamed statement bound again and again",
            each(&[
                [parse("", "select $1::text"), describe(b'S', ""), sync()].concat(),
                run("", &["a"]),
                run("", &["b"]),
                query("select 1"),
                run("", &["c"]),
            ]),
        ),
        (
            "the unnamed statement fails to parse",
            each(&[[parse("", "select 1"), sync()].concat(), [parse("", "selec"), sync()].concat(), run("", &[])]),
        ),
    ])
}

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

pub fn pins() -> Vec<Script> {
    with_probes(vec![
        (
            "temporary tables",
            one_by_one(&[
                "create temp table tt (a int)",
                "insert into tt values (1)",
                "select a + 0 from tt",
                "drop table tt",
                "select 1",
                "select * from tt",
            ]),
        ),
        (
            "on commit drop",
            one_by_one(&[
                "begin; create temp table tt (a int) on commit drop",
                "insert into tt values (1)",
                "commit",
                "drop table if exists tt",
                "select 1",
            ]),
        ),
        (
            "a temporary table hides another",
            each(&[
                [parse("a", "select v from hidden"), sync()].concat(),
                run("a", &[]),
                query("create temp table hidden as select 'here' as v"),
                [parse("b", "select v from hidden"), sync()].concat(),
                run("b", &[]),
                query("drop table pg_temp.hidden"),
                run("a", &[]),
                run("b", &[]),
            ]),
        ),
        (
            "temporary views and functions",
            one_by_one(&[
                "create temp view tv as select 7",
                "select * from tv",
                "create function pg_temp.f() returns int language sql as 'select 8'",
                "select pg_temp.f()",
                "drop view tv",
                "select pg_temp.f()",
                "drop function pg_temp.f()",
                "select 1",
            ]),
        ),
        (
            "listening",
            one_by_one(&[
                "listen a",
                "listen b",
                "unlisten a",
                "notify b, 'x'",
                "unlisten *",
                "notify b, 'y'",
                "select 1",
            ]),
        ),
        (
            "listening, rolled back",
            one_by_one(&["begin; listen a", "rollback", "notify a", "unlisten *", "notify a", "select 1"]),
        ),
        (
            "sql's prepare",
            one_by_one(&[
                "prepare a as select 1",
                "prepare b as select 2",
                "execute a",
                "deallocate a",
                "execute b",
                "deallocate b",
                "execute b",
            ]),
        ),
        (
            "cursors with hold",
            one_by_one(&[
                "begin; declare c cursor with hold for select n from numbers order by n limit 3",
                "fetch 1 from c",
                "commit",
                "fetch 1 from c",
                "close c",
                "fetch 1 from c",
            ]),
        ),
        (
            "cursors without",
            one_by_one(&[
                "begin; declare c cursor for select n from numbers order by n limit 3",
                "fetch 1 from c",
                "commit",
                "fetch 1 from c",
            ]),
        ),
        (
            "session locks",
            one_by_one(&[
                "select pg_advisory_lock(77)",
                "select pg_advisory_lock(77)",
                "select pg_advisory_unlock(77)",
                "select 1",
                "select pg_advisory_unlock(77)",
                "select pg_advisory_unlock(77)",
            ]),
        ),
        (
            "locks by a prepared statement",
            each(&[
                [parse("lock", "select pg_advisory_lock($1)"), sync()].concat(),
                query("select 1"),
                run("lock", &["78"]),
                query("select pg_advisory_unlock(78)"),
                query("select pg_advisory_unlock_all()"),
            ]),
        ),
        (
            "roles",
            one_by_one(&[
                "set role limited",
                "select current_user, session_user",
                "select 1",
                "reset role",
                "select current_user",
                "set session authorization limited",
                "select current_user, session_user",
                "reset session authorization",
                "select 1",
            ]),
        ),
        (
            "local roles",
            one_by_one(&["begin; set local role limited", "select current_user", "commit", "select current_user"]),
        ),
        (
            "sequences in a transaction",
            one_by_one(&[
                "begin",
                "select nextval('in_a_transaction') > 0",
                "select currval('in_a_transaction') = lastval()",
                "commit",
                "select lastval() > 0",
            ]),
        ),
        (
            "do blocks",
            one_by_one(&[
                "do $$ begin perform set_config('a.b', 'x', false); end $$",
                "select coalesce(current_setting('a.b', true), '')",
            ]),
        ),
    ])
}
