//! KILL, SIGTERM and cancel requests reach a client in every phase.

use std::time::{Duration, Instant};

use super::script::{Findings, PATIENCE, SESSION, Setup, TRANSACTION, step};
use crate::harness::protocol_client::{CANCEL_REQUEST, copy_data, flush, packet, parse, query, startup, sync, tags};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, Received, Signal, eventually};

/// A client, and the body of the cancel request for it.
fn client(ferry: &Pgferry) -> (ProtocolClient, Vec<u8>) {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let greeting = raw.until_ready();
    let key = greeting.into_iter().find(|message| message.tag == b'K').expect("a key");
    (raw, key.body)
}

fn cancel(ferry: &Pgferry, key: &[u8]) {
    ferry.raw().send(&packet(CANCEL_REQUEST, key));
}

/// What comes until the end, if that comes in time.
fn until_the_end(raw: &mut ProtocolClient, patience: Duration) -> Result<Vec<Message>, Vec<Message>> {
    let mut messages = Vec::new();
    let deadline = Instant::now() + patience;
    loop {
        match raw.receive(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))) {
            Received::Message(message) => messages.push(message),
            Received::End => return Ok(messages),
            Received::Nothing => return Err(messages),
        }
    }
}

/// A phase that a client is brought to; `bool`: while another one holds the only connection.
type Phase = (&'static str, bool, fn(&mut ProtocolClient));

const PHASES: [Phase; 15] = [
    ("idle", false, |raw| drop(raw.query("select 1"))),
    ("not used yet", false, |_| {}),
    ("in a transaction", false, |raw| drop(raw.query("begin"))),
    ("in a failed transaction", false, |raw| drop(raw.query("begin; select 1/0"))),
    ("while a query runs", false, |raw| raw.send(&query("select pg_sleep(60)"))),
    ("behind Flush without Sync", false, |raw| {
        raw.send(&[step("select 1"), flush()].concat());
        raw.until(b'C');
    }),
    ("behind an error without Sync", false, |raw| {
        raw.send(&[step("select 1/0"), flush()].concat());
        raw.until(b'E');
    }),
    ("refused in an extended request", false, |raw| {
        raw.send(&[step("listen a"), flush()].concat());
        raw.until(b'E');
    }),
    ("refused in an extended request, and more sent", false, |raw| {
        raw.send(&[step("listen a"), step("select 1")].concat());
        raw.until(b'E');
        raw.send(&step("set a.b = 'c'"));
    }),
    ("in COPY", false, |raw| {
        raw.send(&[query("copy copied from stdin"), copy_data(b"1\ta\n")].concat());
        raw.until(b'G');
    }),
    ("within a message", false, |raw| raw.send(&query(&format!("select '{}'", "x".repeat(50_000)))[..20_000])),
    ("while it does not read", false, |raw| {
        raw.send(&query("select repeat('x', 1000) from generate_series(1, 100000)"));
        raw.until(b'T');
    }),
    ("while it waits", true, |raw| raw.send(&query("select 1"))),
    ("refused for want of a connection, without Sync", true, |raw| {
        raw.send(&[step("select 1"), flush()].concat());
        raw.until(b'E');
    }),
    ("refused for want of a connection, within a message", true, |raw| {
        raw.send(&[&parse("", "select 1")[..], &query("select 2")[..5]].concat());
        raw.until(b'E');
    }),
];

/// pgferry with a client in `phase`, and the client that holds the connection, if any does.
fn in_phase(
    postgres: &Postgres,
    setup: Setup,
    (_, held, enter): Phase,
) -> (Pgferry, ProtocolClient, Option<ProtocolClient>) {
    let waits = if held { "600ms" } else { "5s" };
    let env = [("PGFERRY_PIN", "refuse"), ("PGFERRY_DRAIN_TIMEOUT", "1s"), ("PGFERRY_QUERY_WAIT_TIMEOUT", waits)];
    let ferry = setup.start_with(&postgres.url(), &env);
    let holder = held.then(|| {
        let mut holder = ferry.session();
        holder.query("begin");
        holder
    });
    let mut raw = ferry.session();
    enter(&mut raw);
    (ferry, raw, holder)
}

fn phases(setup: Setup) -> impl Iterator<Item = Phase> {
    // Only transaction mode refuses statements.
    PHASES.into_iter().filter(move |(name, ..)| setup.mode == "transaction" || !name.starts_with("refused in"))
}

#[test]
fn kill_ends_a_client_in_every_phase() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0]] {
        for phase in phases(setup) {
            let (ferry, mut raw, _holder) = in_phase(&postgres, setup, phase);
            let mut console = ProtocolClient::logged_in(ferry.raw(), "anybody", "pgferry");
            assert_eq!(tags(&console.query("KILL postgres")), "CZ");
            match until_the_end(&mut raw, findings.patience()) {
                Ok(told)
                    if told.is_empty()
                        || told.iter().any(|message| message.field(b'C') == "57P01")
                        || phase.0 == "while it does not read" => {}
                Ok(told) => findings.add(format!("{}: told {told:?} ({setup:?})", phase.0)),
                Err(told) => findings.add(format!("{}: HANGS: not ended; {} ({setup:?})", phase.0, tags(&told))),
            }
            ferry.give_up();
        }
    }
    findings.report();
}

