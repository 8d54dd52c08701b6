//! A request that pgferry refuses: what was sent behind it is refused with it, as far as it belongs to it.

use super::script::{Findings, PATIENCE, SESSION, Setup, TRANSACTION, run, step};
use crate::harness::raw::{copy_data, copy_done, parse, query, sync, tags, terminate};
use crate::harness::{Ferry, Message, Postgres, Raw, Received, eventually};

/// A pipeline and how many ReadyForQuery it gets; of its rows all below 100 are one transaction, which can't begin.
type Pipeline = (&'static str, fn() -> Vec<Vec<u8>>, usize);

fn insert(a: u32) -> Vec<u8> {
    query(&format!("insert into all_or_none values ({a})"))
}

fn insert_step(a: u32) -> Vec<u8> {
    step(&format!("insert into all_or_none values ({a})"))
}

const PIPELINES: [Pipeline; 14] = [
    ("a transaction", || vec![query("begin"), insert(1), insert(2), query("commit")], 4),
    ("a transaction that fails", || vec![query("begin"), insert(1), insert(1), query("commit")], 4),
    ("START TRANSACTION", || vec![query("start transaction"), insert(1), query("commit")], 3),
    ("an isolation level", || vec![query("begin isolation level serializable"), insert(1), query("commit")], 3),
    ("a comment first", || vec![query("/* ; */ begin -- x"), insert(1), insert(2), query("end")], 4),
    (
        "begun with a statement",
        || vec![query("begin; insert into all_or_none values (1)"), insert(2), query("commit")],
        3,
    ),
    ("begun last", || vec![query("select 1; begin"), insert(1), query("commit")], 3),
    (
        "extended",
        || vec![step("begin"), sync(), insert_step(1), sync(), insert_step(2), sync(), step("commit"), sync()],
        4,
    ),
    ("extended, one Sync", || vec![step("begin"), insert_step(1), insert_step(2), step("commit"), sync()], 1),
    ("an implicit transaction", || vec![insert_step(1), insert_step(2), insert_step(1), sync()], 1),
    ("mixed", || vec![step("begin"), sync(), insert(1), query("commit")], 3),
    (
        "savepoints",
        || vec![query("begin"), query("savepoint s"), insert(1), query("rollback to s"), insert(2), query("commit")],
        6,
    ),
    (
        "COPY",
        || {
            vec![
                query("begin"),
                query("copy all_or_none from stdin"),
                copy_data(b"1\n2\n"),
                copy_done(),
                query("commit"),
            ]
        },
        3,
    ),
    (
        "rolled back, and another one",
        || vec![query("begin"), insert(1), query("rollback"), query("begin"), insert(100), query("commit")],
        6,
    ),
];

/// Messages up to `ready` ReadyForQuery, with `noticed` called at the first error.
fn answers(raw: &mut Raw, ready: usize, mut noticed: impl FnMut()) -> (Vec<Message>, &'static str) {
    let mut messages: Vec<Message> = Vec::new();
    while messages.iter().filter(|message| message.tag == b'Z').count() < ready {
        match raw.receive(PATIENCE) {
            Received::Message(message) => {
                if message.tag == b'E' {
                    noticed();
                }
                messages.push(message);
            }
            Received::End => return (messages, "the end"),
            Received::Nothing => return (messages, "HANGS"),
        }
    }
    (messages, "ready")
}

fn busy(ferry: &Ferry, aside: &mut Raw, setup: Setup, (name, pipeline, ready): Pipeline, findings: &mut Findings) {
    aside.query("truncate all_or_none");
    let mut raw = ferry.session();
    let mut holder = ferry.session();
    holder.query("begin");
    raw.send(&pipeline().concat());
    // The connection comes free just as the first request has been refused.
    let (answered, ending) = answers(&mut raw, ready, || {
        holder.try_send(&[query("commit"), terminate()].concat());
    });
    let refused = answered.iter().find(|message| message.tag == b'E').map(|error| error.field(b'C'));
    raw.try_send(&terminate());
    raw.read_to_end();
    eventually("the connection comes back", || ferry.report().get("leased_now") == 0);
    let rows =
        aside.value("select coalesce(string_agg(a::text, ' ' order by a), 'none') from all_or_none where a < 100");
    if rows != "none" || ending == "HANGS" || refused.as_deref() != Some("53300") {
        let answered = tags(&answered);
        findings.add(format!("{name}: rows: {rows}; {answered} then {ending}; {refused:?} ({setup:?})"));
    }
}

#[test]
fn refused_begin_refuses_its_transaction() {
    let postgres = Postgres::start_with(&[]);
    let mut aside = Raw::tcp(postgres.port).logged_in("trust_user", "postgres");
    aside.query("create table all_or_none (a int unique)");
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0], TRANSACTION[2], TRANSACTION[4]] {
        let ferry = setup.start_with(&postgres.url(), &[("PGFERRY_QUERY_WAIT_TIMEOUT", "250ms")]);
        for pipeline in PIPELINES {
            busy(&ferry, &mut aside, setup, pipeline, &mut findings);
        }
        ferry.give_up();
    }
    findings.report();
}

