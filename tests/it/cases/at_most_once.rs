//! A request is carried out at most once, whatever breaks between pgferry and PostgreSQL.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::network::{Network, State};
use super::script::{Findings, PATIENCE, SESSION, Setup, TRANSACTION, run, step};
use crate::harness::protocol_client::{copy_data, copy_done, describe, parse, query, startup, sync, terminate};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, Received, eventually};

/// Over one connection, which is the one that fails.
const SETUPS: [Setup; 5] = [SESSION[0], SESSION[2], TRANSACTION[0], TRANSACTION[2], TRANSACTION[4]];

/// A table of tokens and pgferry behind a network.
struct Place {
    postgres: Postgres,
    aside: std::cell::RefCell<ProtocolClient>,
}

impl Place {
    fn new() -> Self {
        let postgres = Postgres::start_with(&[]);
        let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
        aside.query("create table tokens (token text)");
        Self { postgres, aside: aside.into() }
    }

    fn count(&self, token: &str) -> String {
        self.aside.borrow_mut().value(&format!("select count(*) from tokens where token = '{token}'"))
    }
}

/// Everything that comes, up to `ready` ReadyForQuery or the end.
fn answers(raw: &mut ProtocolClient, ready: usize, patience: Duration) -> (Vec<Message>, &'static str) {
    let mut messages = Vec::new();
    while messages.iter().filter(|message: &&Message| message.tag == b'Z').count() < ready {
        match raw.receive(patience) {
            Received::Message(message) => messages.push(message),
            Received::End => return (messages, "the end"),
            Received::Nothing => return (messages, "HANGS"),
        }
    }
    (messages, "ready")
}

fn code(messages: &[Message]) -> String {
    messages.iter().find(|message| message.tag == b'E').map(|error| error.field(b'C')).unwrap_or_default()
}

/// One way to insert a token: what is said before the network fails, and what meets the failure.
type Request = (&'static str, fn(&str) -> (Vec<Vec<u8>>, Vec<u8>));

fn insert(token: &str) -> String {
    format!("insert into tokens values ('{token}')")
}

const REQUESTS: [Request; 8] = [
    ("a simple query", |token| (vec![], query(&insert(token)))),
    ("an extended query", |token| (vec![], [step(&insert(token)), sync()].concat())),
    ("a second query", |token| (vec![query("select 1")], query(&insert(token)))),
    ("a prepared statement", |token| {
        (vec![[parse("s", &insert(token)), describe(b'S', "s"), sync()].concat()], run("s", &[]))
    }),
    ("several statements", |token| (vec![], query(&format!("begin; {}; commit", insert(token))))),
    ("a pipeline of several Syncs", |token| {
        (vec![], [step("begin"), sync(), step(&insert(token)), sync(), step("commit"), sync()].concat())
    }),
    ("COMMIT", |token| (vec![query("begin"), query(&insert(token))], query("commit"))),
    ("COPY", |token| {
        let data = format!("{token}\n");
        (vec![], [query("copy tokens from stdin"), copy_data(data.as_bytes()), copy_done()].concat())
    }),
];

/// Times that an attempt may come to nothing: the connection may be under reset just as the network fails.
const ATTEMPTS: usize = 5;

/// A client comes to a connection that has been used, the network fails, and the client sends its request. `None` if
/// the request did not come to the network.
fn attempt(place: &Place, setup: Setup, request: Request, token: &str, fails: (State, State)) -> Option<String> {
    let (loses, ends) = fails;
    let network = Network::to(place.postgres.port);
    let ferry = setup.start_with(&network.url(), &[]);
    // Another client has been there, so that a reset is due.
    let mut before = ferry.session();
    before.query("select 1");
    before.send(&terminate());
    before.read_to_end();
    let mut raw = ferry.session();
    let (first, meets_failure) = request.1(token);
    for part in first {
        raw.send(&part);
        assert_eq!(code(&raw.until_ready()), "");
    }
    network.make(loses);
    raw.send(&meets_failure);
    let deadline = Instant::now() + Duration::from_secs(2);
    let arrived = || {
        if loses == State::LosesAnswers { place.count(token) == "1" } else { network.withheld() >= meets_failure.len() }
    };
    let mut reached = arrived();
    while !reached && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
        reached = arrived();
    }
    // Of several requests in one write only the first goes before the connection is known to be alive.
    if !reached && loses == State::LosesRequests {
        ferry.give_up();
        return None;
    }
    // The answer is on its way when the row is there.
    std::thread::sleep(Duration::from_millis(20));
    network.make(ends);
    let (messages, ending) = answers(&mut raw, 1, PATIENCE);
    drop(raw);
    let (count, code) = (place.count(token), code(&messages));
    ferry.give_up();
    let wanted: &[&str] = match (loses, reached) {
        (State::LosesAnswers, true) => &["1"],
        // What is under way may come to the server after the deadline.
        (State::LosesAnswers, false) => &["0", "1"],
        _ => &["0"],
    };
    let right = wanted.contains(&count.as_str()) && code == "08006";
    let told = || format!("{token}: {count} times, not of {wanted:?}; told {code:?}, then {ending}: {messages:?}");
    Some(if right { String::new() } else { told() })
}

fn under_failure(place: &Place, setup: Setup, request: Request, fails: (State, State), findings: &mut Findings) {
    let found = (0..ATTEMPTS).find_map(|nth| {
        let token = format!("{}, {setup:?}, {fails:?}, {nth}", request.0);
        attempt(place, setup, request, &token, fails)
    });
    match found {
        Some(finding) if finding.is_empty() => {}
        Some(finding) => findings.add(finding),
        None => findings.add(format!("{}, {setup:?}, {fails:?}: the request never reaches the network", request.0)),
    }
}