#[test]
fn sigterm_ends_a_client_in_every_phase() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0]] {
        for phase in phases(setup) {
            let (ferry, mut raw, _holder) = in_phase(&postgres, setup, phase);
            ferry.signal(Signal::SIGTERM);
            if let Err(told) = until_the_end(&mut raw, findings.patience()) {
                findings.add(format!("{}: HANGS: not ended; {} ({setup:?})", phase.0, tags(&told)));
            }
            ferry.give_up();
        }
    }
    findings.report();
}

/// A statement that no cancel request ends, which many of them are sent for.
#[test]
fn cancel_request_does_not_wait_behind_another_clients() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[1], TRANSACTION[1]] {
        let ferry = setup.start(&postgres);
        let (mut stubborn, stubborn_key) = client(&ferry);
        let (mut raw, key) = client(&ferry);
        stubborn.send(&query(
            "do $$ begin for n in 1..100 loop begin perform pg_sleep(1); exception when query_canceled then null; end; end loop; end $$",
        ));
        raw.send(&query("select pg_sleep(60)"));
        eventually("both run", || {
            postgres.sql("select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()") == "2"
        });
        let storm: Vec<_> = (0..400)
            .map(|_| {
                let mut storming = ferry.raw();
                storming.send(&packet(CANCEL_REQUEST, &stubborn_key));
                storming
            })
            .collect();
        cancel(&ferry, &key);
        match raw.receive(PATIENCE) {
            Received::Message(_) => {}
            Received::End | Received::Nothing => findings.add(format!("not cancelled within {PATIENCE:?}, {setup:?}")),
        }
        drop(storm);
        ferry.give_up();
        // What no cancel request ends would go on beside the next one.
        postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid()");
    }
    findings.report();
}

/// Cancel requests for a client that has nothing running hit nothing, then or later.
#[test]
fn cancel_request_in_every_phase_spares_what_comes_later() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0], TRANSACTION[2]] {
        let ferry = setup.start(&postgres);
        for (name, enter, leave) in [
            ("idle", Vec::new(), Vec::new()),
            ("in a transaction", query("begin"), query("rollback")),
            ("behind an error without Sync", [step("select 1/0"), flush()].concat(), sync()),
            ("behind Flush without Sync", [step("select 1"), flush()].concat(), sync()),
        ] {
            let (mut raw, key) = client(&ferry);
            raw.send(&enter);
            if !enter.is_empty() {
                loop {
                    match raw.receive(PATIENCE) {
                        Received::Message(message) if matches!(message.tag, b'Z' | b'E' | b'C') => break,
                        Received::Message(_) => {}
                        _ => panic!("HANGS: {name}"),
                    }
                }
            }
            for _ in 0..5 {
                let mut request = ferry.raw();
                request.send(&packet(CANCEL_REQUEST, &key));
                request.receive(PATIENCE);
            }
            raw.send(&[leave, query("select 'later'")].concat());
            let mut answered = false;
            while let Received::Message(message) = raw.receive(PATIENCE) {
                if message.field(b'C') == "57014" && message.tag == b'E' {
                    findings.add(format!("{name}: a later statement is cancelled ({setup:?})"));
                }
                answered |= message.tag == b'D' && message.columns() == ["later"];
                if answered && message.tag == b'Z' {
                    break;
                }
            }
            if !answered {
                findings.add(format!("{name}: no answer later ({setup:?})"));
            }
        }
        ferry.give_up();
    }
    findings.report();
}

/// What a client has sent behind a statement that is cancelled, since the client is gone, would be carried out without it.
#[test]
fn nothing_is_left_out_of_the_middle_of_what_a_client_has_sent_that_is_gone() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table steps (n int); create table base (n int); insert into base values (0)");
    for setup in [SESSION[0], TRANSACTION[0]] {
        let ferry = setup.start(&postgres);
        let (mut raw, _) = client(&ferry);
        raw.send(
            &[
                query("update base set n = n + 1 where pg_sleep(1) is not null"),
                query("insert into steps select n from base"),
                query("select pg_sleep(60)"),
            ]
            .concat(),
        );
        let running = "select count(*) from pg_stat_activity where state = 'active' and query like 'update base%'";
        eventually("the update runs", || postgres.sql(running) == "1");
        drop(raw);
        // The last one is cancelled: nothing hangs on it.
        let busy = "select count(*) from pg_stat_activity where backend_type = 'client backend' \
            and pid <> pg_backend_pid() and state <> 'idle'";
        eventually("the server is done with it", || postgres.sql(busy) == "0");
        assert_eq!(postgres.sql("select count(*) = (select n from base) from steps"), "t");
    }
}
