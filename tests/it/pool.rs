//! Who gets a connection, when, and how many there are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::harness::protocol_client::{query, startup, tags};
use crate::harness::{Pgferry, Postgres, Signal, eventually, psql};

#[test]
fn a_login_never_waits_for_a_connection() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1"]);
    let mut holder = ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    // One thread that connects its clients one after another holds what its own next login would wait for.
    let mut others: Vec<_> = (0..20).map(|_| ferry.session()).collect();
    for other in &mut others {
        other.send(&query("select 2"));
    }
    drop(holder);
    std::thread::scope(|scope| {
        for mut other in others {
            scope.spawn(move || assert_eq!(tags(&other.until_ready()), "TDCZ"));
        }
    });
}

#[test]
fn first_come_first_served() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1"]);
    let mut holder = ferry.session();
    holder.query("create temp sequence turn");
    let served = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for nth in 0..8 {
            let mut raw = ferry.session();
            raw.send(&query("select 1"));
            eventually("it waits", || ferry.report().get("waiting_now") == nth + 1);
            let served = &served;
            scope.spawn(move || {
                assert_eq!(tags(&raw.until_ready()), "TDCZ");
                served.lock().expect("unpoisoned").push(nth);
            });
        }
        drop(holder);
    });
    assert_eq!(*served.lock().expect("unpoisoned"), (0..8).collect::<Vec<_>>());
}

#[test]
fn the_cap_holds_under_a_storm() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(&postgres, &["--pool-size", "3", "--pool-mode", mode]);
        let before = postgres.connections_received();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert_eq!(ferry.session().value("select 1"), "1");
                    }
                });
            }
        });
        assert!(postgres.backends() <= 3);
        let opened = postgres.connections_received() - before;
        // The server logs this test's own look as well.
        assert!(opened <= 3 + 2, "{mode}: {opened}");
    }
}

#[test]
fn clients_that_stop_waiting_cost_no_connections() {
    let postgres = Postgres::start_with(&["log_connections=on", "max_connections=100"]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "10"]);
    drop(ferry.session());
    let before = ferry.report().get("upstream_opened");
    for _ in 0..20 {
        let mut raw = ferry.session();
        raw.send(&query("select 1"));
        drop(raw);
    }
    eventually("all are gone", || ferry.report().get("clients_now") == 0);
    let opened = ferry.report().get("upstream_opened") - before;
    assert!(opened <= 10, "{opened}");
}

#[test]
fn whoever_waits_in_vain_is_told_why_and_may_go_on() {
    let env = [("PGFERRY_QUERY_WAIT_TIMEOUT", "300ms")];
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &["--pool-size", "1"], &env);
    let mut holder = ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    let mut waiting = ferry.session();
    let messages = waiting.query("select 2");
    assert_eq!(tags(&messages), "EZ", "an error, and the session goes on: {messages:?}");
    let error = &messages[0];
    assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("ERROR", "53300"));
    let detail = error.field(b'D');
    assert!(
        detail.contains("waited 0.3 s") && detail.contains("1 of 1") && detail.contains("1 by clients that are idle"),
        "{detail}"
    );
    assert!(error.field(b'H').contains("pool_mode = \"transaction\""), "{error:?}");
    // An extended request is over with its Sync, and takes what is in it along.
    waiting.send(&[crate::harness::protocol_client::extended("select 3", &[]), query("select 4")].concat());
    let messages = waiting.until_ready();
    assert_eq!(tags(&messages), "EZ");
    drop(holder);
    assert_eq!(waiting.until_ready()[1].columns(), ["4"]);
    assert_eq!(waiting.value("select 5"), "5");
}

#[test]
fn other_pools_make_room_under_the_cap_over_all() {
    let postgres = Postgres::start_with(&[]);
    let env = [("PGFERRY_MAX_UPSTREAM", "2")];
    let ferry = Pgferry::start_with(&postgres.url(), &[], &env);
    let connect = |database: &str| {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", database)]));
        assert!(tags(&raw.until_ready()).ends_with('Z'));
        raw
    };
    for _ in 0..3 {
        for database in ["postgres", "other", "template1"] {
            assert_eq!(connect(database).value("select current_database()"), database);
            assert!(postgres.backends() <= 3, "two, and one that is closing");
        }
    }
    let mut a = connect("postgres");
    let mut b = connect("other");
    assert_eq!((a.value("select 1"), b.value("select 1")), ("1".into(), "1".into()));
    let mut c = connect("template1");
    c.send(&query("select current_database()"));
    eventually("it waits", || ferry.report().get("waiting_now") == 1);
    drop(a);
    assert_eq!(c.until_ready()[1].columns(), ["template1"]);
}

