//! A server process that ends while it owes nothing: that is the connection's matter, not the client's.

use super::network::{Network, State};
use super::script::{Findings, PATIENCE, Setup, TRANSACTION};
use crate::harness::protocol_client::{execute, parse, query, sync, tags};
use crate::harness::{Message, Postgres, ProtocolClient, Received, eventually};

/// What a client has sent, whose answer comes together with the end of the server's process.
type Request = (&'static str, fn() -> Vec<u8>, usize);

const REQUESTS: [Request; 4] = [
    ("a query", || query("select 1"), 1),
    ("an extended query", || [super::script::step("select 1"), sync()].concat(), 1),
    ("an insert", || query("insert into acknowledged values (1)"), 1),
    ("a query that fails", || query("select 1/0"), 1),
];

fn answers(raw: &mut ProtocolClient, ready: usize) -> (Vec<Message>, &'static str) {
    let mut messages = Vec::new();
    while messages.iter().filter(|message: &&Message| message.tag == b'Z').count() < ready {
        match raw.receive(PATIENCE) {
            Received::Message(message) => messages.push(message),
            Received::End => return (messages, "the end"),
            Received::Nothing => return (messages, "HANGS"),
        }
    }
    (messages, "ready")
}

/// Terminates the server processes of pgferry once they have answered, with what they say on its way.
fn terminate(aside: &mut ProtocolClient) {
    let idle = "select count(*) from pg_stat_activity where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()";
    eventually("the server has answered", || aside.value(idle) == "0");
    aside.value(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity \
         where backend_type = 'client backend' and pid <> pg_backend_pid()",
    );
    let others =
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
    eventually("they have ended", || aside.value(others) == "0");
}

fn die_behind_an_answer(
    postgres: &Postgres,
    aside: &mut ProtocolClient,
    setup: Setup,
    request: Request,
    findings: &mut Findings,
) {
    let (name, request, ready) = request;
    let network = Network::to(postgres.port);
    let ferry = setup.start_with(&network.url(), &[]);
    let mut raw = ferry.session();
    // The connection is there, and this client's.
    raw.query("select 0");
    network.make(State::HoldsAnswers);
    let before = network.withheld();
    raw.send(&request());
    eventually("the server answers", || network.withheld() > before);
    terminate(aside);
    network.make(State::Passes);
    let (answered, ending) = answers(&mut raw, ready);
    let readies = answered.iter().filter(|message| message.tag == b'Z').count();
    // Nothing else comes, and the next statement is carried out on another connection.
    let quiet = matches!(raw.receive(std::time::Duration::from_millis(200)), Received::Nothing);
    raw.try_send(&query("select 'goes on'"));
    let (next, next_ending) = answers(&mut raw, 1);
    let goes_on = next.iter().any(|message| message.tag == b'D' && message.columns() == ["goes on"]);
    if readies != ready || !quiet || !goes_on {
        let (answered, next) = (tags(&answered), tags(&next));
        findings.add(format!(
            "{name}, {setup:?}: {answered} then {ending}; quiet: {quiet}; next: {next} then {next_ending}"
        ));
    }
    drop(raw);
    ferry.give_up();
}

#[test]
fn server_that_dies_behind_its_answer_costs_the_client_nothing() {
    let postgres = Postgres::start_with(&[]);
    let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    aside.query("create table acknowledged (a int)");
    let mut findings = Findings::default();
    for setup in [TRANSACTION[0], TRANSACTION[1], TRANSACTION[2], TRANSACTION[4]] {
        for request in REQUESTS {
            die_behind_an_answer(&postgres, &mut aside, setup, request, &mut findings);
        }
    }
    findings.report();
}

/// In the middle of an answer the client is told, by the server's own words, and once.
#[test]
fn server_that_dies_within_its_answer_is_told() {
    let postgres = Postgres::start_with(&[]);
    let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    let mut findings = Findings::default();
    for setup in [super::script::SESSION[0], TRANSACTION[0], TRANSACTION[2], TRANSACTION[4]] {
        for (name, request) in [
            ("a query", query("select pg_sleep(30)")),
            ("an extended query", [super::script::step("select pg_sleep(30)"), sync()].concat()),
            ("several", [query("select 1"), query("select pg_sleep(30)"), query("select 2")].concat()),
            ("a portal that is not there", [execute("nowhere", 0), sync(), query("select pg_sleep(30)")].concat()),
        ] {
            let ferry = setup.start(&postgres);
            let mut raw = ferry.session();
            raw.send(&request);
            eventually("it runs", || {
                aside.value(
                    "select count(*) from pg_stat_activity where query like 'select pg_sleep(30)' and state = 'active'",
                ) == "1"
            });
            aside.value(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like 'select pg_sleep(30)'",
            );
            let (told, ending) = answers(&mut raw, 9);
            let fatal: Vec<_> = told.iter().filter(|message| message.field(b'C') == "57P01").collect();
            if fatal.len() != 1 || ending != "the end" {
                findings.add(format!("{name}, {setup:?}: {told:?} then {ending}"));
            }
            ferry.give_up();
        }
    }
    findings.report();
}

/// While a client of transaction mode does nothing, its last connection's death is not told to it.
#[test]
fn server_that_dies_while_nothing_is_owed_is_not_told() {
    let postgres = Postgres::start_with(&[]);
    let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    let mut findings = Findings::default();
    for setup in TRANSACTION {
        let ferry = setup.start(&postgres);
        let mut raw = ferry.session();
        for nth in 0..10 {
            raw.send(&[parse("", "select 1"), sync()].concat());
            answers(&mut raw, 1);
            raw.query("set a.b = 'c'");
            terminate(&mut aside);
            let quiet = nth > 0 || matches!(raw.receive(std::time::Duration::from_millis(100)), Received::Nothing);
            raw.try_send(&query("show a.b"));
            let (next, ending) = answers(&mut raw, 1);
            if !quiet || tags(&next) != "TDCZ" {
                findings.add(format!("{setup:?}: quiet: {quiet}; next: {next:?} then {ending}"));
                break;
            }
        }
        ferry.give_up();
    }
    findings.report();
}
