//! What a client can make pgferry keep is bounded in bytes.

use std::time::{Duration, Instant};

use super::script::{Findings, PATIENCE, SESSION, Setup, TRANSACTION, step};
use crate::harness::protocol_client::{bind, close, describe, execute, flush, parse, query, sync, tags};
use crate::harness::{Pgferry, Postgres, ProtocolClient, Received};

/// Growth of the process that is put up with, in kB. A build for tests and the allocator's own habits are in it.
const GROWTH: u64 = 16_000;

/// A request that a client repeats: 50 kB or more each time.
type Request = (&'static str, fn(usize) -> Vec<u8>);

fn text(nth: usize) -> String {
    format!("select {nth} --{}", "x".repeat(100_000))
}

const REQUESTS: [Request; 8] = [
    ("prepared, run and closed", |nth| {
        let name = format!("s{nth}");
        [parse(&name, &text(nth)), bind("", &name, &[]), execute("", 0), close(b'S', &name), sync()].concat()
    }),
    ("prepared and closed", |nth| {
        let name = format!("s{nth}");
        [parse(&name, &text(nth)), sync(), close(b'S', &name), sync()].concat()
    }),
    ("prepared under one name", |nth| [close(b'S', "s"), parse("s", &text(nth)), describe(b'S', "s"), sync()].concat()),
    ("freed by SQL", |nth| [parse("s", &text(nth)), sync(), query("deallocate s")].concat()),
    ("freed by DEALLOCATE ALL", |nth| {
        [parse(&format!("s{nth}"), &text(nth)), sync(), query("deallocate all")].concat()
    }),
    ("the unnamed statement", |nth| [step(&text(nth)), sync()].concat()),
    ("one that does not parse", |nth| [parse("s", &format!("selec {}", text(nth))), sync()].concat()),
    ("a simple query", |nth| query(&text(nth))),
];

/// Sends `count` requests, each behind the answer to the one before it.
fn send_all(ferry: &Pgferry, request: fn(usize) -> Vec<u8>, count: usize) -> ProtocolClient {
    let mut raw = ferry.session();
    for nth in 0..count {
        let bytes = request(nth);
        let mut rest = bytes.as_slice();
        let mut ready = 0;
        while let [tag, a, b, c, d, ..] = *rest {
            ready += usize::from(matches!(tag, b'S' | b'Q'));
            rest = &rest[1 + u32::from_be_bytes([a, b, c, d]) as usize..];
        }
        raw.send(&bytes);
        (0..ready).for_each(|_| drop(raw.until_ready()));
    }
    raw
}

#[test]
fn memory_of_statements_that_were_closed_is_given_back() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [TRANSACTION[0], TRANSACTION[2]] {
        for (name, request) in REQUESTS {
            let ferry = setup.start(&postgres);
            let before = {
                send_all(&ferry, request, 20);
                ferry.memory()
            };
            let _raw = send_all(&ferry, request, 250);
            let grown = ferry.memory().saturating_sub(before);
            if grown > GROWTH {
                findings.add(format!("{name}: {grown} kB more than before, of 25 MB ({setup:?})"));
            }
            ferry.give_up();
        }
    }
    findings.report();
}

/// What a client sends while its statement runs, without reading anything.
const FLOODS: [Request; 8] = [
    ("Close of unknown names", |nth| close(b'S', &format!("unknown{nth}")).repeat(2_000)),
    ("Close of many unknown names", |nth| {
        (0..2_000).flat_map(|at| close(b'S', &format!("unknown{nth}_{at}"))).collect()
    }),
    ("Close of unknown portals", |nth| close(b'P', &format!("unknown{nth}")).repeat(2_000)),
    ("Parse of one text", |_| [close(b'S', "s"), parse("s", "select 1")].concat().repeat(1_000)),
    ("Parse of names", |nth| (0..1_000).flat_map(|at| parse(&format!("n{nth}_{at}"), "select 1")).collect()),
    ("Syncs", |_| sync().repeat(8_000)),
    ("queries", |_| query("select 1").repeat(2_000)),
    ("Describe and Flush", |_| [describe(b'S', "unknown"), flush()].concat().repeat(2_000)),
];