/// A server that takes connections and says nothing, in front of which attempts end by their time limit alone.
#[test]
fn a_slot_of_an_attempt_that_failed_goes_to_the_pool_that_waits_for_it() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let text = format!(
        "auth_type = \"trust\"\nmax_upstream = 1\nclient_login_timeout = \"15s\"\nquery_wait_timeout = \"15s\"\n\
         [databases.silent]\nupstream = \"postgres://trust_user@{}?sslmode=disable\"\nserver_connect_timeout = \"1s\"\n",
        silent.local_addr().expect("an address")
    );
    let postgres = Postgres::shared();
    let url = postgres.url().replace("postgres://", "postgres://trust_user@");
    let ferry = Pgferry::start_with_file(&url, &text, &[], &[]);
    let mut vain = ferry.raw();
    vain.send(&startup(&[("user", "trust_user"), ("database", "silent")]));
    let _attempt = silent.accept().expect("an attempt");
    let began = std::time::Instant::now();
    let mut other = ferry.raw();
    other.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    assert!(tags(&other.until_ready()).ends_with('Z'));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// A way to a server on which the answers on the first connection can be held up.
struct HeldWay {
    port: u16,
    held: Arc<(Mutex<bool>, Condvar)>,
    /// Tells of what is asked there.
    asked: Receiver<()>,
}

impl HeldWay {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let here = listener.local_addr().expect("an address").port();
        let (held, (ask, asked)) = (Arc::new((Mutex::new(false), Condvar::new())), channel());
        let gate = Arc::clone(&held);
        std::thread::spawn(move || {
            for (nth, near) in listener.incoming().map_while(Result::ok).enumerate() {
                let far = TcpStream::connect(("127.0.0.1", port)).expect("a server");
                let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                let (there, back) = ((copy(&near), copy(&far)), (copy(&far), copy(&near)));
                let (ask, gate) = (ask.clone(), Arc::clone(&gate));
                let tell = move || {
                    if nth == 0 {
                        // The test may have ended.
                        let _ = ask.send(());
                    }
                };
                std::thread::spawn(move || pump(there, tell));
                let wait = move || {
                    let held = gate.0.lock().expect("unpoisoned");
                    drop(gate.1.wait_while(held, |held| *held && nth == 0).expect("unpoisoned"));
                };
                std::thread::spawn(move || pump(back, wait));
            }
        });
        Self { port: here, held, asked }
    }

    fn hold(&self, is_held: bool) {
        *self.held.0.lock().expect("unpoisoned") = is_held;
        self.held.1.notify_all();
    }
}

/// Passes bytes on, each piece after `before`.
fn pump((mut from, mut to): (TcpStream, TcpStream), before: impl Fn()) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        before();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side may have gone.
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_connection_that_pgferry_itself_works_on_makes_room() {
    let postgres = Postgres::start_with(&[]);
    let way = HeldWay::to(postgres.port);
    let env = [("PGFERRY_MAX_UPSTREAM", "1"), ("PGFERRY_RESET", "always"), ("PGFERRY_CLEANUP_TIMEOUT", "60s")];
    let url = format!("postgres://127.0.0.1:{}?sslmode=disable", way.port);
    let ferry = Pgferry::start_with(&url, &["--pool-mode", "transaction"], &env);
    // Until a reset is held up.
    loop {
        assert_eq!(ferry.session().value("select 1"), "1");
        way.hold(true);
        way.asked.try_iter().for_each(drop);
        if way.asked.recv_timeout(Duration::from_secs(3)).is_ok() {
            break;
        }
        way.hold(false);
    }
    let connection = format!("host={} user=trust_user dbname=postgres replication=database", ferry.host());
    std::thread::scope(|scope| {
        let replicates = scope.spawn(|| psql(&connection, "", "IDENTIFY_SYSTEM"));
        let senders = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
        eventually("it asks for a place", || replicates.is_finished() || postgres.sql(senders) != "0");
        way.hold(false);
        assert!(replicates.join().expect("no panic").is_ok());
    });
}

