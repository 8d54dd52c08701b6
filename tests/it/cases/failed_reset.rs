//! A reset that fails: nothing behind it runs in the former client's session, and nothing is learnt from it.

use super::script::{Findings, PATIENCE, SESSION, Setup, TRANSACTION};
use crate::harness::raw::{parse, query, startup, sync, tags, terminate};
use crate::harness::{Ferry, Message, Postgres, Raw, Received};

/// Code that leaves temporary tables, a tenant, a time zone, and something that makes `DISCARD ALL` fail.
const CODE: &str = "\
    create table audited (tenant text, line text); \
    create table secrets (tenant text, secret text); \
    insert into secrets values ('former', 'of the former'); \
    alter table secrets enable row level security; \
    create policy own on secrets using (tenant = current_setting('app.tenant', true)); \
    grant all on secrets, audited to limited; \
    create function leave_behind(tables int) returns void language plpgsql as $$ begin \
      for n in 1..tables loop execute format('create temp table left_%s_%s (a int)', n, txid_current()); end loop; \
      execute 'create temp table if not exists audited (like public.audited)'; \
      perform set_config('app.tenant', 'former', false); \
      perform set_config('timezone', 'Asia/Tokyo', false); \
    end $$; \
    create function leave_a_timeout() returns void language plpgsql as $$ begin \
      perform set_config('statement_timeout', '3ms', false); \
    end $$";

fn answers(raw: &mut Raw) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match raw.receive(PATIENCE) {
            Received::Message(message) => {
                let last = message.tag == b'Z';
                messages.push(message);
                if last {
                    return messages;
                }
            }
            Received::End => return messages,
            Received::Nothing => panic!("HANGS: nothing within {PATIENCE:?} behind {messages:?}"),
        }
    }
}

/// A client of row-level security's role.
fn limited(ferry: &Ferry) -> (Raw, Vec<Message>) {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "limited"), ("database", "postgres")]));
    let greeting = answers(&mut raw);
    (raw, greeting)
}

/// What a client must not find: the former one's tenant, rows, temporary table, time zone.
fn leaks(ferry: &Ferry, aside: &mut Raw, setup: Setup, findings: &mut Findings) {
    for nth in 0..6 {
        let (mut raw, greeting) = limited(ferry);
        let tokyo = |messages: &[Message]| {
            messages.iter().any(|message| message.tag == b'S' && message.body.starts_with(b"TimeZone\0Asia"))
        };
        if tokyo(&greeting) {
            findings.add("a new client is told the former one's time zone".to_owned());
        }
        let request = match nth % 3 {
            0 => query("insert into audited values (current_setting('app.tenant', true), 'next') returning tenant"),
            1 => [
                super::script::step("insert into audited values (current_setting('app.tenant', true), 'next')"),
                sync(),
            ]
            .concat(),
            _ => query("select count(*) from secrets"),
        };
        raw.send(&request);
        let answer = answers(&mut raw);
        if tokyo(&answer) {
            findings.add(format!("the former client's time zone is reported, {setup:?}"));
        }
        if answer.last().is_none_or(|last| last.tag != b'Z') || tags(&answer).contains('E') {
            findings.add(format!("client {nth} is not served, {setup:?}: {answer:?}"));
        }
        let row = answer.iter().find(|message| message.tag == b'D').map(Message::columns);
        if nth % 3 == 2 && row != Some(vec!["0".to_owned()]) {
            findings.add(format!("the former client's rows are seen, {setup:?}: {row:?}"));
        }
        raw.try_send(&terminate());
    }
    // Those lines are there, and the former client's tenant stands in none of them.
    if aside.value("select count(*) filter (where coalesce(tenant, '') = '') || ' of ' || count(*) from audited")
        != "4 of 4"
    {
        let lines =
            aside.value("select count(*) || ', former: ' || count(*) filter (where tenant = 'former') from audited");
        findings.add(format!("4 lines are written, and there are {lines}, {setup:?}"));
    }
    aside.query("truncate audited");
}

fn after(leaves: &[&str], settings: &[&str]) {
    let mut findings = Findings::default();
    for setup in [SESSION[0], SESSION[2], TRANSACTION[0], TRANSACTION[2]] {
        let sets = leaves.iter().any(|sql| sql.starts_with("set"));
        if setup.reset == "on_change" && (setup.mode == "transaction" || !sets) {
            // Nothing says that anything was left, which is what "on_change" is told to trust.
            continue;
        }
        // Each time a server of its own: what could not be dropped burdens whatever comes after it.
        let postgres = Postgres::start_with(settings);
        postgres.sql(CODE);
        let mut aside = Raw::tcp(postgres.port).logged_in("trust_user", "postgres");
        let ferry = setup.start(&postgres);
        let (mut former, _) = limited(&ferry);
        for sql in leaves {
            former.send(&query(sql));
            let answer = answers(&mut former);
            assert!(!tags(&answer).contains('E'), "{sql}: {answer:?}");
        }
        former.send(&terminate());
        former.read_to_end();
        leaks(&ferry, &mut aside, setup, &mut findings);
        ferry.give_up();
    }
    findings.report();
}

#[test]
fn reset_that_runs_into_a_statement_timeout_lets_nothing_run() {
    after(&["select leave_behind(300)", "select leave_a_timeout()"], &["max_locks_per_transaction=512"]);
}

#[test]
fn reset_that_runs_into_a_statement_timeout_that_was_set_lets_nothing_run() {
    after(&["select leave_behind(300)", "set statement_timeout = '3ms'"], &["max_locks_per_transaction=512"]);
}

/// The former client is still there, in transaction mode, and what it left is its own.
#[test]
fn reset_that_fails_between_two_clients_of_transaction_mode_lets_nothing_run() {
    let postgres = Postgres::start_with(&["max_locks_per_transaction=512"]);
    postgres.sql(CODE);
    let mut findings = Findings::default();
    let ferry = TRANSACTION[0].start(&postgres);
    let (mut former, _) = limited(&ferry);
    former.query("select leave_behind(300)");
    former.query("select leave_a_timeout()");
    for nth in 0..5 {
        let (mut next, _) = limited(&ferry);
        next.send(&[parse("", "select current_setting('app.tenant', true)"), sync()].concat());
        let first = answers(&mut next);
        next.try_send(&query(
            "select coalesce(current_setting('app.tenant', true), '') || current_setting('timezone')",
        ));
        let answer = answers(&mut next);
        let row = answer.iter().find(|message| message.tag == b'D').map(Message::columns);
        if row.as_ref().is_none_or(|row| row[0] != "Etc/UTC") {
            findings.add(format!("client {nth} gets {row:?}: {first:?} {answer:?}"));
        }
    }
    ferry.give_up();
    findings.report();
}