/// Most bytes that a flood sends.
const FLOOD: usize = 16 << 20;

fn flood(ferry: Pgferry, request: fn(usize) -> Vec<u8>) -> u64 {
    let mut raw = ferry.session();
    raw.send(&[parse("s", "select 1"), sync()].concat());
    raw.until_ready();
    let before = ferry.memory();
    raw.send(&[step("select pg_sleep(8)"), sync()].concat());
    let mut writer = raw.try_clone();
    // What is not taken is not taken: then the writer waits, as it does directly.
    let writer = std::thread::spawn(move || {
        let mut sent = 0;
        for nth in 0.. {
            let bytes = request(nth);
            sent += bytes.len();
            if sent > FLOOD || !writer.try_send(&bytes) {
                break;
            }
        }
    });
    let deadline = Instant::now() + Duration::from_secs(6);
    let (mut most, mut grew) = (0, Instant::now());
    // A second without growth is the answer as well: then the writer waits.
    while Instant::now() < deadline && grew.elapsed() < Duration::from_secs(1) && most <= GROWTH {
        let all_sent = writer.is_finished();
        let now = ferry.memory().saturating_sub(before);
        if now > most {
            (most, grew) = (now, Instant::now());
        }
        if all_sent {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // With pgferry the writer's socket ends.
    ferry.give_up();
    writer.join().expect("no panic");
    most
}

#[test]
fn memory_held_for_a_client_that_floods_is_bounded() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0], TRANSACTION[2]] {
        for (name, request) in FLOODS {
            let ferry = setup.start(&postgres);
            let grown = flood(ferry, request);
            if grown > GROWTH {
                findings.add(format!("{name}: {grown} kB more than before ({setup:?})"));
            }
        }
    }
    findings.report();
}

/// Names and settings that a client has: there is a limit, and what is beyond it is refused, not kept.
#[test]
fn memory_of_settings_and_names_is_bounded() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    let big = "x".repeat(100_000);
    let setup: Setup = TRANSACTION[0];
    for (name, sql) in [
        ("settings of many names", &(|nth: usize| format!("set a.b{nth} = '{big}'")) as &dyn Fn(usize) -> String),
        ("one setting", &|nth: usize| format!("set a.b = '{nth}{big}'")),
        ("one setting in one transaction", &|nth: usize| {
            if nth == 0 { "begin".to_owned() } else { format!("savepoint s; set local a.b = '{nth}{big}'") }
        }),
    ] {
        let ferry = setup.start(&postgres);
        let mut raw = ferry.session();
        raw.query("select 1");
        let before = ferry.memory();
        for nth in 0..250 {
            raw.send(&query(&sql(nth)));
            loop {
                match raw.receive(PATIENCE) {
                    Received::Message(message) if message.tag == b'Z' => break,
                    Received::Message(_) => {}
                    Received::End => break,
                    Received::Nothing => panic!("HANGS: no answer within {PATIENCE:?}: {name}"),
                }
            }
        }
        let grown = ferry.memory().saturating_sub(before);
        if grown > GROWTH {
            findings.add(format!("{name}: {grown} kB more than before"));
        }
        ferry.give_up();
    }
    findings.report();
}

/// A transaction may set one setting any number of times, within savepoints or not: the server keeps one value of it, and pgferry no
/// more than that.
#[test]
fn memory_of_one_transaction_with_many_sets_is_bounded() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0]] {
        let ferry = setup.start(&postgres);
        for sets in ["set a.b = 1; set a.b = 2;", "savepoint s; set local a.b = 1; release s;"] {
            let mut raw = ferry.session();
            raw.query("begin");
            let text = sets.repeat(1500);
            raw.query(&text);
            let before = ferry.memory();
            (0..120).for_each(|_| drop(raw.query(&text)));
            let grown = ferry.memory().saturating_sub(before);
            if grown > GROWTH / 4 {
                findings.add(format!("{sets}: {grown} kB more than before ({setup:?})"));
            }
        }
        ferry.give_up();
    }
    findings.report();
}

