//! Constants that mean the moment at which a server reads them are read for each client, as on a connection of its own.

use crate::harness::protocol_client::{bind, close, execute, parse, sync};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient};

/// What the server's clock says, for `client`.
fn clock(client: &mut ProtocolClient) -> String {
    client.value("select clock_timestamp()")
}

/// What one of the columns of a row is.
fn row(answer: &[Message]) -> Vec<String> {
    let row = answer.iter().find(|message| message.tag == b'D');
    row.unwrap_or_else(|| panic!("a row: {answer:?}")).columns()
}

/// Prepares `sql` as `name`, and runs it with `moment`.
fn prepared(client: &mut ProtocolClient, name: &str, sql: &str, moment: &str) -> Vec<String> {
    client.send(&[parse(name, sql), sync()].concat());
    client.until_ready();
    client.send(&[bind("", name, &[moment]), execute("", 0), sync()].concat());
    row(&client.until_ready())
}

#[test]
fn in_statements_that_another_client_has_prepared() {
    let postgres = Postgres::start_with(&[]);
    for reset in ["auto", "on_change", "always"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
        for constant in ["'now'::timestamptz", "timestamptz 'NOW'", "E'\\x6eow'::timestamptz", "$$now$$::timestamptz"] {
            let sql = format!("select {constant} >= $1::timestamptz");
            let (mut one, mut two) = (ferry.session(), ferry.session());
            for round in 0..3 {
                for client in [&mut one, &mut two] {
                    let moment = clock(client);
                    assert_eq!(prepared(client, "s", &sql, &moment), ["t"], "{reset}, {constant}, round {round}");
                    client.send(&[close(b'S', "s"), sync()].concat());
                    client.until_ready();
                }
            }
        }
    }
}

#[test]
fn in_statements_whose_settings_have_changed() {
    let postgres = Postgres::start_with(&["log_statement=all"]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let mut client = ferry.session();
    client.query("select 1");
    client.send(&[parse("s", "select 'now'::timestamptz, $1::text"), sync()].concat());
    client.until_ready();
    client.query("begin; set timezone = 'Asia/Tokyo'; set array_nulls = off");
    let mut run = || {
        client.send(&[bind("", "s", &[""]), execute("", 0), sync()].concat());
        row(&client.until_ready())
    };
    let first = run();
    assert!((0..3).all(|_| run() == first), "it is read once");
    drop(client);
}

#[test]
fn in_functions_that_another_client_has_run() {
    let postgres = Postgres::start_with(&[]);
    for (nth, body) in ["return 'now'::timestamptz", "return e'no\\x77'::timestamptz", "return $q$now$q$::timestamptz"]
        .into_iter()
        .enumerate()
    {
        postgres.sql(&format!(
            "create function moment_{nth}() returns timestamptz language plpgsql as $$ begin {body}; end $$;"
        ));
    }
    postgres
        .sql("create function moment_3() returns timestamptz language sql stable as $$ select 'now'::timestamptz $$;");
    for mode in ["transaction", "session"] {
        for reset in ["auto", "always"] {
            let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "1", "--reset", reset]);
            for round in 0..4 {
                for nth in 0..4 {
                    let mut client = ferry.session();
                    let moment = clock(&mut client);
                    // Something to keep a reset from being one of everything.
                    let _ = prepared(&mut client, "s", "select $1::text", "");
                    let later = client.value(&format!("select moment_{nth}() >= '{moment}'"));
                    assert_eq!(later, "t", "{mode}, {reset}: {nth}, round {round}");
                    let sql = format!("select moment_{nth}() >= $1::timestamptz");
                    assert_eq!(prepared(&mut client, "m", &sql, &moment), ["t"], "{mode}, {reset}: {nth}, prepared");
                }
            }
        }
    }
}
