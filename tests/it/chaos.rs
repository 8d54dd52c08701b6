//! Servers that die, stall and come back; clients that are killed.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::protocol_client::{query, startup, tags};
use crate::harness::{ChildProcess, Pgferry, Postgres, ProtocolClient, Signal, TcpProxy, eventually};

/// What became of the requests of clients that connect for each of them and retry nothing.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicUsize,
    failed: Mutex<BTreeMap<String, usize>>,
}

impl Tally {
    fn failures(&self) -> usize {
        self.failed.lock().expect("unpoisoned").values().sum()
    }
}

/// One short connection: the SQLSTATE it failed with, if it failed.
fn one_request(ferry: &Pgferry, sql: &str) -> Result<(), String> {
    let socket = UnixStream::connect(ferry.socket()).map_err(|error| error.to_string())?;
    drop(socket);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let welcome = raw.until_ready();
    let error = |messages: &[crate::harness::Message]| {
        messages.iter().find(|message| message.tag == b'E').map(|message| message.field(b'C'))
    };
    if let Some(code) = error(&welcome) {
        return Err(format!("login {code}"));
    }
    let answer = raw.query(sql);
    match error(&answer) {
        Some(code) => Err(code),
        None if tags(&answer) == "TDCZ" => Ok(()),
        None => Err(format!("closed after {:?}", tags(&answer))),
    }
}

/// Runs `during` while `clients` threads make short connections, and some time before and after.
fn under_load(ferry: &Pgferry, clients: usize, sql: &str, during: impl FnOnce(&Tally)) -> Tally {
    let tally = Tally::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..clients {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match one_request(ferry, sql) {
                        Ok(()) => {
                            tally.done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(code) => *tally.failed.lock().expect("unpoisoned").entry(code).or_default() += 1,
                    }
                }
            });
        }
        let some_more = |n: usize| {
            let goal = tally.done.load(Ordering::Relaxed) + n;
            eventually("requests are served", || tally.done.load(Ordering::Relaxed) >= goal);
        };
        some_more(100);
        during(&tally);
        some_more(100);
    });
    tally
}

/// Ends the load, also when a test fails while it is on.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const TERMINATE_IDLE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
    where backend_type = 'client backend' and pid <> pg_backend_pid() and state = 'idle'";

/// Those that a request is unlikely to take between this look and the signal.
const TERMINATE_LONG_IDLE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
    where backend_type = 'client backend' and pid <> pg_backend_pid() and state = 'idle' \
    and state_change < clock_timestamp() - interval '20 ms'";

#[test]
fn idle_backends_that_are_terminated_under_load_cost_next_to_nothing() {
    let postgres = Postgres::start_with(&[]);
    for args in [&["--reset", "always"][..], &["--reset", "always", "--pool-mode", "transaction"]] {
        let ferry = Pgferry::start(&postgres, &[args, &["--pool-size", "8"]].concat());
        let tally = under_load(&ferry, 4, "select 1", |tally| {
            for _ in 0..20 {
                // More than the load needs, so that some are idle for longer.
                let mut burst: Vec<_> = (0..6).map(|_| ferry.session()).collect();
                for session in &mut burst {
                    assert_eq!(session.value("select 1"), "1");
                }
                drop(burst);
                eventually("some idle backend is terminated", || postgres.sql(TERMINATE_LONG_IDLE) != "0");
                let goal = tally.done.load(Ordering::Relaxed) + 20;
                eventually("requests are served", || tally.done.load(Ordering::Relaxed) >= goal);
            }
        });
        // Dozens were terminated. One may have taken up a request between the look and the signal, and only such a
        // request may fail, with the server's own words.
        assert!(tally.failures() <= 4, "{args:?} {tally:?}");
        assert!(tally.failed.lock().expect("unpoisoned").keys().all(|code| code == "57P01"), "{tally:?}");
    }
}