#[test]
fn memory_of_columns_that_clients_were_told_is_bounded() {
    let postgres = Postgres::start_with(&[]);
    let ferry = TRANSACTION[0].start(&postgres);
    let mut raw = ferry.session();
    let columns: Vec<_> = (0..1_500).map(|nth| format!("{nth} as c{nth}")).collect();
    raw.query(&format!("create view wide as select {}", columns.join(",")));
    let before = ferry.memory();
    for start in (0..2_000).step_by(20) {
        let one = |nth: usize| {
            let name = format!("s{nth}");
            [parse(&name, "select * from wide"), describe(b'S', &name)].concat()
        };
        raw.send(&(start..start + 20).flat_map(one).chain(sync()).collect::<Vec<_>>());
        raw.until_ready();
    }
    let grown = ferry.memory().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} kB for the columns of 2,000 statements");
}

#[test]
fn memory_of_long_names_is_bounded() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    let name = |nth: usize| format!("{nth}{}", "n".repeat(800_000));
    for setup in [TRANSACTION[0], SESSION[0]] {
        let ferry = setup.start(&postgres);
        let mut raw = ferry.session();
        raw.query("begin");
        raw.send(&[parse("", "select 1"), sync()].concat());
        raw.until_ready();
        let before = ferry.memory();
        for nth in 0..80 {
            raw.send(&[bind(&name(nth), "", &[]), sync()].concat());
            raw.until_ready();
        }
        let portals = ferry.memory().saturating_sub(before);
        raw.query("rollback");
        // Nothing is answered before the Sync.
        (0..80).for_each(|nth| raw.send(&parse(&name(nth), "set a.b to default")));
        let statements = ferry.memory().saturating_sub(before);
        raw.send(&sync());
        raw.until_ready();
        for (what, grown) in [("portals", portals), ("statements", statements)] {
            if grown > GROWTH {
                findings.add(format!("{what}: {grown} kB, of 64 MB ({setup:?})"));
            }
        }
        ferry.give_up();
    }
    findings.report();
}

#[test]
fn memory_of_texts_that_are_given_up_before_they_are_answered_is_bounded() {
    const TEXTS: [Request; 2] = [
        ("the unnamed statement", |nth| parse("", &text(nth))),
        ("prepared and closed", |nth| {
            let name = format!("s{nth}");
            [parse(&name, &text(nth)), close(b'S', &name)].concat()
        }),
    ];
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [TRANSACTION[0], TRANSACTION[4]] {
        for (name, request) in TEXTS {
            let ferry = setup.start(&postgres);
            let mut raw = ferry.session();
            raw.query("select 1");
            let before = ferry.memory();
            (0..600).for_each(|nth| raw.send(&request(nth)));
            let meanwhile = ferry.memory().saturating_sub(before);
            raw.send(&sync());
            raw.until_ready();
            let afterwards = ferry.memory().saturating_sub(before);
            if meanwhile.max(afterwards) > GROWTH {
                findings.add(format!("{name}: {meanwhile} kB, then {afterwards} kB, of 60 MB ({setup:?})"));
            }
            ferry.give_up();
        }
    }
    findings.report();
}

/// Statements that a client prepares and never frees. Beyond some number none is kept, and what is done about each is no more than before.
#[test]
fn many_statements_take_no_more_time_each_than_few() {
    let postgres = Postgres::start_with(&[]);
    let ferry = TRANSACTION[0].start(&postgres);
    let mut raw = ferry.session();
    let mut prepare = |from: usize| {
        let messages = (from..from + 5_000).flat_map(|nth| parse(&format!("n{nth}"), ""));
        raw.send(&messages.chain(sync()).collect::<Vec<_>>());
        let answer = raw.until_ready();
        answer.iter().find(|message| message.tag == b'E').map(|error| error.field(b'M'))
    };
    let refused = (0..40).find_map(|round| prepare(round * 5_000));
    assert_eq!(refused.as_deref(), Some("too many prepared statements in this session"));
    // Each looked through all of them, for each of them.
    for nth in 0..20 {
        assert_eq!(tags(&raw.query(&format!("deallocate n{nth}"))), "CZ");
    }
    raw.send(&[parse("another", "select 7"), bind("", "another", &[]), execute("", 0), sync()].concat());
    assert_eq!(tags(&raw.until_ready()), "12DCZ");
    assert_eq!(tags(&raw.query("deallocate all")), "CZ");
}
