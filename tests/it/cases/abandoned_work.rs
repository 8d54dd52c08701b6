//! Work that a client has left to the server, and that goes on there for as long as it takes unless it is cancelled.

use std::os::unix::fs::PermissionsExt;

use super::script::{Findings, SESSION, TRANSACTION};
use crate::harness::protocol_client::{bind, execute, parse, query, tags};
use crate::harness::{Postgres, ProtocolClient, eventually};

/// Bytes that PostgreSQL collects before it sends them, and those of a row with one column of text beside that.
const SERVER_BUFFER: usize = 8192;
const ROW_HEAD: usize = 11;

/// Bytes of the description of one column that is called `a`.
const DESCRIPTION: usize = 27;

/// A row that fills the server's buffer together with the first `cut` bytes of the next one, that one, and one that takes `seconds`.
fn rows_cut_after(cut: usize, seconds: usize) -> Vec<u8> {
    let length = SERVER_BUFFER - DESCRIPTION - ROW_HEAD - cut;
    query(&format!(
        "select case g when 1 then repeat('x', {length}) when 2 then 'y' else pg_sleep({seconds})::text end a from generate_series(1, 3) g"
    ))
}

/// A `Bind` without its end.
fn half_bind() -> Vec<u8> {
    let whole = bind("", "s", &[&"y".repeat(100_000)]);
    whole[..whole.len() - 1].to_vec()
}

fn sleeps(seconds: usize) -> Vec<u8> {
    query(&format!("select pg_sleep({seconds})"))
}

/// What a client leaves, with a statement that takes so many seconds.
type Left = (&'static str, fn(usize) -> Vec<u8>);

const LEFT: [Left; 8] = [
    ("a statement", sleeps),
    ("whole rows before it", |seconds| rows_cut_after(0, seconds)),
    ("part of a row's header before it", |seconds| rows_cut_after(3, seconds)),
    ("part of a row before it", |seconds| rows_cut_after(7, seconds)),
    ("half a Bind behind it", |seconds| [parse("s", "select $1::text"), sleeps(seconds), half_bind()].concat()),
    ("half a query behind it", |seconds| [&sleeps(seconds), &query(&"x".repeat(2_000_000))[..100_000]].concat()),
    ("a seed that no reset undoes", |seconds| query(&format!("select setseed(0.5); select pg_sleep({seconds})"))),
    ("half a Bind, and no Sync, behind it", |seconds| {
        let sql = format!("select pg_sleep({seconds})");
        [parse("s", &sql), bind("", "s", &[]), execute("", 0), half_bind()].concat()
    }),
];

#[test]
fn work_that_clients_have_left_does_not_go_on_outside_of_the_limits() {
    const POOL_SIZE: usize = 2;
    let postgres = Postgres::start_with(&[]);
    let at_work = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    let mut findings = Findings::default();
    for setup in [SESSION[1], TRANSACTION[1]] {
        let ferry = setup.start(&postgres);
        for (name, left) in LEFT {
            let mut most = 0;
            // Each takes another time, by which it is known.
            for seconds in (60..).take(2 * POOL_SIZE) {
                let mut raw = ferry.session();
                raw.send(&left(seconds));
                let begun = format!("{at_work} and query like '%sleep({seconds})%'");
                eventually("it works", || aside.value(&begun) == "1");
                most = most.max(aside.value(at_work).parse().expect("a number"));
                drop(raw);
            }
            if most > POOL_SIZE {
                findings.add(format!("{name}: {most} at a time ({setup:?})"));
                aside.query("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'");
            }
            eventually("all of it has ended", || aside.value(at_work) == "0");
        }
        ferry.give_up();
    }
    findings.report();
}

/// Messages that do not fit into the sockets' buffers while the server works on what is in front of them: whole ones, of which the server
/// never gets the end.
const UNWRITTEN: [Left; 2] = [
    ("a query", |seconds| [sleeps(seconds), query(&format!("select '{}'", "x".repeat(600_000)))].concat()),
    ("a Parse", |seconds| {
        let asleep = format!("select pg_sleep({seconds})");
        let long = parse("l", &format!("select '{}'", "x".repeat(600_000)));
        [parse("", &asleep), bind("", "", &[]), execute("", 0), long].concat()
    }),
];

#[test]
fn work_in_front_of_messages_that_were_not_written_is_cancelled() {
    let sockets = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    let dir = sockets.path().to_str().expect("UTF-8");
    // A unix socket takes little.
    let postgres = Postgres::start_with(&[&format!("unix_socket_directories='{dir}'")]);
    let url = format!("postgres:///postgres?host={dir}&port={}", postgres.port);
    let at_work = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    for setup in [SESSION[1], TRANSACTION[1]] {
        let ferry = setup.start_with(&url, &[("PGFERRY_CLEANUP_TIMEOUT", "10min")]);
        for (name, left) in UNWRITTEN {
            let mut raw = ferry.session();
            raw.send(&left(600));
            eventually("it works", || aside.value(at_work) == "1");
            drop(raw);
            eventually(name, || aside.value(at_work) == "0");
            eventually("its place is free", || ferry.report().get("leased_now") == 0);
        }
    }
}

#[test]
fn a_client_that_hangs_up_while_it_waits_holds_no_place() {
    for setup in [SESSION[0], TRANSACTION[0]] {
        let ferry = setup.start_with(&Postgres::shared().url(), &[("PGFERRY_QUERY_WAIT_TIMEOUT", "10min")]);
        let mut busy = ferry.session();
        busy.query("begin");
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let mut raw = ferry.session();
                raw.send(&query("select 1"));
                // It sends no more, and still waits for its answer.
                raw.end();
                raw
            })
            .collect();
        eventually("they wait", || ferry.report().get("waiting_now") == 3);
        drop(waiting);
        eventually("they have gone", || ferry.report().get("waiting_now") == 0);
        assert_eq!(tags(&busy.query("commit")), "CZ", "{setup:?}");
    }
}
