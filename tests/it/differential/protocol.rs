//! Scripts for all of the protocol: what a client sends, and how far it reads between.

use crate::harness::protocol_client::{
    bind, close, copy_data, copy_done, copy_fail, describe, execute, extended, flush, function_call, message, parse,
    query, sync, terminate,
};

/// What a script does next.
pub enum Step {
    Send(Vec<u8>),
    /// Sends one byte at a time.
    Drip(Vec<u8>),
    /// Reads up to this many ReadyForQuery.
    Ready(usize),
    /// Reads up to a message of this type.
    Until(u8),
    /// Reads to the end of the connection.
    End,
}

/// A script and its name.
pub type Script = (&'static str, Vec<Step>);

use Step::{Drip, End, Ready, Send, Until};

/// Sends everything, then waits for this many ReadyForQuery.
pub fn all(parts: &[Vec<u8>], ready: usize) -> Vec<Step> {
    vec![Send(parts.concat()), Ready(ready)]
}

pub fn one_by_one(queries: &[&str]) -> Vec<Step> {
    queries.iter().flat_map(|sql| [Send(query(sql)), Ready(1)]).collect()
}

/// A query whose answer tells what state the session is in.
fn probe() -> Vec<Step> {
    one_by_one(&["select current_setting('timezone'), current_setting('application_name'), current_user"])
}

/// Uses a named statement, on its own.
pub fn run(name: &str, params: &[&str]) -> Vec<u8> {
    [bind("", name, params), describe(b'P', ""), execute("", 0), sync()].concat()
}

/// Each part on its own, waiting for its answer.
pub fn each(parts: &[Vec<u8>]) -> Vec<Step> {
    parts.iter().flat_map(|part| [Send(part.clone()), Ready(1)]).collect()
}

#[expect(clippy::too_many_lines, reason = "a table of scripts")]
pub fn protocol() -> Vec<Script> {
    let big = "x".repeat(300_000);
    let scripts = vec![
        ("simple query", one_by_one(&["select 1", "select 'a', null, 2.5"])),
        ("empty query", one_by_one(&["", ";", " ; ; ", "-- nothing"])),
        ("several statements", one_by_one(&["select 1; select 2; create temp table t (a int); drop table t"])),
        ("an error in the middle of several", one_by_one(&["select 1; select 1/0; select 2", "select 3"])),
        ("a transaction", one_by_one(&["begin", "select 1", "commit", "select 2"])),
        ("a failed transaction", one_by_one(&["begin", "select 1/0", "select 1", "rollback", "select 2"])),
        ("begin inside a multi-statement query", one_by_one(&["begin; select 1", "select 2", "end"])),
        ("commit and chain", one_by_one(&["begin", "commit and chain", "select 1", "rollback and chain", "commit"])),
        ("savepoints", one_by_one(&["begin", "savepoint a", "select 1/0", "rollback to a", "select 1", "commit"])),
        ("commit of a failed transaction", one_by_one(&["begin", "select 1/0", "commit", "select 1"])),
        ("warnings", one_by_one(&["commit", "rollback", "begin", "begin", "commit"])),
        ("notices", one_by_one(&["do $$ begin raise notice 'hello'; raise warning 'there'; end $$"])),
        ("extended query", all(&[extended("select $1::int + 1", &["41"])], 1)),
        ("extended, error in parse", all(&[extended("selec 1", &[]), extended("select 1", &[])], 2)),
        ("extended, error in bind", all(&[extended("select $1::int", &["x"]), extended("select 1", &[])], 2)),
        ("extended, error in execute", all(&[extended("select 1/0", &[]), extended("select 1", &[])], 2)),
        (
            "extended, everything skipped until sync, queries too",
            all(&[parse("", "selec"), query("select 1"), bind("", "", &[]), sync(), query("select 2")], 2),
        ),
        ("extended, empty statement", all(&[extended("", &[])], 1)),
        ("describe of a statement", all(&[parse("", "select $1::int as a"), describe(b'S', ""), sync()], 1)),
        ("describe without rows", all(&[parse("", "commit"), describe(b'S', ""), sync()], 1)),
        (
            "named statement",
            vec![
                Send([parse("s", "select $1::text"), sync()].concat()),
                Ready(1),
                Send([bind("", "s", &["a"]), execute("", 0), sync()].concat()),
                Ready(1),
                Send([bind("", "s", &["b"]), execute("", 0), close(b'S', "s"), sync()].concat()),
                Ready(1),
                Send([bind("", "s", &["c"]), execute("", 0), sync()].concat()),
                Ready(1),
            ],
        ),
        ("named statement twice", all(&[parse("s", "select 1"), parse("s", "select 2"), sync()], 1)),
        ("close of what is not there", all(&[close(b'S', "nobody"), close(b'P', "nobody"), sync()], 1)),
        (
            "a portal with a row limit",
            all(
                &[
                    query("begin"),
                    parse("", "select n from numbers order by n limit 10"),
                    bind("p", "", &[]),
                    execute("p", 3),
                    execute("p", 3),
                    sync(),
                    execute("p", 0),
                    sync(),
                    query("commit"),
                ],
                4,
            ),
        ),
        (
            "a suspended portal dies at sync outside a transaction",
            all(
                &[
                    parse("", "select n from numbers"),
                    bind("p", "", &[]),
                    execute("p", 1),
                    sync(),
                    execute("p", 1),
                    sync(),
                ],
                2,
            ),
        ),
        (
            "flush without sync",
            vec![
                Send([parse("", "select 1"), describe(b'S', ""), flush()].concat()),
                Until(b'T'),
                Send([bind("", "", &[]), execute("", 0), flush()].concat()),
                Until(b'C'),
                Send(sync()),
                Ready(1),
            ],
        ),
        (
            "an error is flushed before sync",
            vec![
                Send([parse("", "selec"), flush()].concat()),
                Until(b'E'),
                Send(query("select 1")),
                Send(sync()),
                Ready(1),
            ],
        ),
        ("sync alone", all(&[sync(), sync(), sync()], 3)),
        ("flush alone, then a query", all(&[flush(), query("select 1")], 1)),
        ("pipelined syncs", all(&[extended("select 1", &[]), extended("select 2", &[]), extended("select 3", &[])], 3)),
        ("pipelined simple queries", all(&[query("select 1"), query("select 1/0"), query("select 3")], 3)),
        (
            "an insert pipelined with its commit",
            all(
                &[
                    query("begin"),
                    extended("insert into copied values ($1::int)", &["1"]),
                    query("rollback"),
                    query("select count(*) from copied"),
                ],
                4,
            ),
        ),
        (
            "a deferred constraint fails in the sync's commit",
            all(
                &[
                    parse("", "insert into deferred values (1), (1)"),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                    query("select 1"),
                ],
                2,
            ),
        ),
        (
            "copy in",
            vec![
                Send(query("begin")),
                Ready(1),
                Send(query("copy copied from stdin")),
                Until(b'G'),
                Send([copy_data(b"1\tone\n"), copy_data(b"2\ttwo\n"), copy_done()].concat()),
                Ready(1),
                Send([query("select * from copied"), query("rollback")].concat()),
                Ready(2),
            ],
        ),
        (
            "copy in, everything ahead",
            all(
                &[
                    query("begin"),
                    query("copy copied from stdin"),
                    copy_data(b"1\tone\n"),
                    copy_done(),
                    query("rollback"),
                ],
                3,
            ),
        ),
        (
            "copy in, bad data, late copy messages",
            all(
                &[
                    query("copy copied from stdin"),
                    copy_data(b"x\n"),
                    copy_data(b"y\n"),
                    copy_done(),
                    query("select 1"),
                    copy_done(),
                    query("select 2"),
                ],
                3,
            ),
        ),
        (
            "copy in, client gives up",
            all(&[query("copy copied from stdin"), copy_data(b"1\tone\n"), copy_fail("no more"), query("select 1")], 2),
        ),
        (
            "copy in, extended, sync before the data",
            vec![
                Send(query("begin")),
                Ready(1),
                Send([parse("", "copy copied from stdin"), bind("", "", &[]), execute("", 0), sync()].concat()),
                Until(b'G'),
                Send([copy_data(b"1\tone\n"), copy_done(), sync()].concat()),
                Ready(1),
                Send(query("rollback")),
                Ready(1),
            ],
        ),
        (
            "copy in, extended, bad data",
            vec![
                Send([parse("", "copy copied from stdin"), bind("", "", &[]), execute("", 0), flush()].concat()),
                Until(b'G'),
                Send([copy_data(b"x\n"), copy_done(), sync(), query("select 1")].concat()),
                Ready(2),
            ],
        ),
        ("copy out", one_by_one(&["copy (select n from numbers order by n) to stdout", "select 1"])),
        ("copy out, extended", all(&[extended("copy (select 1 where false) to stdout", &[]), query("select 1")], 2)),
        ("function call", all(&[function_call(2_323, &["-7"]), query("select 1")], 2)),
        ("function call that fails", all(&[function_call(1, &[]), query("select 1")], 2)),
        (
            "listen and notify",
            one_by_one(&["listen a", "notify a, 'b'", "select 1", "unlisten a", "notify a", "select 2"]),
        ),
        (
            "set and show",
            one_by_one(&["set timezone = 'Asia/Tokyo'", "show timezone", "reset timezone", "show timezone"]),
        ),
        (
            "set local",
            one_by_one(&["begin; set local timezone = 'Asia/Tokyo'", "show timezone", "commit", "show timezone"]),
        ),
        ("a rejected set", one_by_one(&["set timezone = 'Nowhere/Land'", "show timezone"])),
        ("discard all", one_by_one(&["set timezone = 'Asia/Tokyo'", "discard all", "show timezone"])),
        ("a cursor with hold", one_by_one(&["declare c cursor with hold for select 7", "fetch all from c", "close c"])),
        ("prepare and execute", one_by_one(&["prepare p as select 7", "execute p", "deallocate p", "execute p"])),
        (
            "temporary tables",
            one_by_one(&[
                "create temp table tt (a int)",
                "insert into tt values (1)",
                "select a + 0 from tt",
                "drop table tt",
            ]),
        ),
        ("set role", one_by_one(&["set role limited", "select current_user", "reset role", "select current_user"])),
        ("a statement timeout", one_by_one(&["set statement_timeout = 300", "select pg_sleep(5)", "select 1"])),
        ("a query larger than any buffer", one_by_one(&[&format!("select length('{big}')"), "select 1"])),
        ("a parameter larger than any buffer", all(&[extended("select length($1)", &[&big]), query("select 1")], 2)),
        ("a row larger than any buffer", one_by_one(&["select repeat('y', 1000000)", "select 1"])),
        ("many rows", one_by_one(&["select n, repeat('z', 100) from generate_series(1, 5000) n"])),
        (
            "a statement name larger than any buffer",
            all(&[parse(&big[..9000], "select 1"), bind("", &big[..9000], &[]), execute("", 0), sync()], 1),
        ),
        ("one byte at a time", vec![Drip([query("select 1"), extended("select $1", &["x"])].concat()), Ready(2)]),
        ("an unknown message type", vec![Send(message(b'!', b"?")), End]),
        (
            "an unknown message type after a query",
            vec![Send(query("select 1")), Ready(1), Send(message(b'y', b"")), End],
        ),
        ("terminate", vec![Send(terminate()), End]),
        ("terminate behind a query", vec![Send([query("select 1"), terminate()].concat()), End]),
        ("terminate in a transaction", vec![Send([query("begin; select 1"), terminate()].concat()), End]),
        ("a broken parse message", all(&[message(b'P', b"no terminator"), sync(), query("select 1")], 2)),
        ("a bind that names no statement", all(&[bind("", "missing", &[]), execute("", 0), sync()], 1)),
        ("the backend ends itself", vec![Send(query("select pg_terminate_backend(pg_backend_pid())")), End]),
    ];
    with_probes(scripts)
}

/// Lets each script that does not end the connection end in a look at the session.
pub fn with_probes(mut scripts: Vec<Script>) -> Vec<Script> {
    for (_, script) in &mut scripts {
        let ends = matches!(script.last(), Some(End));
        if !ends {
            script.extend(probe());
        }
    }
    scripts
}
