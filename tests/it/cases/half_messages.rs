//! A client that dies in the middle of a message: nothing that pgferry sends completes it.

use super::script::{DEFAULTS, Findings, PATIENCE, SESSION, TRANSACTION};
use crate::harness::protocol_client::{bind, copy_data, copy_done, execute, message, parse, query, sync};
use crate::harness::{Postgres, ProtocolClient};

/// Longer than a buffer, so that its first part is on its way before its end has come.
const LONG: usize = 40_000;

fn padded(sql: &str) -> Vec<u8> {
    query(&format!("{sql} --{}", "x".repeat(LONG)))
}

/// What a client does before it sends the message that it does not finish, and that message.
type Unfinished = (&'static str, fn() -> (Vec<u8>, Vec<u8>));

const MESSAGES: [Unfinished; 7] = [
    ("a query", || (Vec::new(), padded("insert into half_rows values (1)"))),
    ("a query and COMMIT", || (query("begin"), padded("insert into half_rows values (1); commit"))),
    ("several statements", || (Vec::new(), padded("begin; insert into half_rows values (1); commit; select 1"))),
    ("a Parse", || {
        (Vec::new(), {
            let sql = format!("insert into half_rows values (1) --{}", "x".repeat(LONG));
            parse("", &sql)
        })
    }),
    ("a Bind behind a Parse", || {
        (parse("", "insert into half_rows select length($1)"), bind("", "", &[&"x".repeat(LONG)]))
    }),
    ("COPY data", || (query("copy half_rows from stdin"), copy_data(&b"1\n".repeat(LONG / 2)))),
    ("a call of a function", || {
        // Function call: insert_half(int), with no formats and a parameter that is as long as text.
        (query("select 1"), message(b'F', &[&[0, 0, 0, 1][..], &[0; LONG]].concat()))
    }),
];

/// How many bytes are missing: a Terminate has five of them, a Sync too; more than any of pgferry's own messages.
const MISSING: [usize; 5] = [1, 2, 3, 5, 600];

#[test]
fn message_that_a_client_did_not_finish_is_not_carried_out() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table half_rows (a int)");
    let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0], TRANSACTION[2]] {
        let ferry = setup.start_with(&postgres.url(), &[("PGFERRY_CLEANUP_TIMEOUT", "500ms")]);
        for (name, unfinished) in MESSAGES {
            for missing in MISSING {
                let (first, last) = unfinished();
                let mut raw = ferry.session();
                raw.send(&first);
                raw.send(&last[..last.len() - missing]);
                drop(raw);
                // A client that comes afterwards is served, on this connection or another.
                let mut next = ferry.session();
                next.send(&query("select 'served'"));
                let mut served = false;
                while let crate::harness::Received::Message(answer) = next.receive(PATIENCE) {
                    served |= answer.tag == b'D' && answer.columns() == ["served"];
                    if answer.tag == b'Z' {
                        break;
                    }
                }
                drop(next);
                let idle = "select count(*) from pg_stat_activity where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()";
                let deadline = std::time::Instant::now() + PATIENCE;
                while aside.value(idle) != "0" && std::time::Instant::now() < deadline {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                let rows = aside.value("with gone as (delete from half_rows returning 1) select count(*) from gone");
                if rows != "0" || !served {
                    findings.add(format!(
                        "{name}, {missing} bytes missing: {rows} rows; the next is served: {served} ({setup:?})"
                    ));
                }
            }
        }
        ferry.give_up();
    }
    findings.report();
}

/// An answer that was not asked for yet never comes: the connection is not kept for it.
#[test]
fn connection_of_a_client_that_did_not_finish_makes_room_for_the_next() {
    let postgres = Postgres::start_with(&[]);
    let room_for_one =
        [("PGFERRY_CLEANUP_TIMEOUT", "1h"), ("PGFERRY_POOL_SIZE", "1"), ("PGFERRY_RESERVE_POOL_SIZE", "0")];
    for setup in [SESSION[0], TRANSACTION[0]] {
        let ferry = setup.start_with(&postgres.url(), &room_for_one);
        for before in [Vec::new(), query("begin")] {
            let last = bind("", "", &[&"x".repeat(LONG)]);
            let mut raw = ferry.session();
            raw.send(&[before, parse("", "select length($1)"), last[..last.len() - 600].to_vec()].concat());
            drop(raw);
            assert_eq!(ferry.session().value("select 'served'"), "served", "{setup:?}");
        }
    }
}

/// A message that comes in pieces, slowly, is carried out as ever.
#[test]
fn message_in_pieces_is_carried_out_once() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table half_rows (a int)");
    for setup in DEFAULTS {
        let ferry = setup.start(&postgres);
        let mut raw = ferry.session();
        for (all, ready) in [
            (padded("insert into half_rows values (1)"), 1),
            (
                [
                    parse("", "insert into half_rows select length($1)"),
                    bind("", "", &[&"x".repeat(LONG)]),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
                1,
            ),
            ([query("copy half_rows from stdin"), copy_data(&b"1\n".repeat(LONG / 2)), copy_done()].concat(), 1),
        ] {
            for piece in all.chunks(10_007) {
                raw.send(piece);
                std::thread::yield_now();
            }
            for _ in 0..ready {
                let answer = raw.until_ready();
                assert!(answer.iter().all(|message| message.tag != b'E'), "{setup:?}: {answer:?}");
            }
        }
        let count = raw.value("with gone as (delete from half_rows returning 1) select count(*) from gone");
        assert_eq!(count, (2 + LONG / 2).to_string(), "{setup:?}");
    }
}