#[test]
fn idle_backends_that_were_terminated_are_not_handed_out_in_any_mode() {
    let postgres = Postgres::start_with(&[]);
    for reset in ["always", "on_change", "never"] {
        for mode in ["session", "transaction"] {
            let ferry = Pgferry::start(&postgres, &["--reset", reset, "--pool-mode", mode, "--pool-size", "4"]);
            let mut lasting = ferry.session();
            for _ in 0..5 {
                let mut sessions: Vec<_> = (0..3).map(|_| ferry.session()).collect();
                for session in &mut sessions {
                    assert_eq!(session.value("select 1"), "1");
                }
                drop(sessions);
                if mode == "transaction" {
                    assert_eq!(lasting.value("select 1"), "1");
                }
                eventually("all are given back", || ferry.report().get("leased_now") == 0);
                postgres.sql(TERMINATE_IDLE);
                assert_eq!(one_request(&ferry, "select 1"), Ok(()), "{reset} {mode}");
                if mode == "transaction" {
                    assert_eq!(lasting.value("select 2"), "2");
                }
            }
        }
    }
}

#[test]
fn a_restart_fails_only_what_is_in_flight() {
    let mut postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "4"]);
    let tally = under_load(&ferry, 8, "select 1", |_| {
        postgres.stop();
        eventually("it is noticed", || ferry.log().contains("clients wait while it is tried again"));
        postgres.start();
        eventually("it is back", || ferry.log().contains("upstream is back"));
    });
    let failed = tally.failed.lock().expect("unpoisoned");
    assert!(failed.values().sum::<usize>() <= 4, "at most one per connection: {failed:?}");
    // A request that crosses the server's farewell may meet a reset, which shows nothing but that the connection is gone.
    let expected = |code: &String| code == "57P01" || code == "08006";
    assert!(failed.keys().all(expected), "with the server's own words: {failed:?}");
}

#[test]
fn a_crash_fails_only_what_is_in_flight() {
    let postgres = Postgres::start_with(&["restart_after_crash=on"]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "4"]);
    let tally = under_load(&ferry, 8, "select 1", |tally| {
        let pid = postgres.sql("select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() limit 1");
        crate::harness::signal(pid.parse().expect("a pid"), Signal::SIGKILL);
        eventually("the server has noticed", || postgres.log().contains("all server processes terminated"));
        let goal = tally.done.load(Ordering::Relaxed) + 50;
        eventually("requests are served", || tally.done.load(Ordering::Relaxed) >= goal);
    });
    let failed = tally.failed.lock().expect("unpoisoned");
    assert!(failed.values().sum::<usize>() <= 4, "at most one per connection: {failed:?}");
    assert!(failed.keys().all(|code| code == "57P02" || code == "08006"), "{failed:?}");
}

#[test]
fn a_busy_backend_that_is_killed_fails_its_own_client_alone() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "4"]);
    let tally = under_load(&ferry, 3, "select 1", |_| {
        let mut busy = ferry.session();
        busy.send(&query("select pg_sleep(64)"));
        let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity where query = 'select pg_sleep(64)' and state = 'active'";
        eventually("it is terminated", || postgres.sql(terminate) == "1");
        let messages = busy.read_to_end();
        let error = messages.last().expect("an error");
        assert_eq!(error.field(b'C'), "57P01");
        assert!(!error.field(b'R').is_empty(), "the server's own error");
    });
    assert_eq!(tally.failures(), 0, "{tally:?}");
}

#[test]
fn a_connection_that_breaks_without_a_word_is_reported() {
    let postgres = Postgres::start_with(&["restart_after_crash=on"]);
    let ferry = Pgferry::start(&postgres, &[]);
    let mut raw = ferry.session();
    let pid = raw.value("select pg_backend_pid()");
    raw.send(&query("select pg_sleep(65)"));
    eventually("it runs", || {
        postgres.sql("select count(*) from pg_stat_activity where query = 'select pg_sleep(65)'") == "1"
    });
    crate::harness::signal(pid.parse().expect("a pid"), Signal::SIGKILL);
    let messages = raw.read_to_end();
    let error = messages.last().expect("an error");
    assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "08006"), "{messages:?}");
    assert_eq!(error.field(b'M'), "server closed the connection unexpectedly");
    postgres.wait_ready();
}

