//! What a text means is decided by what is in force at the moment at which the server reads it, however much was sent in front of it.

use super::network::{Network, State};
use super::script::step;
use crate::harness::protocol_client::{bind, execute, parse, query, sync};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually};

/// Kinds of resets, with which statements are shared.
const RESETS: [&str; 3] = ["auto", "on_change", "never"];

fn ferry(postgres: &Postgres, reset: &str) -> Pgferry {
    let ferry = Pgferry::start(postgres, &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
    ferry.session().value("select 1");
    if reset == "auto" {
        ferry.logs("its code leaves nothing in a session");
    }
    ferry
}

/// Parse, Bind and Execute of a named statement, and a Sync.
fn prepare_and_run(name: &str, sql: &str) -> Vec<u8> {
    [parse(name, sql), bind("", name, &[]), execute("", 0), sync()].concat()
}

/// The first column of the last row of an answer.
fn last_value(answer: &[Message]) -> String {
    let row = answer.iter().rfind(|message| message.tag == b'D').unwrap_or_else(|| panic!("a row: {answer:?}"));
    row.columns()[0].clone()
}

/// Sends `bytes`, and returns what comes up to the `ReadyForQuery` number `readies`.
fn ask(client: &mut ProtocolClient, bytes: &[u8], readies: usize) -> Vec<Message> {
    client.send(bytes);
    (0..readies).flat_map(|_| client.until_ready()).collect()
}

#[test]
fn behind_the_end_of_a_transaction_texts_are_read_under_what_it_leaves() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table t (a int); insert into t values (null), (1)");
    let (set, local) = ("set transform_null_equals = on", "set local transform_null_equals = on");
    let failing = || [step("select 1/0"), sync()].concat();
    // What is asked first, what is sent in one go with the text behind it, answers to that, and what another client sets.
    let ends = [
        (format!("begin; {set}"), query("rollback"), 1, format!("begin; {set}")),
        (format!("begin; {local}"), query("commit"), 1, format!("begin; {local}")),
        (format!("begin; {local}"), step("commit"), 0, format!("begin; {local}")),
        (String::new(), [step(set), failing()].concat(), 1, format!("begin; {set}")),
        (String::new(), [step(local), query("select 1")].concat(), 1, format!("begin; {local}")),
    ];
    // Since PostgreSQL 18 a query leaves the transaction open that the last of them begins.
    let ends = if postgres.version() < 18 { &ends[..] } else { &ends[..4] };
    for reset in RESETS {
        let ferry = ferry(&postgres, reset);
        let mut clients = [ferry.session(), ferry.session()];
        for client in &mut clients {
            // A name has settings for a transaction followed.
            ask(client, &prepare_and_run("any", "select 1"), 1);
        }
        let [first, second] = &mut clients;
        for (nth, (begins, bytes, readies, sets)) in ends.iter().enumerate() {
            let (name, sql) = (format!("s{nth}"), format!("select count(*) as n{nth} from t where a = null"));
            first.query(begins);
            let answer = ask(first, &[bytes.clone(), prepare_and_run(&name, &sql)].concat(), readies + 1);
            assert_eq!(last_value(&answer), "0", "{reset} {nth}: {answer:?}");
            for text in sets.split("; ") {
                second.query(text);
            }
            let answer = ask(second, &prepare_and_run(&name, &sql), 1);
            assert_eq!(last_value(&answer), "1", "{reset} {nth}: under what it has set");
            second.query("rollback");
        }
    }
}

/// Texts that make a table or the like, of which only some have a tag that says so.
const MAKES: [&str; 5] = [
    "create table early.t as select 'early' as w",
    "select 'early' as w into early.t",
    "create materialized view early.t as select 'early' as w",
    "explain analyze create table early.t as select 'early' as w",
    "do 'begin create table early.t as select ''early'' as w; end'",
];

/// Has schemas of which only the later one has a table.
fn begin_anew(postgres: &Postgres) {
    postgres.sql(
        "set client_min_messages = error; drop schema if exists early, late cascade; create schema early; create schema late; \
         create table late.t as select 'late' as w",
    );
}

const READS: &str = "select w from t";

#[test]
fn texts_behind_a_definition_find_what_it_has_made() {
    let postgres = Postgres::start_with(&["search_path='early, late'"]);
    for reset in RESETS {
        for make in MAKES {
            for together in [true, false] {
                begin_anew(&postgres);
                let ferry = ferry(&postgres, reset);
                let (mut first, mut second) = (ferry.session(), ferry.session());
                assert_eq!(last_value(&ask(&mut first, &prepare_and_run("before", READS), 1)), "late");
                let own = prepare_and_run("behind", READS);
                let answer = if together {
                    ask(&mut first, &[query(make), own].concat(), 2)
                } else {
                    first.query(make);
                    ask(&mut first, &own, 1)
                };
                assert_eq!(last_value(&answer), "early", "{reset}, {make}: its own client");
                let answer = ask(&mut second, &prepare_and_run("s", READS), 1);
                assert_eq!(last_value(&answer), "early", "{reset}, {make}: another client");
            }
        }
    }
}

#[test]
fn what_a_client_that_is_gone_has_defined_counts_as_well() {
    let postgres = Postgres::start_with(&["search_path='early, late'"]);
    for make in [MAKES[0], "create table early.t (w text); insert into early.t values ('early')"] {
        begin_anew(&postgres);
        let network = Network::to(postgres.port);
        let flags = ["--pool-mode", "transaction", "--pool-size", "2", "--reset", "never"];
        let ferry = Pgferry::start_with(&network.url(), &flags, &[]);
        let (mut first, mut second) = (ferry.session(), ferry.session());
        assert_eq!(last_value(&ask(&mut second, &prepare_and_run("s", READS), 1)), "late");
        // Its cancellation comes too late: the server has done it.
        network.hold_answers_to("early.t");
        first.send(&query(make));
        eventually("it is made", || postgres.sql("select to_regclass('early.t') is not null") == "t");
        drop(first);
        network.make(State::Passes);
        let mut nth = 0;
        eventually("others find it", || {
            nth += 1;
            last_value(&ask(&mut second, &prepare_and_run(&format!("s{nth}"), READS), 1)) == "early"
        });
    }
}

/// A procedure may commit what was set in front of it, or for it, and fail.
#[test]
fn what_was_committed_before_a_failure_is_its_clients_alone() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create procedure p(a text) language plpgsql as 'begin commit; raise exception ''no''; end'");
    let calls = [
        query("call p(set_config('work_mem', '77kB', false))"),
        [step("set work_mem = '77kB'"), query("call p('')")].concat(),
        [step("set timezone = 'Asia/Tokyo'"), step("set work_mem = '77kB'"), query("call p('')")].concat(),
    ];
    // Since PostgreSQL 18 none may commit behind a question of pgferry's in a pipeline.
    let calls = if postgres.version() < 18 { &calls[..] } else { &calls[..1] };
    for reset in RESETS {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
        for (nth, call) in calls.iter().enumerate() {
            let (mut first, mut second) = (ferry.session(), ferry.session());
            let answer = ask(&mut first, call, 1);
            assert!(answer.iter().any(|message| message.field(b'C') == "P0001"), "{reset} {nth}: {answer:?}");
            assert_eq!(second.value("show work_mem"), "4MB", "{reset} {nth}: another client");
            assert_eq!(first.value("show work_mem"), "77kB", "{reset} {nth}: its own client");
            assert_eq!(second.value("show work_mem"), "4MB", "{reset} {nth}: another client, again");
        }
    }
}
