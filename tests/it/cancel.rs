//! Cancel requests hit the query they are meant for, and no other.

use crate::harness::postgres::program;
use crate::harness::protocol_client::{CANCEL_REQUEST, close, packet, query, startup_version, tags};
use crate::harness::{ChildProcess, Message, Pgferry, Postgres, ProtocolClient, Signal, eventually};

/// A session and the body of the cancel request for it.
fn session(ferry: &Pgferry, version: u32) -> (ProtocolClient, Vec<u8>) {
    let mut raw = ferry.raw();
    raw.send(&startup_version(version, &[("user", "trust_user"), ("database", "postgres")]));
    let welcome = raw.until_ready();
    let key = welcome.into_iter().find(|message| message.tag == b'K').expect("a key");
    (raw, key.body)
}

fn cancel(ferry: &Pgferry, key: &[u8]) {
    let mut raw = ferry.raw();
    raw.send(&packet(CANCEL_REQUEST, key));
    assert!(raw.recv().is_none(), "a cancel request is answered by closing");
}

fn code(messages: &[Message]) -> String {
    messages.iter().find(|message| message.tag == b'E').map(|message| message.field(b'C')).unwrap_or_default()
}

fn running(postgres: &Postgres) -> usize {
    postgres
        .sql("select count(*) from pg_stat_activity where query like 'select pg_sleep(6%' and state = 'active'")
        .parse()
        .expect("a number")
}

#[test]
fn a_running_query_is_cancelled() {
    let postgres = Postgres::start_with(&[]);
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        for version in [3 << 16, 3 << 16 | 2] {
            let (mut raw, key) = session(&ferry, version);
            raw.send(&query("select pg_sleep(61)"));
            eventually("it runs", || running(&postgres) == 1);
            cancel(&ferry, &key);
            let messages = raw.until_ready();
            assert_eq!(code(&messages), "57014");
            assert_eq!(raw.value("select 1"), "1");
        }
    }
}

#[test]
fn pids_are_invented_and_secrets_are_checked() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let (mut raw, key) = session(&ferry, 3 << 16);
    let (_other, other_key) = session(&ferry, 3 << 16);
    let pid = i32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    assert!(pid > 4_194_304, "{pid}");
    assert_ne!(key, other_key);
    raw.send(&query("select pg_sleep(62)"));
    eventually("it runs", || running(&postgres) == 1);
    let mut wrong = key.clone();
    wrong[7] ^= 1;
    cancel(&ferry, &wrong);
    cancel(&ferry, &[&key[..4], &other_key[4..]].concat());
    cancel(&ferry, &key[..7]);
    cancel(&ferry, &[&key[..], &[0; 28]].concat());
    cancel(&ferry, &other_key);
    assert_eq!(running(&postgres), 1, "none of these hits");
    cancel(&ferry, &key);
    assert_eq!(code(&raw.until_ready()), "57014");
}

#[test]
fn a_waiting_client_is_cancelled_and_goes_on() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1"]);
    let mut holder = ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    let (mut raw, key) = session(&ferry, 3 << 16);
    raw.send(&query("select 2"));
    eventually("it waits", || ferry.report().get("waiting_now") == 1);
    cancel(&ferry, &key);
    let messages = raw.until_ready();
    assert_eq!(tags(&messages), "EZ");
    assert_eq!(code(&messages), "57014");
    eventually("it waits no more", || ferry.report().get("waiting_now") == 0);
    drop(holder);
    assert_eq!(raw.value("select 3"), "3");
}

/// PostgreSQL would discard a simple query behind a `Close` that fails, up to a `Sync` that pgjdbc does not send.
#[test]
fn a_query_that_waits_behind_a_close_is_cancelled() {
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1", "--pool-mode", mode]);
        let mut holder = ferry.session();
        assert_eq!(tags(&holder.query("begin")), "CZ");
        let (mut raw, key) = session(&ferry, 3 << 16);
        raw.send(&[close(b'S', "gone"), query("select 2")].concat());
        eventually("it waits", || ferry.report().get("waiting_now") == 1);
        cancel(&ferry, &key);
        let messages = raw.until_ready();
        assert_eq!((tags(&messages).as_str(), code(&messages).as_str()), ("3EZ", "57014"), "{mode}");
        drop(holder);
        assert_eq!(raw.value("select 3"), "3");
    }
}