#[test]
fn refused_execute_of_a_prepared_begin_refuses_its_transaction() {
    let postgres = Postgres::start_with(&[]);
    let mut aside = Raw::tcp(postgres.port).logged_in("trust_user", "postgres");
    aside.query("create table all_or_none (a int unique)");
    let ferry = TRANSACTION[0].start_with(&postgres.url(), &[("PGFERRY_QUERY_WAIT_TIMEOUT", "250ms")]);
    let mut raw = ferry.session();
    let prepares =
        [parse("b", "begin"), parse("i", "insert into all_or_none values ($1::int)"), parse("c", "commit"), sync()];
    raw.send(&prepares.concat());
    raw.until_ready();
    let mut holder = ferry.session();
    holder.query("begin");
    raw.send(&[run("b", &[]), run("i", &["1"]), run("i", &["2"]), run("c", &[])].concat());
    let (answered, ending) = answers(&mut raw, 4, || {
        holder.try_send(&query("commit"));
    });
    assert_ne!(ending, "HANGS", "{answered:?}");
    assert_eq!(aside.value("select count(*) from all_or_none"), "0", "{answered:?}");
}

/// The statement that is refused for what it would leave behind fails its transaction, whatever form that has.
#[test]
fn statement_refused_for_its_session_state_fails_its_transaction() {
    let postgres = Postgres::start_with(&[]);
    let mut aside = Raw::tcp(postgres.port).logged_in("trust_user", "postgres");
    aside.query("create table all_or_none (a int unique)");
    let pipelines: [Pipeline; 7] = [
        ("in a transaction", || vec![query("begin"), insert(1), query("listen a"), insert(2), query("commit")], 5),
        (
            "extended in a transaction",
            || {
                vec![
                    step("begin"),
                    sync(),
                    insert_step(1),
                    step("listen a"),
                    sync(),
                    insert_step(2),
                    sync(),
                    step("commit"),
                    sync(),
                ]
            },
            4,
        ),
        ("in an implicit transaction", || vec![insert_step(1), step("listen a"), insert_step(2), sync()], 1),
        ("first in an implicit transaction", || vec![step("listen a"), insert_step(2), sync()], 1),
        (
            "among several statements",
            || vec![query("insert into all_or_none values (1); listen a; insert into all_or_none values (2)")],
            1,
        ),
        ("with BEGIN", || vec![query("begin; listen a"), insert(1), query("commit")], 3),
        ("queries that are skipped", || vec![step("listen a"), insert(1), insert(2), sync()], 1),
    ];
    let mut findings = Findings::default();
    for setup in [TRANSACTION[0], TRANSACTION[2], TRANSACTION[4]] {
        let ferry = setup.start_with(&postgres.url(), &[("PGFERRY_PIN", "refuse")]);
        for (name, pipeline, ready) in pipelines {
            aside.query("truncate all_or_none");
            let mut raw = ferry.session();
            raw.send(&pipeline().concat());
            let (answered, ending) = answers(&mut raw, ready, || {});
            raw.try_send(&query("select 'goes on'"));
            let (next, _) = answers(&mut raw, 1, || {});
            let rows = aside.value("select coalesce(string_agg(a::text, ' ' order by a), 'none') from all_or_none");
            let refused = answered.iter().filter(|message| message.field(b'C') == "0A000").count();
            if rows != "none" || ending != "ready" || refused != 1 || tags(&next) != "TDCZ" {
                let (answered, next) = (tags(&answered), tags(&next));
                findings.add(format!(
                    "{name}: rows: {rows}; {answered} then {ending}; refused {refused}; next {next} ({setup:?})"
                ));
            }
        }
        ferry.give_up();
    }
    findings.report();
}
