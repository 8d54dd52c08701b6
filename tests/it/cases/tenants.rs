//! Startup settings that differ from client to client, as those of tenants do: they follow their clients over few connections.

use super::script::{A, DEFAULTS, Script, compare};
use crate::harness::protocol_client::{Message, ProtocolClient, extended, query, startup};
use crate::harness::{Pgferry, Postgres};

const TENANTS: usize = 40;

/// A client of trust_user's whose startup packet has these parameters too.
fn client(mut raw: ProtocolClient, params: &[(&str, &str)]) -> ProtocolClient {
    let all: Vec<_> =
        [("user", "trust_user"), ("database", "postgres")].into_iter().chain(params.iter().copied()).collect();
    raw.send(&startup(&all));
    raw.until_ready();
    raw
}

fn tenant(ferry: &Pgferry, number: usize) -> ProtocolClient {
    client(ferry.raw(), &[("options", &format!("-c search_path=tenant_{number}"))])
}

fn with_tenants() -> Postgres {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    postgres.sql(&format!(
        "do $$ begin for n in 1..{TENANTS} loop \
         execute format('create schema tenant_%s', n); \
         execute format('create table tenant_%s.me as select %s as me', n, n); end loop; end $$"
    ));
    postgres
}

#[test]
fn tenants_share_a_pool() {
    let postgres = with_tenants();
    for (mode, reset) in
        [("session", "always"), ("session", "on_change"), ("transaction", "always"), ("transaction", "on_change")]
    {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--reset", reset]);
        std::thread::scope(|scope| {
            for first in 0..8 {
                let ferry = &ferry;
                scope.spawn(move || {
                    for nth in 0..50 {
                        let number = (first * 7 + nth * 3) % TENANTS + 1;
                        let mut raw = tenant(ferry, number);
                        assert_eq!(raw.value("select me from me"), number.to_string());
                        if nth % 5 == 0 {
                            // One without any in between.
                            assert!(!client(ferry.raw(), &[]).error("select me from me").body.is_empty());
                        }
                    }
                });
            }
        });
        let opened = ferry.report().get("upstream_opened");
        assert!(opened <= 20, "{mode} {reset}: {opened}");
    }
}

#[test]
fn a_reset_goes_back_to_what_the_startup_packet_said() {
    let postgres = with_tenants();
    let params = [
        ("options", "-c search_path=tenant_1,public -c app.tenant=one --work-mem=1234kB"),
        ("statement_timeout", "7s"),
        ("extra_float_digits", "2"),
    ];
    let show = "select current_setting('search_path'), current_setting('app.tenant'), current_setting('work_mem'), \
                current_setting('statement_timeout'), current_setting('extra_float_digits')";
    let texts = [
        "select 1",
        "set search_path = tenant_2; set work_mem = '2MB'",
        "reset work_mem",
        "reset statement_timeout; reset app.tenant",
        "reset all",
        "set work_mem = '3MB'",
        "begin; set local work_mem = '4MB'; commit",
        "begin; reset work_mem; rollback",
        "reset work_mem; select 2",
        "set statement_timeout to default",
        "set work_mem = '3MB'",
        "discard all",
    ];
    for (mode, reset) in [("session", "always"), ("transaction", "always"), ("transaction", "on_change")] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--reset", reset]);
        for send in [query as fn(&str) -> Vec<u8>, |sql| extended(sql, &[])] {
            let mut direct = client(ProtocolClient::tcp(postgres.port), &params);
            let mut through = client(ferry.raw(), &params);
            let mut other = client(ferry.raw(), &[("options", "-c work_mem=9MB -c app.tenant=two")]);
            for text in texts {
                let run = |raw: &mut ProtocolClient| {
                    raw.send(&send(text));
                    raw.until_ready();
                    row(&raw.query(show))
                };
                let expected = run(&mut direct);
                let mut found = run(&mut through);
                // A list may be spelt with a blank.
                found[0] = found[0].replace(", ", ",");
                let expected: Vec<_> = expected.into_iter().map(|value| value.replace(", ", ",")).collect();
                assert_eq!(found, expected, "{mode} {reset}: {text}");
                let others = row(&other.query(show));
                assert_eq!((others[1].as_str(), others[2].as_str()), ("two", "9MB"), "{mode} {reset}: {text}");
            }
        }
    }
}