#[test]
fn idle_and_old_connections_are_closed_and_some_are_kept() {
    let postgres = Postgres::start_with(&[]);
    let env = [("PGFERRY_SERVER_IDLE_TIMEOUT", "300ms"), ("PGFERRY_MIN_POOL_SIZE", "2")];
    let ferry = Pgferry::start_with(&postgres.url(), &["--pool-size", "6"], &env);
    let mut sessions: Vec<_> = (0..5).map(|_| ferry.session()).collect();
    for session in &mut sessions {
        assert_eq!(session.value("select 1"), "1");
    }
    assert_eq!(postgres.backends(), 5);
    drop(sessions);
    eventually("idle connections are closed", || postgres.backends() == 2);
    let report = ferry.report();
    assert_eq!(report.get("upstream_reset"), 0, "the server closed first each time");

    let env = [("PGFERRY_SERVER_LIFETIME", "400ms")];
    let ferry = Pgferry::start_with(&postgres.url(), &["--pool-size", "1"], &env);
    let pid = ferry.session().value("select pg_backend_pid()");
    eventually("an old connection is replaced", || ferry.session().value("select pg_backend_pid()") != pid);
}

#[test]
fn min_pool_size_counts_connections_in_use() {
    let postgres = Postgres::start_with(&[]);
    let env = [("PGFERRY_SERVER_IDLE_TIMEOUT", "300ms"), ("PGFERRY_MIN_POOL_SIZE", "3")];
    let ferry = Pgferry::start_with(&postgres.url(), &["--pool-size", "6"], &env);
    let mut sessions: Vec<_> = (0..2).map(|_| ferry.session()).collect();
    for session in &mut sessions {
        assert_eq!(session.value("select 1"), "1");
    }
    eventually("a third is opened beside the two in use", || postgres.backends() == 3);
    let mut more: Vec<_> = (0..3).map(|_| ferry.session()).collect();
    for session in &mut more {
        assert_eq!(session.value("select 1"), "1");
    }
    assert_eq!(postgres.backends(), 5);
    drop(more);
    // Were only idle connections counted, the three that were given back would stay.
    eventually("one of the three stays", || postgres.backends() == 3);
    for session in &mut sessions {
        assert_eq!(session.value("select 1"), "1");
    }
}

#[test]
fn a_new_upstream_is_used_after_a_reload() {
    let old = Postgres::start_with(&[]);
    let new = Postgres::start_with(&[]);
    for mode in ["session", "transaction"] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pgferry.toml");
        let path = dir.path().to_str().expect("UTF-8").to_owned();
        std::fs::write(&file, format!("upstream = \"{}\"\n", old.url())).expect("written");
        let config = file.to_str().expect("UTF-8").to_owned();
        let ferry = Pgferry::spawn(dir, &["--config", &config, "--listen", &path, "--pool-mode", mode, "-v"], &[]);
        let mut lasting = ferry.session();
        assert_eq!(lasting.value("show port"), old.port.to_string());
        std::fs::write(&file, format!("upstream = \"{}\"\n", new.url())).expect("written");
        ferry.signal(Signal::SIGHUP);
        eventually("reloaded", || ferry.log().contains("changed: upstream"));
        assert_eq!(ferry.session().value("show port"), new.port.to_string());
        assert_eq!(lasting.value("show port"), new.port.to_string(), "{mode}: it has left nothing there");
        drop(lasting);
        eventually("the old connections are closed", || old.backends() == 0);
    }
}

#[test]
fn a_users_limit_that_a_reload_brings_counts_the_connections_that_are_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pgferry.toml");
    std::fs::write(&file, "").expect("written");
    let ferry = Pgferry::start(Postgres::shared(), &["--config", file.to_str().expect("UTF-8")]);
    let mut sessions: Vec<_> = (0..3).map(|_| ferry.session()).collect();
    for session in &mut sessions {
        assert_eq!(session.value("select 1"), "1");
    }
    std::fs::write(&file, "[users.trust_user]\nmax_user_connections = 3\n").expect("written");
    ferry.signal(Signal::SIGHUP);
    ferry.logs("changed: users");
    let mut fourth = ferry.session();
    fourth.send(&query("select 4"));
    eventually("it waits", || ferry.report().get("waiting_now") == 1);
    assert_eq!(ferry.report().get("upstream_now"), 3);
    drop(sessions);
    assert_eq!(fourth.until_ready()[1].columns(), ["4"]);
}