/// The connection that the request was given turns out to be dead: the request goes to another one, where nobody would cancel it.
#[test]
fn a_cancelled_request_does_not_go_to_another_connection() {
    let postgres = Postgres::start_with(&[]);
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(&postgres, &["--pool-size", "1", "--pool-mode", mode]);
        let mut before = ferry.session();
        let pid = before.value("select pg_backend_pid()");
        drop(before);
        eventually("it has come back", || ferry.report().get("idle_now") == 1);
        let (mut raw, key) = session(&ferry, 3 << 16);
        let backend = pid.parse().expect("a pid");
        crate::harness::signal(backend, Signal::SIGSTOP);
        raw.send(&query("select pg_sleep(60)"));
        eventually("it is under way", || ferry.report().get("idle_now") == 0);
        cancel(&ferry, &key);
        postgres.sql(&format!("select pg_terminate_backend({pid})"));
        crate::harness::signal(backend, Signal::SIGCONT);
        let messages = raw.until_ready();
        assert_eq!((tags(&messages).as_str(), code(&messages).as_str()), ("EZ", "57014"), "{mode}");
        assert_eq!(raw.value("select 3"), "3");
    }
}

#[test]
fn a_late_cancel_hits_nobody() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "1", "--pool-mode", "transaction"]);
    let (mut first, key) = session(&ferry, 3 << 16);
    assert_eq!(first.value("select 1"), "1");
    // The same connection now works for somebody else.
    let mut second = ferry.session();
    second.send(&query("select pg_sleep(0.3), pg_sleep(0.3) as b"));
    for _ in 0..20 {
        cancel(&ferry, &key);
    }
    assert_eq!(tags(&second.until_ready()), "TDCZ");
}

/// Cancels as fast as it can while the session runs short queries on a connection that others use too: whatever is hit
/// must be the session's own.
#[test]
fn a_storm_of_cancels_hits_only_its_own_session() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "2", "--pool-mode", "transaction"]);
    let (mut victim, key) = session(&ferry, 3 << 16);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    cancel(&ferry, &key);
                }
            });
        }
        let bystander = scope.spawn(|| {
            let mut raw = ferry.session();
            for _ in 0..300 {
                assert_eq!(tags(&raw.query("select pg_sleep(0.001)")), "TDCZ", "nobody else is hit");
            }
        });
        for _ in 0..300 {
            let messages = victim.query("select pg_sleep(0.001)");
            let code = code(&messages);
            assert!(code.is_empty() || code == "57014", "{messages:?}");
        }
        bystander.join().expect("no panic");
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn psql_cancels_on_ctrl_c() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    let mut command = std::process::Command::new(program("psql"));
    command
        .args(["-X", "-h", ferry.host(), "-U", "trust_user", "-d", "postgres", "-c", "select pg_sleep(63)"])
        .stderr(std::process::Stdio::null());
    let mut psql = ChildProcess::spawn(&mut command);
    eventually("it runs", || running(&postgres) == 1);
    crate::harness::signal(psql.id(), Signal::SIGINT);
    assert!(!crate::harness::ends(&mut psql).success());
    eventually("it is cancelled", || running(&postgres) == 0);
}