fn row(answer: &[Message]) -> Vec<String> {
    answer.iter().find(|message| message.tag == b'D').unwrap_or_else(|| panic!("{answer:?}")).columns()
}

#[test]
fn a_wrong_value_is_its_clients_own_error() {
    let postgres = Postgres::shared();
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(postgres, &["--pool-mode", mode]);
        assert_eq!(ferry.session().value("select 1"), "1");
        for (options, code) in
            [("-c work_mem=much", "22023"), ("-c no_such_setting=1", "42704"), ("-c port=1", "55P02")]
        {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", "trust_user"), ("database", "postgres"), ("options", options)]));
            let mut answer = raw.until_ready();
            if answer.last().is_some_and(|message| message.tag == b'Z') {
                raw.send(&query("select 1"));
                answer = raw.until_ready();
            }
            let error =
                answer.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("{options}: {answer:?}"));
            assert_eq!(error.field(b'C'), code, "{options}");
            assert_eq!(ferry.session().value("select 1"), "1");
        }
        let logs = client(ferry.raw(), &[("options", "-c log_disconnections=on")]).value("show log_disconnections");
        assert_eq!(logs, "on", "what only a startup packet can say is said there");
    }
}

/// What a client is told of its settings with each answer, by name and value.
fn reports(mut raw: ProtocolClient, params: &[(&str, &str)], texts: &[&str]) -> Vec<Vec<String>> {
    let all = [&[("user", "trust_user"), ("database", "postgres")][..], params].concat();
    raw.send(&startup(&all));
    let mut told = std::collections::BTreeMap::new();
    let mut answers = Vec::new();
    for text in [None].into_iter().chain(texts.iter().map(Some)) {
        if let Some(text) = text {
            raw.send(&query(text));
        }
        for message in raw.until_ready() {
            assert_ne!(message.tag, b'E', "{message:?}");
            if message.tag == b'S' {
                let words = String::from_utf8_lossy(&message.body).into_owned();
                let mut words = words.split('\0').map(str::to_owned);
                told.insert(words.next(), words.next());
            }
        }
        answers.push(told.iter().map(|told| format!("{told:?}")).collect());
    }
    answers
}

#[test]
fn clients_are_told_what_their_server_reports_of_their_settings() {
    let postgres = with_tenants();
    let iterations = ("options", "-c scram_iterations=8192 -c search_path=tenant_3");
    let latest = if postgres.version() >= 16 { iterations } else { ("search_path", "tenant_3") };
    let texts = [
        "select 1",
        "set search_path = tenant_4, public",
        "select 1",
        "begin; set local search_path = tenant_5",
        "commit",
        "select set_config('search_path', 'tenant_6', false)",
        "select 1",
        "reset search_path",
        "set session characteristics as transaction read only",
        "reset all",
        "set search_path = tenant_7",
        "discard all",
    ];
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "2"]);
        for params in
            [&[][..], &[("options", "-c search_path=tenant_1")], &[("search_path", "tenant_2, public")], &[latest], &[]]
        {
            let direct = reports(ProtocolClient::tcp(postgres.port), params, &texts);
            // Another client's connection comes in between.
            client(ferry.raw(), &[("search_path", "tenant_9")]).query("select 1");
            let ferried = reports(ferry.raw(), params, &texts);
            for (nth, (ferried, direct)) in ferried.iter().zip(&direct).enumerate() {
                assert_eq!(ferried, direct, "{mode}, {params:?}, behind {:?}", texts.get(nth.wrapping_sub(1)));
            }
        }
    }
}

#[test]
fn a_setting_of_the_startup_packet_is_not_reported_as_another_by_a_discard() {
    // PostgreSQL 18 reports it.
    let tenant = Script::new("search_path")
        .comes_with(A, &[("options", "-c search_path=tenant_1")])
        .sql(A, "select 1")
        .sql(A, "discard all")
        .sql(A, "select pg_advisory_lock(1)")
        .sql(A, "discard all")
        .sql(A, "show search_path");
    compare(Postgres::shared(), &DEFAULTS, &[tenant]);
}