#[test]
fn a_full_pool_that_should_have_more_idle_goes_on_serving() {
    let postgres = Postgres::start_with(&[]);
    let env = [("PGFERRY_MIN_POOL_SIZE", "2")];
    let ferry = Pgferry::start_with(&postgres.url(), &["--pool-size", "2"], &env);
    let mut holder = ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    eventually("the second is opened", || postgres.backends() == 2);
    let before = ferry.cpu_ticks();
    // Several rounds of the janitor, which would like to open a third.
    for _ in 0..300 {
        assert_eq!(ferry.session().value("select 2"), "2");
        std::thread::yield_now();
    }
    assert_eq!(holder.value("select 3"), "3");
    assert!(ferry.cpu_ticks() - before < 300);
}

#[test]
fn an_outage_with_many_who_wait_costs_little() {
    let mut postgres = Postgres::start_with(&[]);
    let env = [("PGFERRY_QUERY_WAIT_TIMEOUT", "30s")];
    let ferry = Pgferry::start_with(&postgres.url(), &["--pool-size", "2"], &env);
    drop(ferry.session());
    postgres.stop();
    let mut waiting: Vec<_> = (0..200).map(|_| ferry.session()).collect();
    for raw in &mut waiting {
        raw.send(&query("select 1"));
    }
    eventually("they wait", || ferry.report().get("waiting_now") == 200);
    let failed = ferry.report().get("upstream_failed");
    let before = ferry.cpu_ticks();
    eventually("it is tried again and again", || ferry.report().get("upstream_failed") >= failed + 6);
    assert!(ferry.cpu_ticks() - before < 100, "with one probe for all");
    postgres.start();
    std::thread::scope(|scope| {
        for mut raw in waiting {
            scope.spawn(move || assert_eq!(tags(&raw.until_ready()), "TDCZ"));
        }
    });
}

#[test]
fn waiting_clients_get_what_comes_back_before_what_is_being_opened() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "2"]);
    let mut first = ferry.session();
    let mut second = ferry.session();
    let pid = "select pg_backend_pid()";
    let returned = first.value(pid);
    assert_ne!(second.value(pid), returned);
    let mut third = ferry.session();
    third.send(&query(pid));
    drop(first);
    assert_eq!(third.until_ready()[1].columns(), [returned]);
}

#[test]
fn a_smaller_pool_shrinks_and_a_larger_one_grows_on_reload() {
    let postgres = Postgres::start_with(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pgferry.toml");
    let write = |size: u32| std::fs::write(&file, format!("pool_size = {size}\n")).expect("written");
    write(4);
    let ferry = Pgferry::start(&postgres, &["--config", file.to_str().expect("UTF-8")]);
    let mut sessions: Vec<_> = (0..4).map(|_| ferry.session()).collect();
    for session in &mut sessions {
        assert_eq!(session.value("select 1"), "1");
    }
    write(2);
    ferry.signal(Signal::SIGHUP);
    eventually("reloaded", || ferry.log().contains("changed: pool_size"));
    drop(sessions);
    eventually("the pool shrinks", || postgres.backends() <= 2);
    write(3);
    ferry.signal(Signal::SIGHUP);
    eventually("reloaded", || ferry.log().matches("changed: pool_size").count() == 2);
    let mut sessions: Vec<_> = (0..3).map(|_| ferry.session()).collect();
    for session in &mut sessions {
        assert_eq!(session.value("select 1"), "1");
    }
    std::fs::write(&file, "pool_size = 3\npool_sise = 4\n").expect("written");
    ferry.signal(Signal::SIGHUP);
    eventually("the mistake is explained", || {
        let log = ferry.log();
        log.contains("pgferry.toml:2: pool_sise")
            && log.contains("did you mean \"pool_size\"")
            && log.contains("the old ones stay")
    });
    assert_eq!(sessions[0].value("select 2"), "2");
}
