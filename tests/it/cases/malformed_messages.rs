//! Messages that the server refuses for their form, before it does anything for them: nothing changes by them, and pgferry answers none
//! of them itself.

use super::script::{A, DEFAULTS, Script, compare, run};
use crate::harness::Postgres;
use crate::harness::protocol_client::{bind, execute, message, parse, query, sync};

/// Each with a name for it.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a Flush with a body", message(b'H', b"x")),
        ("a query without an end", message(b'Q', b"select 1")),
        ("a query and more", message(b'Q', b"select 1\0\0")),
        ("an unnamed text and more", message(b'P', b"\0select 1\0\0\0x")),
        ("an unnamed text without a count", message(b'P', b"\0select 1\0\0")),
        ("an unnamed text without its types", message(b'P', b"\0select 1\0\0\x01")),
        ("a named text and more", message(b'P', b"s\0select 1\0\0\0x")),
        ("a text without an end", message(b'P', b"s\0select 1")),
        ("a Close and more", message(b'C', b"Ss\0x")),
        ("a Close of the unnamed statement and more", message(b'C', b"S\0x")),
        ("a Close without an end", message(b'C', b"Ss")),
        ("a Close of nothing", message(b'C', b"")),
        ("a Describe and more", message(b'D', b"Ss\0x")),
        ("an Execute and more", message(b'E', b"\0\0\0\0\0\0")),
        ("a Sync with a body", message(b'S', b"x")),
    ]
}

#[test]
fn nothing_changes_by_them() {
    let both = || [run("s", &[]), run("", &[])].concat();
    let prepared = || [parse("s", "select 'named'"), parse("", "select 42"), sync()].concat();
    let scripts: Vec<_> = malformed()
        .into_iter()
        .flat_map(|(name, bytes)| {
            let readies = 1 + usize::from(matches!(bytes[0], b'Q' | b'S'));
            let refused = || [bytes.clone(), sync()].concat();
            [
                Script::new(name)
                    .ask(A, &[prepared()])
                    .send(A, &[refused()])
                    .ready(A, readies)
                    .send(A, &[both()])
                    .ready(A, 2),
                Script::new(&format!("{name}, not waited for"))
                    .send(A, &[prepared(), refused(), both(), query("select 7")])
                    .ready(A, readies + 4),
                Script::new(&format!("{name}, in front of a query that is discarded with it"))
                    .ask(A, &[prepared()])
                    .send(A, &[bytes.clone(), query("select 8"), sync()])
                    .ready(A, if bytes[0] == b'Q' || bytes[0] == b'S' { 3 } else { 1 })
                    .send(A, &[both()])
                    .ready(A, 2),
                Script::new(&format!("{name}, in a transaction"))
                    .sql(A, "begin")
                    .ask(A, &[prepared()])
                    .send(A, &[bytes.clone(), query("select 8"), sync()])
                    .ready(A, if bytes[0] == b'Q' || bytes[0] == b'S' { 3 } else { 1 })
                    .sql(A, "rollback")
                    .send(A, &[both()])
                    .ready(A, 2),
                Script::new(&format!("{name}, within a pipeline"))
                    .ask(A, &[prepared()])
                    .send(A, &[parse("t", "select 9"), bytes.clone(), execute("", 0), sync()])
                    .ready(A, readies)
                    .ask(A, &[run("t", &[])]),
            ]
        })
        .collect();
    compare(Postgres::shared(), &DEFAULTS, &scripts);
}

#[test]
fn a_flush_with_a_body_is_ignored_in_a_copy() {
    let copied = |parts: &[Vec<u8>]| {
        Script::new("a copy")
            .sql(A, "create temporary table target (v int)")
            .send(A, &[parts.concat()])
            .ready(A, 1)
            .sql(A, "select count(*) from target")
    };
    let copy = || query("copy target from stdin");
    let (row, flush, done) = (|| message(b'd', b"1\n"), || message(b'H', b"x"), || message(b'c', b""));
    let scripts = [
        copied(&[copy(), row(), flush(), row(), done()]),
        copied(&[
            parse("", "copy target from stdin"),
            [bind("", "", &[]), execute("", 0)].concat(),
            flush(),
            row(),
            done(),
            sync(),
        ]),
        Script::new("which fails")
            .sql(A, "create temporary table target (v int)")
            .send(A, &[parse("", "copy target from stdin"), bind("", "", &[]), execute("", 0), message(b'H', b"")])
            .send(A, &[message(b'd', b"x\n"), flush(), done(), sync()])
            .ready(A, 1)
            .sql(A, "select count(*) from target"),
        Script::new("which has begun")
            .sql(A, "create temporary table target (v int)")
            .send(A, &[copy()])
            .until(A, b'G')
            .send(A, &[flush()])
            .ask(A, &[row(), flush(), done()])
            .sql(A, "select count(*) from target"),
    ];
    compare(Postgres::shared(), &DEFAULTS, &scripts);
}