#[test]
fn reset_connections_fail_only_what_is_under_way_on_them() {
    let postgres = Postgres::start_with(&[]);
    for reset in ["always", "on_change", "never"] {
        let wire = TcpProxy::to(postgres.port);
        let url = format!("postgres://127.0.0.1:{}", wire.port);
        let ferry = Pgferry::start_with(&url, &["--pool-size", "4", "--reset", reset], &[]);
        let mut busy = ferry.session();
        busy.send(&query("select pg_sleep(69)"));
        let is_carried_out = "select count(*) from pg_stat_activity where query = 'select pg_sleep(69)'";
        eventually("the server sleeps", || postgres.sql(is_carried_out) == "1");
        let mut others: Vec<_> = (0..3).map(|_| ferry.session()).collect();
        for other in &mut others {
            assert_eq!(other.value("select 1"), "1");
        }
        drop(others);
        eventually("the others are idle", || ferry.report().get("leased_now") == 1);
        wire.cut();
        let messages = busy.read_to_end();
        assert_eq!(messages.last().map(|message| message.field(b'C')).as_deref(), Some("08006"), "{messages:?}");
        for _ in 0..10 {
            assert_eq!(one_request(&ferry, "select 1"), Ok(()), "{reset}");
        }
        postgres
            .sql("select count(pg_terminate_backend(pid)) from pg_stat_activity where query = 'select pg_sleep(69)'");
    }
}

#[test]
fn a_server_that_is_down_is_waited_for_and_then_explained() {
    let mut postgres = Postgres::start_with(&[]);
    let env = [("PGFERRY_QUERY_WAIT_TIMEOUT", "500ms"), ("PGFERRY_CLIENT_LOGIN_TIMEOUT", "700ms")];
    let ferry = Pgferry::start_with(&postgres.url(), &[], &env);
    let mut known = ferry.session();
    postgres.stop();
    let messages = known.query("select 1");
    assert_eq!(tags(&messages), "EZ", "{messages:?}");
    assert_eq!(messages[0].field(b'C'), "57P03");
    assert!(messages[0].field(b'M').contains("could not connect to the upstream server"), "{messages:?}");
    assert!(messages[0].field(b'D').contains("waited 0.5 s"), "{messages:?}");
    let mut unknown = ferry.raw();
    unknown.send(&startup(&[("user", "md5_user"), ("database", "postgres")]));
    let error = unknown.recv().expect("an error");
    assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "08001"), "{error:?}");
    assert!(error.field(b'M').contains("Connection refused"), "{error:?}");
    postgres.start();
    eventually("the session goes on", || tags(&known.query("select 1")) == "TDCZ");
}

#[test]
fn a_first_login_waits_for_a_server_that_is_down() {
    let mut postgres = Postgres::start_with(&[]);
    postgres.stop();
    let ferry = Pgferry::start(&postgres, &[]);
    let mut logins: Vec<_> = ["trust_user", "md5_user"]
        .iter()
        .map(|user| {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", user), ("database", "postgres")]));
            raw
        })
        .collect();
    eventually("they are tried", || ferry.report().get("upstream_failed") >= 2);
    postgres.start();
    assert_eq!(tags(&logins[0].until_ready()).chars().last(), Some('Z'));
    assert_eq!(logins[1].recv().map(|message| message.body), Some(vec![0, 0, 0, 3]), "now it is asked");
}

/// The first connection leads nowhere without a sign of it: after `server_connect_timeout` another one is tried.
#[test]
fn a_first_login_whose_connection_is_lost_is_tried_again() {
    let network = TcpProxy::that_loses_the_first_to(Postgres::shared().port);
    let url = format!("postgres://127.0.0.1:{}?sslmode=disable", network.port);
    let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_SERVER_CONNECT_TIMEOUT", "1s")]);
    assert_eq!(ferry.session().value("select 1"), "1");
}

/// It takes no longer for a replication client, which is told which setting ended it.
#[test]
fn a_replication_client_whose_connection_is_lost_is_told() {
    let network = TcpProxy::that_loses_the_first_to(Postgres::shared().port);
    let url = format!("postgres://127.0.0.1:{}?sslmode=disable", network.port);
    let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_SERVER_CONNECT_TIMEOUT", "1s")]);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres"), ("replication", "database")]));
    let told = raw.read_to_end();
    let text: String = told.iter().flat_map(|message| [message.field(b'M'), message.field(b'D')]).collect();
    assert!(text.contains("timed out after 1 s (server_connect_timeout)"), "{text}");
}