/// Towards a server that gives long keys (18), and towards one that does not speak that protocol yet.
#[test]
fn a_query_is_cancelled_with_the_newest_protocol() {
    let postgres = Postgres::start_with(&[]);
    let url = format!("{}&max_protocol_version=latest", postgres.url());
    let ferry = Pgferry::start_with(&url, &[], &[]);
    for version in [3 << 16, 3 << 16 | 2] {
        let (mut raw, key) = session(&ferry, version);
        raw.send(&query("select pg_sleep(63)"));
        eventually("it runs", || {
            postgres
                .sql("select count(*) from pg_stat_activity where query = 'select pg_sleep(63)' and state = 'active'")
                == "1"
        });
        cancel(&ferry, &key);
        assert_eq!(code(&raw.until_ready()), "57014");
        assert_eq!(raw.value("select 1"), "1");
    }
}

#[test]
fn a_cancel_waits_for_nobody_elses_storm() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let (mut storm, storm_key) = session(&ferry, 3 << 16);
    let (mut other, other_key) = session(&ferry, 3 << 16);
    for raw in [&mut storm, &mut other] {
        raw.send(&query("select pg_sleep(64)"));
    }
    eventually("both run", || running(&postgres) == 2);
    let files = ferry.open_files();
    // While the server does not answer, requests pile up.
    postgres.signal(Signal::SIGSTOP);
    let request = |key: &[u8]| {
        let mut raw = ferry.raw();
        raw.send(&packet(CANCEL_REQUEST, key));
        raw
    };
    let all: Vec<_> = (0..300).map(|_| request(&storm_key)).collect();
    eventually("all have come", || ferry.open_files() >= files + 300);
    let last = request(&other_key);
    postgres.signal(Signal::SIGCONT);
    for mut raw in all.into_iter().chain([last]) {
        assert!(raw.recv().is_none(), "each is answered by closing");
    }
    for raw in [&mut storm, &mut other] {
        assert_eq!(code(&raw.until_ready()), "57014");
    }
    let page = ferry.report();
    assert!(page.get("cancels") < 50, "{page:?}");
}

#[test]
fn wrong_keys_are_counted_and_the_right_one_still_cancels() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let (mut raw, key) = session(&ferry, 3 << 16);
    raw.send(&query("select pg_sleep(66)"));
    eventually("it runs", || running(&postgres) == 1);
    let started = std::time::Instant::now();
    let guesses: Vec<_> = (0..300u32)
        .map(|nth| {
            let mut guess = ferry.raw();
            let wrong = u32::from_be_bytes([key[4], key[5], key[6], key[7]]) ^ (nth + 1);
            guess.send(&packet(CANCEL_REQUEST, &[&key[..4], &wrong.to_be_bytes()].concat()));
            guess
        })
        .collect();
    for mut guess in guesses {
        assert!(guess.recv().is_none());
    }
    // A hundred at once, then a thousand a second.
    assert!(started.elapsed() >= std::time::Duration::from_millis(150));
    assert_eq!(ferry.report().get("cancels_wrong"), 300);
    assert_eq!(running(&postgres), 1, "none of them hits");
    cancel(&ferry, &key);
    assert_eq!(code(&raw.until_ready()), "57014");
}

#[test]
fn wrong_keys_for_one_session_do_not_keep_anothers_cancel_out() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let (_guessed, key) = session(&ferry, 3 << 16);
    let (mut other, other_key) = session(&ferry, 3 << 16);
    other.send(&query("select pg_sleep(66)"));
    eventually("it runs", || running(&postgres) == 1);
    let wrong = u32::from_be_bytes([key[4], key[5], key[6], key[7]]) ^ 1;
    let wrong = [&key[..4], &wrong.to_be_bytes()].concat();
    let unknown = [&i32::MAX.to_be_bytes()[..], &key[4..]].concat();
    let guesses: Vec<_> = (0..800)
        .map(|nth| {
            let mut guess = ferry.raw();
            guess.send(&packet(CANCEL_REQUEST, if nth % 2 == 0 { &wrong } else { &unknown }));
            guess
        })
        .collect();
    cancel(&ferry, &other_key);
    assert_eq!(code(&other.until_ready()), "57014");
    for mut guess in guesses {
        assert!(guess.recv().is_none());
    }
    assert_eq!(ferry.report().get("cancels_wrong"), 800);
}