#[test]
fn request_whose_answer_is_lost_before_a_reset_is_not_repeated() {
    let place = Place::new();
    let mut findings = Findings::default();
    for setup in SETUPS {
        for request in REQUESTS {
            under_failure(&place, setup, request, (State::LosesAnswers, State::Reset), &mut findings);
        }
    }
    findings.report();
}

/// What forwards connections closes them in order when it ends, and answers that it has not passed on are lost.
#[test]
fn request_whose_answer_is_lost_before_an_orderly_end_is_not_repeated() {
    let place = Place::new();
    let mut findings = Findings::default();
    for setup in SETUPS {
        for request in REQUESTS {
            under_failure(&place, setup, request, (State::LosesAnswers, State::Closed), &mut findings);
        }
    }
    findings.report();
}

#[test]
fn request_that_is_lost_before_a_reset_is_not_repeated() {
    let place = Place::new();
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0], TRANSACTION[4]] {
        for request in [REQUESTS[0], REQUESTS[1], REQUESTS[3]] {
            under_failure(&place, setup, request, (State::LosesRequests, State::Reset), &mut findings);
        }
    }
    findings.report();
}

/// Connections that the server has ended while they were idle cost nothing: its last word is proof.
#[test]
fn request_to_a_connection_that_the_server_has_ended_is_carried_out_once() {
    let place = Place::new();
    let mut findings = Findings::default();
    for setup in SETUPS {
        for (name, request) in REQUESTS.into_iter().filter(|(name, _)| *name != "COMMIT") {
            let ferry = setup.start(&place.postgres);
            let token = &format!("{name}, {setup:?}, terminated");
            let mut before = ferry.session();
            before.query("select 1");
            before.send(&terminate());
            before.read_to_end();
            let mut raw = ferry.session();
            let (first, meets_failure) = request(token);
            if setup.mode == "transaction" {
                for part in &first {
                    raw.send(part);
                    raw.until_ready();
                }
            } else if !first.is_empty() {
                continue;
            }
            eventually("the server's connections are idle", || {
                let busy = "select count(*) from pg_stat_activity where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()";
                place.aside.borrow_mut().value(busy) == "0"
            });
            let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
            place.aside.borrow_mut().value(terminate);
            let others = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
            eventually("they have ended", || place.aside.borrow_mut().value(others) == "0");
            raw.send(&meets_failure);
            let syncs = if name == "a pipeline of several Syncs" { 3 } else { 1 };
            let (messages, ending) = answers(&mut raw, syncs, findings.patience());
            drop(raw);
            let (count, code) = (place.count(token), code(&messages));
            if count != "1" || !code.is_empty() {
                findings.add(format!("{token}: {count} times; told {code:?}, then {ending}: {messages:?}"));
            }
            ferry.give_up();
        }
    }
    findings.report();
}

/// What the client was told about each token, and how often the token is there.
fn storm(place: &Place, setup: Setup, cuts: usize) -> Vec<String> {
    let network = Network::to(place.postgres.port);
    let ferry = setup.start_with(&network.url(), &[]);
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let told: Vec<(String, bool)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (ferry, stop, done) = (&ferry, &stop, &done);
                scope.spawn(move || {
                    insert_tokens(ferry, &format!("{}-{}-{client}", setup.mode, setup.reset), stop, done)
                })
            })
            .collect();
        for _ in 0..cuts {
            let goal = done.load(Ordering::SeqCst) + 20;
            eventually("tokens are inserted", || done.load(Ordering::SeqCst) >= goal);
            network.make(State::LosesAnswers);
            let goal = network.withheld() + 1;
            eventually("an answer is lost", || network.withheld() >= goal);
            network.make(State::Reset);
        }
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    ferry.give_up();
    let all = place.aside.borrow_mut().query("select token, count(*) from tokens group by token");
    let rows = all.iter().filter(|message| message.tag == b'D').map(Message::columns);
    let counts: BTreeMap<_, _> = rows.map(|row| (row[0].clone(), row[1].clone())).collect();
    let wrong = told.iter().filter_map(|(token, acknowledged)| {
        let count = counts.get(token).map_or("0", String::as_str);
        let right = if *acknowledged { count == "1" } else { count == "0" || count == "1" };
        (!right).then(|| format!("{token}: {count} times, acknowledged: {acknowledged}"))
    });
    wrong.collect()
}

/// Inserts tokens until it is told to stop, with a connection for each ten of them.
fn insert_tokens(ferry: &Pgferry, name: &str, stop: &AtomicBool, done: &AtomicUsize) -> Vec<(String, bool)> {
    let mut told = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
        if answers(&mut raw, 1, PATIENCE).1 != "ready" {
            continue;
        }
        for _ in 0..10 {
            let token = format!("{name}-{}", told.len());
            raw.send(&query(&insert(&token)));
            let (messages, ending) = answers(&mut raw, 1, PATIENCE);
            assert_ne!(ending, "HANGS", "{token}: {messages:?}");
            let acknowledged = messages.iter().any(|message| message.tag == b'C');
            told.push((token, acknowledged));
            done.fetch_add(1, Ordering::SeqCst);
            if ending != "ready" {
                break;
            }
        }
        raw.try_send(&terminate());
    }
    told
}

#[test]
fn tokens_inserted_while_the_network_breaks_are_never_there_twice() {
    let place = Place::new();
    let mut findings = Findings::default();
    for setup in [
        Setup { pool: "4", ..SESSION[0] },
        Setup { pool: "4", ..TRANSACTION[0] },
        Setup { pool: "2", ..TRANSACTION[2] },
    ] {
        for wrong in storm(&place, setup, 15) {
            findings.add(wrong);
        }
    }
    findings.report();
}