#[test]
fn a_server_that_is_starting_or_full_is_waited_for() {
    let postgres =
        Postgres::start_with(&["max_connections=4", "superuser_reserved_connections=0", "max_wal_senders=0"]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "2"]);
    drop(ferry.session());
    eventually("its connection is there", || postgres.backends() == 1);
    // The connection that asked may still have its place.
    let mut direct: Vec<_> = (0..3).map(|_| logged_in_once_there_is_room(&postgres)).collect();
    let mut first = ferry.session();
    assert_eq!(first.value("select 1"), "1");
    let refusals = || postgres.log().matches("sorry, too many clients already").count();
    let before = refusals();
    let mut second = ferry.session();
    second.send(&query("select 2"));
    eventually("the server is full", || refusals() > before);
    direct.pop();
    assert_eq!(second.until_ready()[1].columns(), ["2"]);
}

fn logged_in_once_there_is_room(postgres: &Postgres) -> ProtocolClient {
    let mut inside = None;
    eventually("there is room for one more", || {
        inside = ProtocolClient::tcp(postgres.port).log_in("trust_user", "postgres", "").ok();
        inside.is_some()
    });
    inside.expect("eventually")
}

#[test]
fn a_stalled_server_stalls_nobody_else() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "3"]);
    let mut stalled = ferry.session();
    let mut fine = ferry.session();
    let pid = stalled.value("select pg_backend_pid()");
    assert_eq!(fine.value("select 1"), "1");
    // Only while the server is stalled: a login on a busy machine may take as long.
    let mut admin = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    let mut set = |setting: &str| assert!(!tags(&admin.query(&format!("SET {setting}"))).contains('E'), "{setting}");
    set("server_connect_timeout = '200ms'");
    set("query_wait_timeout = '1s'");
    set("cleanup_timeout = '300ms'");
    crate::harness::signal(pid.parse().expect("a pid"), Signal::SIGSTOP);
    postgres.signal(Signal::SIGSTOP);
    stalled.send(&query("select 1"));
    let mut waiting = ferry.session();
    let answer = waiting.query("select 1");
    assert_eq!(tags(&answer), "EZ");
    assert!(answer[0].field(b'M').contains("timed out"), "{answer:?}");
    for _ in 0..100 {
        assert_eq!(fine.value("select 1"), "1");
    }
    drop(stalled);
    eventually("the stalled connection is given up", || ferry.report().get("upstream_reset") >= 1);
    postgres.signal(Signal::SIGCONT);
    crate::harness::signal(pid.parse().expect("a pid"), Signal::SIGCONT);
    set("server_connect_timeout = '5s'");
    set("query_wait_timeout = '10s'");
    eventually("all is well again", || tags(&waiting.query("select 1")) == "TDCZ");
}

#[test]
fn settings_that_the_server_changes_reach_clients() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    let mut raw = ferry.session();
    assert_eq!(raw.value("show timezone"), "Etc/UTC");
    postgres.configure("timezone='Asia/Tokyo'");
    postgres.signal(Signal::SIGHUP);
    // The server reports a changed setting with the answer to the next statement.
    eventually("it is reported", || {
        let answer = raw.query("select 1");
        answer.iter().any(|message| message.tag == b'S' && message.body == b"TimeZone\0Asia/Tokyo\0")
    });
    drop(raw);
    let mut raw = ferry.session();
    let answer = raw.query("show timezone");
    assert!(answer.iter().any(|message| message.tag == b'D' && message.columns() == ["Asia/Tokyo"]), "{answer:?}");
}

#[test]
fn killed_clients_leave_nothing() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "3"]);
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut command = std::process::Command::new(crate::harness::postgres::program("psql"));
            command
                .args([
                    "-X",
                    "-h",
                    ferry.host(),
                    "-U",
                    "trust_user",
                    "-d",
                    "postgres",
                    "-c",
                    "begin; select pg_sleep(66)",
                ])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            ChildProcess::spawn(&mut command)
        })
        .collect();
    eventually("they run or wait", || {
        let report = ferry.report();
        report.get("leased_now") == 3 && report.get("waiting_now") == 3
    });
    drop(clients);
    eventually("nothing runs", || {
        postgres.sql("select count(*) from pg_stat_activity where state <> 'idle' and pid <> pg_backend_pid() and backend_type = 'client backend'") == "0"
    });
    assert_eq!(one_request(&ferry, "select 1"), Ok(()));
}
