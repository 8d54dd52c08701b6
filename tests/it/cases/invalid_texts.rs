//! Texts and names that are not valid in the client's encoding, so that the server refuses them before it reads them: nothing changes by them.

use super::script::{A, DEFAULTS, Script, TRANSACTION, compare, run};
use crate::harness::Postgres;
use crate::harness::protocol_client::{bind, close, describe, execute, message, parse, query, sync};

/// A text that is not valid UTF-8.
const TEXT: &[u8] = b"select '\xff'\0";

/// A `Parse` of `text`, terminator included.
fn parse_bytes(name: &[u8], text: &[u8]) -> Vec<u8> {
    message(b'P', &[name, b"\0", text, b"\0\0"].concat())
}

/// A `Bind` without parameters.
fn bind_bytes(portal: &[u8], name: &[u8]) -> Vec<u8> {
    message(b'B', &[portal, b"\0", name, b"\0", &[0; 6]].concat())
}

#[test]
fn unnamed_statement_outlives_texts_that_are_refused() {
    let refused = [
        ("a query", message(b'Q', TEXT)),
        ("a query that ends in half a character", message(b'Q', b"select 'x\xc3\0")),
        ("an unnamed text", [parse_bytes(b"", TEXT), sync()].concat()),
        ("a named text", [parse_bytes(b"s", TEXT), sync()].concat()),
        ("a name", [parse_bytes(b"s\xff", b"select 1\0"), sync()].concat()),
        ("a name to be closed", [message(b'C', b"S\xff\0"), sync()].concat()),
    ];
    let scripts: Vec<_> = refused
        .iter()
        .flat_map(|(name, refused)| {
            let found = run("", &[]);
            [
                Script::new(name)
                    .ask(A, &[parse("", "select 42"), sync()])
                    .ask(A, std::slice::from_ref(refused))
                    .ask(A, std::slice::from_ref(&found)),
                Script::new(&format!("{name}, not waited for"))
                    .send(A, &[parse("", "select 42"), sync(), refused.clone(), found.clone()])
                    .ready(A, 3),
                Script::new(&format!("{name}, in a transaction"))
                    .sql(A, "begin")
                    .ask(A, &[parse("", "select 42"), sync()])
                    .ask(A, std::slice::from_ref(refused))
                    .sql(A, "rollback")
                    .ask(A, &[found]),
            ]
        })
        .collect();
    compare(Postgres::shared(), &DEFAULTS, &scripts);
}

#[test]
fn names_that_are_no_text_are_refused() {
    let name = b"s\xff";
    let scripts = [
        Script::new("to be prepared")
            .ask(A, &[parse_bytes(name, b"select 1\0"), sync()])
            .ask(A, &[bind_bytes(b"", name), execute("", 0), sync()])
            .ask(A, &[message(b'D', b"Ss\xff\0"), sync()])
            .ask(A, &[message(b'C', b"Ss\xff\0"), sync()]),
        Script::new("of a portal")
            .ask(A, &[parse("s", "select 1"), sync()])
            .ask(A, &[bind_bytes(b"p\xff", b"s"), sync()])
            .ask(A, &[bind("", "s", &[]), execute("", 0), message(b'E', b"p\xff\0\0\0\0\0"), sync()])
            .ask(A, &[message(b'D', b"Pp\xff\0"), sync()])
            .ask(A, &[message(b'C', b"Pp\xff\0"), sync()]),
        Script::new("of a statement that there is, and whose text is none")
            .ask(A, &[parse("s", "select 1"), sync()])
            .ask(A, &[parse_bytes(b"s", TEXT), sync()])
            .ask(A, &[run("s", &[])])
            .ask(A, &[close(b'S', "s"), parse_bytes(b"s", TEXT), describe(b'S', "s"), sync()])
            .ask(A, &[parse("s", "select 2"), sync()])
            .ask(A, &[run("s", &[])]),
        Script::new("in a failed transaction")
            .sql(A, "begin")
            .send(A, &[query("select 1/0"), parse_bytes(name, b"select 1\0"), sync(), bind_bytes(b"", name), sync()])
            .ready(A, 3)
            .sql(A, "rollback"),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn texts_of_other_encodings_are_read_in_these() {
    let latin = || Script::new("LATIN1").sql(A, "set client_encoding = 'LATIN1'");
    let scripts = [
        latin()
            .ask(A, &[parse_bytes(b"s\xff", b"select '\xff'::text\0"), sync()])
            .ask(A, &[bind_bytes(b"p\xfe", b"s\xff"), message(b'E', b"p\xfe\0\0\0\0\0"), sync()])
            .ask(A, &[message(b'C', b"Ss\xff\0"), sync()]),
        latin()
            .ask(A, &[parse("", "select 42"), sync()])
            .ask(A, &[message(b'Q', TEXT)])
            .ask(A, &[run("", &[])])
            .sql(A, "reset client_encoding")
            .ask(A, &[parse("", "select 43"), sync()])
            .ask(A, &[message(b'Q', TEXT)])
            .ask(A, &[run("", &[])]),
        Script::new("a change that is not waited for")
            .send(
                A,
                &[
                    parse("", "select 42"),
                    sync(),
                    query("set client_encoding = 'LATIN1'"),
                    parse("", "select 43"),
                    sync(),
                ],
            )
            .send(A, &[message(b'Q', TEXT), run("", &[])])
            .ready(A, 5),
        Script::new("a change by code that is not waited for, and a text that sets something")
            .sql(A, "create or replace function pg_temp.latin() returns text language sql as $$select set_config('client_encoding', 'LATIN1', false)$$")
            .send(A, &[query("select pg_temp.latin()"), message(b'Q', b"set application_name = '\xff'\0")])
            .ready(A, 2)
            .sql(A, "show application_name"),
        Script::new("a change by code in a pipeline")
            .sql(A, "create or replace function pg_temp.latin() returns text language sql as $$select set_config('client_encoding', 'LATIN1', false)$$")
            .send(
                A,
                &[
                    parse("", "select pg_temp.latin()"),
                    bind("", "", &[]),
                    execute("", 0),
                    parse_bytes(b"", b"set application_name = '\xff'\0"),
                    bind("", "", &[]),
                    execute("", 0),
                    parse_bytes(b"s\xff", b"select '\xff'::text\0"),
                    bind_bytes(b"", b"s\xff"),
                    execute("", 0),
                    sync(),
                ],
            )
            .ready(A, 1)
            .ask(A, &[bind_bytes(b"", b"s\xff"), execute("", 0), sync()])
            .sql(A, "show application_name"),
    ];
    compare(Postgres::shared(), &DEFAULTS, &scripts);
}
