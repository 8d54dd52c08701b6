//! Scripts for what a client has prepared.

use super::protocol::Step::{Ready, Send, Until};
use super::protocol::{Script, all, each, run, with_probes};
use crate::harness::protocol_client::{bind, close, describe, execute, extended, flush, parse, query, sync};

/// Parses a text, and runs it.
fn extended_without_sync(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

#[expect(clippy::too_many_lines, reason = "a table of scripts")]
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
            "texts behind a SET that is not reported yet",
            each(&[
                [
                    extended_without_sync("set standard_conforming_strings = off"),
                    parse("s", r"select 'a\\b', timestamptz '2026-01-02 03:04Z'"),
                    extended_without_sync("set datestyle = 'German'"),
                    parse("t", "select '1.2.2026'::date"),
                    extended_without_sync("select set_config('timezone', 'Asia/Tokyo', false)"),
                    parse("u", "select timestamptz '2026-01-02 03:04'"),
                    parse("", r"select 'c\\d'"),
                    sync(),
                ]
                .concat(),
                [bind("", "", &[]), execute("", 0), sync()].concat(),
                run("s", &[]),
                run("t", &[]),
                run("u", &[]),
                query("reset standard_conforming_strings"),
                run("s", &[]),
            ]),
        ),
        (
            "a statement that must not run in a transaction block, prepared under other settings",
            each(&[
                prepared("discard all"),
                query("set timezone = 'Asia/Tokyo'"),
                [bind("", "s", &[]), execute("", 0), sync()].concat(),
                [parse("d", "discard all"), query("set datestyle = 'German'")].concat(),
                [bind("", "d", &[]), execute("", 0), sync()].concat(),
                query("show timezone"),
            ]),
        ),
        (
            "texts behind a SET LOCAL that is not reported yet",
            each(&[
                [
                    query("begin"),
                    extended_without_sync("savepoint a"),
                    extended_without_sync("set local datestyle = 'German'"),
                    parse("s", "select '1.2.2026'::date"),
                    extended_without_sync("rollback to a"),
                    parse("t", "select '1.2.2026'::date"),
                    sync(),
                ]
                .concat(),
                run("s", &[]),
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
                crate::harness::protocol_client::message(b'P', &body)
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
                [crate::harness::protocol_client::message(b'P', b"s\0select 1\0\0\x05"), sync()].concat(),
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
