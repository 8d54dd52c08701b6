//! Floods of wrong, silent and half-open logins: the right one is let in all the same.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::postgres::{PASSWORD, free_port};
use crate::harness::protocol_client::{CANCEL_REQUEST, GSS_REQUEST, SSL_REQUEST, message, packet, password, startup};
use crate::harness::{Certs, ChildProcess, Pgferry, Postgres, ProtocolClient, ends, eventually};

/// How a login that answers with `secret` ends: the SQLSTATE and the message of the error, or nothing.
fn log_in(raw: &mut ProtocolClient, user: &str, database: &str, secret: &str) -> Option<(String, String)> {
    match raw.try_log_in(&[("user", user), ("database", database)], secret).last() {
        Some(message) if message.tag == b'Z' => None,
        Some(message) if message.tag == b'E' => Some((message.field(b'C'), message.field(b'M'))),
        _ => Some((String::new(), "closed".to_owned())),
    }
}

/// Runs `attack` in `threads` threads, over and over, while `work` is done; says how often it was run.
fn under_attack(threads: usize, attack: impl Fn(usize) + Sync, work: impl FnOnce()) -> usize {
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    attack(count.fetch_add(1, Ordering::SeqCst));
                }
            });
        }
        eventually("the attack has begun", || count.load(Ordering::SeqCst) >= threads);
        // Also when the work panics.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    count.into_inner()
}

#[test]
fn wrong_passwords_for_stored_secrets_do_not_keep_the_right_one_out() {
    let postgres = Postgres::shared();
    for method in ["scram-sha-256", "md5", "password"] {
        let ferry = Pgferry::start_with_file(
            &postgres.url(),
            &format!("auth_type = \"{method}\"\n[users]\ntrust_user = \"right\""),
            &[],
            &[],
        );
        let connection = format!("host={} dbname=postgres user=trust_user", ferry.host());
        let wrong = |_| {
            let error = crate::harness::psql(&connection, "wrong", "select 1").expect_err("wrong");
            assert!(error.contains("password authentication failed"), "{error}");
        };
        under_attack(24, wrong, || {
            for _ in 0..10 {
                assert_eq!(crate::harness::psql(&connection, "right", "select 1"), Ok("1".into()), "{method}");
            }
        });
    }
}

/// Clients that give a wrong answer all at once, the replies to which are held back.
fn wrong_answers(ferry: &Pgferry, count: usize, user: &str) -> Vec<ProtocolClient> {
    let mut wrong: Vec<_> = (0..count)
        .map(|_| {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", user), ("database", "postgres")]));
            raw
        })
        .collect();
    for (nth, raw) in wrong.iter_mut().enumerate() {
        assert_eq!(raw.recv().expect("a question").tag, b'R');
        raw.send(&password(&format!("wrong {nth}")));
    }
    wrong
}

#[test]
fn a_thousand_wrong_answers_at_once_delay_the_right_one_little() {
    let postgres = Postgres::shared();
    for method in ["md5", "password"] {
        let file = format!("auth_type = \"{method}\"\nclient_login_timeout = \"5s\"\n[users]\ntrust_user = \"right\"");
        let ferry = Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
        let mut wrong = wrong_answers(&ferry, 900, "trust_user");
        let connection = format!("host={} dbname=postgres user=trust_user", ferry.host());
        assert_eq!(crate::harness::psql(&connection, "right", "select 1"), Ok("1".into()), "{method}");
        for raw in &mut wrong {
            let told = raw.until(b'E').last().expect("a reply").clone();
            assert_eq!(told.field(b'C'), "28P01", "each was checked: {told:?}");
        }
    }
}

#[test]
fn wrong_passwords_for_the_upstream_do_not_keep_the_right_one_out() {
    let postgres = Postgres::start_with(&[]);
    for come_before in [false, true] {
        let ferry = Pgferry::start(&postgres, &[]);
        if come_before {
            assert_eq!(log_in(&mut ferry.raw(), "scram_user", "postgres", PASSWORD), None);
        }
        let wrong = |nth| {
            let (code, message) =
                log_in(&mut ferry.raw(), "scram_user", "postgres", &format!("wrong {nth}")).expect("wrong");
            assert_eq!(code, "28P01", "{message}");
        };
        under_attack(24, wrong, || {
            for _ in 0..10 {
                assert_eq!(log_in(&mut ferry.raw(), "scram_user", "postgres", PASSWORD), None);
            }
        });
    }
}

#[test]
fn a_thousand_wrong_passwords_for_the_upstream_at_once_delay_the_right_one_little() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "5s")]);
    let _wrong = wrong_answers(&ferry, 900, "scram_user");
    // Nothing is known of the role yet, and hundreds are in front.
    assert_eq!(log_in(&mut ferry.raw(), "scram_user", "postgres", PASSWORD), None);
}

#[test]
fn a_thousand_roles_that_come_at_once_are_all_served() {
    let postgres = Postgres::start_with(&["max_connections=150"]);
    postgres
        .sql("do $$ begin for n in 1..1000 loop execute format('create role tenant_%s login', n); end loop; end $$");
    // A busy machine forks no faster for that.
    let ferry = Pgferry::start_with(
        &postgres.url(),
        &[],
        &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "120s"), ("PGFERRY_QUERY_WAIT_TIMEOUT", "120s")],
    );
    let mut clients: Vec<_> = (1..=1000)
        .map(|nth| {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", &format!("tenant_{nth}")), ("database", "postgres")]));
            raw
        })
        .collect();
    let mut refusals = Vec::new();
    for (nth, raw) in (1..).zip(&mut clients) {
        match raw.until_ready().last() {
            Some(ready) if ready.tag == b'Z' => {}
            other => refusals.push((nth, other.cloned())),
        }
    }
    assert!(refusals.is_empty(), "{} refused: {:?}", refusals.len(), &refusals[..1]);
    for (nth, raw) in (1..).zip(&mut clients).step_by(100) {
        assert_eq!(raw.value("select current_user"), format!("tenant_{nth}"));
    }
}

#[test]
fn unknown_names_cost_the_upstream_a_bounded_rate() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let ferry = Pgferry::start(&postgres, &[]);
    let before = postgres.connections_received();
    let started = std::time::Instant::now();
    let mut clients: Vec<_> = (0..400)
        .map(|nth| {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", "trust_user"), ("database", &format!("no_such_{nth}"))]));
            raw
        })
        .collect();
    assert_eq!(
        log_in(&mut ferry.raw(), "trust_user", "postgres", ""),
        None,
        "whoever is known to nobody comes in all the same"
    );
    for raw in &mut clients {
        assert_eq!(raw.until(b'E').last().expect("an error").field(b'C'), "3D000");
    }
    // A hundred at once, then a hundred a second.
    let bound = 100 + started.elapsed().as_millis() / 10 + 10;
    let opened = u128::try_from(postgres.connections_received() - before).expect("small");
    assert!(opened <= bound, "{opened} connections, at most {bound}");
}

#[test]
fn many_users_of_many_databases_are_served_at_once() {
    let postgres = Postgres::start_with(&["max_connections=120"]);
    postgres.sql("do $$ begin for n in 0..19 loop execute format('create role u_%s login', n); end loop; end $$");
    for nth in 0..10 {
        postgres.sql(&format!("create database d_{nth}"));
    }
    let ferry = Pgferry::start(&postgres, &[]);
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let ferry = &ferry;
            scope.spawn(move || {
                for nth in 0..40 {
                    let (user, database) = (format!("u_{}", nth % 20), format!("d_{}", (thread + nth / 20) % 10));
                    let mut raw = ProtocolClient::logged_in(ferry.raw(), &user, &database);
                    let who = raw.value("select current_user || ' ' || current_database()");
                    assert_eq!(who, format!("{user} {database}"));
                }
            });
        }
    });
    let report = ferry.report();
    assert_eq!((report.get("logins_tried_upstream"), report.get("refused")), (200, 0));
}

#[test]
fn a_full_server_is_no_wrong_password() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create role lim login password 'right' connection limit 1");
    postgres.prepend_hba("host all lim 127.0.0.1/32 scram-sha-256");
    let direct = format!("host=127.0.0.1 port={} user=lim dbname=postgres", postgres.port);
    eventually("the rule is in force", || crate::harness::psql(&direct, "wrong", "select 1").is_err());
    let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
    let mut command = std::process::Command::new(crate::harness::postgres::program("psql"));
    command.args(["-X", "-d", &direct, "-c", "select pg_sleep(600)"]).env("PGPASSWORD", "right");
    let mut holding = ChildProcess::spawn(&mut command);
    let held = "select count(*) from pg_stat_activity where usename = 'lim' and state = 'active'";
    eventually("it holds the connection", || postgres.sql(held) == "1");
    for _ in 0..2 {
        let (code, message) = log_in(&mut ferry.raw(), "lim", "postgres", "right").expect("full");
        assert_eq!((code.as_str(), message.as_str()), ("53300", "too many connections for role \"lim\""));
    }
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'lim'");
    ends(&mut holding);
    assert_eq!(log_in(&mut ferry.raw(), "lim", "postgres", "right"), None);
}

/// Begins to log in, and never answers what is asked.
fn silent(ferry: &Pgferry, params: &[(&str, &str)]) -> ProtocolClient {
    let mut raw = ferry.raw();
    raw.send(&startup(params));
    raw
}

#[test]
fn silent_logins_hold_up_nobody() {
    let postgres = Postgres::start_with(&["max_wal_senders=20"]);
    // Nobody waits until their time is up.
    let ferry = Pgferry::start_with(
        &postgres.url(),
        &[],
        &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "600s"), ("PGFERRY_MAX_UPSTREAM", "4")],
    );
    let databases: Vec<_> = (0..40).map(|nth| format!("db_{nth}")).collect();
    let mut waiting: Vec<_> =
        databases.iter().map(|database| silent(&ferry, &[("user", "scram_user"), ("database", database)])).collect();
    for _ in 0..40 {
        waiting.push(silent(&ferry, &[("user", "scram_user"), ("database", "postgres"), ("replication", "true")]));
    }
    for raw in &mut waiting {
        assert_eq!(raw.recv().expect("a question").body, [0, 0, 0, 3]);
    }
    assert_eq!(log_in(&mut ferry.raw(), "plain_user", "postgres", PASSWORD), None);
    let mut client = ProtocolClient::logged_in(ferry.raw(), "trust_user", "other");
    assert_eq!(client.value("select 1"), "1");
    let mut replication = silent(&ferry, &[("user", "scram_user"), ("database", "postgres"), ("replication", "true")]);
    assert_eq!(replication.recv().expect("a question").body, [0, 0, 0, 3]);
    replication.send(&password(PASSWORD));
    assert_eq!(replication.until_ready().last().map(|message| message.tag), Some(b'Z'));
    eventually("nothing of the upstream is theirs", || postgres.backends() <= 4);
    // Whoever answers at last is let in still.
    let mut late = waiting.pop().expect("one of them");
    late.send(&password(PASSWORD));
    assert_eq!(late.until_ready().last().map(|message| message.tag), Some(b'Z'));
}

#[test]
fn silent_clients_make_room_for_those_who_log_in() {
    let postgres = Postgres::shared();
    let env = [("PGFERRY_CLIENT_LOGIN_TIMEOUT", "600s"), ("PGFERRY_MAX_CLIENT_CONN", "10")];
    let ferry = Pgferry::start_with(&postgres.url(), &[], &env);
    let session = ProtocolClient::logged_in(ferry.raw(), "trust_user", "postgres");
    let mut silent: Vec<_> = (0..200).map(|_| ferry.raw()).collect();
    for raw in &mut silent {
        // What is half of a packet is still nothing.
        raw.try_send(&startup(&[("user", "trust_user"), ("database", "postgres")])[..20]);
    }
    let mut asked: Vec<_> =
        (0..20).map(|_| self::silent(&ferry, &[("user", "scram_user"), ("database", "postgres")])).collect();
    for _ in 0..9 {
        let mut client = ProtocolClient::logged_in(ferry.raw(), "trust_user", "postgres");
        assert_eq!(client.value("select 1"), "1");
    }
    let told = silent[0].recv().expect("the reason");
    assert_eq!(told.field(b'C'), "53300");
    assert!(told.field(b'D').contains("had not logged in"), "{told:?}");
    let told = asked[0].until(b'E').last().expect("the reason").clone();
    assert_eq!(told.field(b'C'), "53300", "{told:?}");
    eventually("they are gone", || ferry.report().get("clients_now") == 1);
    // Those who have logged in make no room.
    let mut sessions = Vec::new();
    eventually("they have logged in", || {
        let mut raw = ferry.raw();
        sessions.extend(log_in(&mut raw, "trust_user", "postgres", "").is_none().then_some(raw));
        sessions.len() == 9
    });
    let mut eleventh = self::silent(&ferry, &[("user", "trust_user"), ("database", "postgres")]);
    assert_eq!(eleventh.recv().expect("an error").field(b'M'), "sorry, too many clients already");
    drop((session, sessions));
}

/// Stages at which a client may stop before it has logged in: and what it has sent by then.
fn stages() -> Vec<(&'static str, Vec<u8>)> {
    let login = |database: &str, more: &[(&str, &str)]| {
        startup(&[&[("user", "trust_user"), ("database", database)], more].concat())
    };
    let initial = [b"SCRAM-SHA-256\0".as_slice(), &32u32.to_be_bytes(), b"n,,n=,r=abcdefghijklmnopqrstuvwx"].concat();
    let scram = message(b'p', &initial);
    let tls = packet(SSL_REQUEST, b"");
    vec![
        ("nothing", Vec::new()),
        ("half a length", vec![0, 0]),
        ("half a startup packet", login("postgres", &[])[..20].to_vec()),
        ("a request for GSSAPI", packet(GSS_REQUEST, b"")),
        ("a request for TLS", tls.clone()),
        ("TLS's first bytes", b"\x16\x03\x01\x02\x00\x01\x00".to_vec()),
        ("a question", login("asks", &[])),
        ("half a password", [login("asks", &[]), password("right")[..7].to_vec()].concat()),
        ("SCRAM's first message", [login("scram", &[]), scram].concat()),
        ("half a cancel request", packet(CANCEL_REQUEST, &[0; 8])[..12].to_vec()),
        ("replication", login("asks", &[("replication", "true")])),
        ("the console", login("pgferry", &[])),
    ]
}

#[test]
fn clients_that_stop_at_any_stage_make_room() {
    let postgres = Postgres::shared();
    let file = "client_login_timeout = \"600s\"\nmax_client_conn = 10\nadmin_peer = false\n[users]\ntrust_user = \"right\"\n\
                [[rule]]\ndatabase = \"scram\"\nmethod = \"scram-sha-256\"\n\
                [[rule]]\ndatabase = [\"asks\", \"pgferry\"]\nmethod = \"password\"\n[[rule]]\nmethod = \"pass-through\"";
    let ferry = Pgferry::start_with_file(&postgres.url(), file, &[], &[]);
    let session = ferry.session();
    for (stage, sent) in stages() {
        let mut stopped: Vec<_> = (0..40).map(|_| ferry.raw()).collect();
        for raw in &mut stopped {
            raw.try_send(&sent);
        }
        for _ in 0..5 {
            let outcome = log_in(&mut ferry.raw(), "trust_user", "postgres", "");
            assert_eq!(outcome, None, "{stage}");
        }
    }
    drop(session);
}

#[test]
fn logins_that_are_not_over_hold_no_place_of_their_role() {
    let postgres = Postgres::shared();
    let file = "[users.scram_user]\nmax_user_client_connections = 1\n";
    let ferry = Pgferry::start_with_file(&postgres.url(), file, &[], &[]);
    let mut waiting = silent(&ferry, &[("user", "scram_user"), ("database", "postgres")]);
    assert_eq!(waiting.recv().expect("a question").body, [0, 0, 0, 3]);
    let mut first = ferry.raw();
    assert_eq!(log_in(&mut first, "scram_user", "postgres", PASSWORD), None);
    let (code, message) = log_in(&mut ferry.raw(), "scram_user", "postgres", PASSWORD).expect("one too many");
    assert_eq!((code.as_str(), message.as_str()), ("53300", "too many connections for role \"scram_user\""));
    let (code, _) = log_in(&mut ferry.raw(), "scram_user", "postgres", "wrong").expect("a wrong password");
    assert_eq!(code, "28P01", "the limit is told only to clients of the role");
    drop(first);
}

#[test]
fn idle_connections_make_room_for_replication_and_lookups() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create role looks_up login superuser");
    let file = "auth_user = \"looks_up\"\nmax_upstream = 2\n\
                [[rule]]\ndatabase = [\"postgres\", \"other\"]\nuser = \"trust_user\"\nmethod = \"trust\"\n[[rule]]\nmethod = \"scram-sha-256\"\n";
    let url = postgres.url().replace("127.0.0.1", "trust_user@127.0.0.1");
    let ferry = Pgferry::start_with_file(&url, file, &[], &[]);
    let fill = || {
        for database in ["postgres", "other"] {
            assert_eq!(ProtocolClient::logged_in(ferry.raw(), "trust_user", database).value("select 1"), "1");
        }
    };
    fill();
    let as_scram = format!("host={} dbname=postgres user=scram_user", ferry.host());
    assert_eq!(crate::harness::psql(&as_scram, PASSWORD, "select 1"), Ok("1".into()));
    fill();
    let replication = format!("host={} dbname=postgres user=trust_user replication=database", ferry.host());
    assert!(crate::harness::psql(&replication, "", "IDENTIFY_SYSTEM").is_ok());
    fill();
    let as_scram = format!("host={} dbname=other user=scram_user", ferry.host());
    assert_eq!(crate::harness::psql(&as_scram, PASSWORD, "select 1"), Ok("1".into()));
}

#[test]
fn long_answers_of_clients_that_have_proved_nothing_are_few() {
    let postgres = Postgres::shared();
    let file = "auth_type = \"password\"\nclient_login_timeout = \"600s\"\n[users]\ntrust_user = \"right\"";
    let ferry = Pgferry::start_with_file(&postgres.url(), file, &[], &[]);
    let before = ferry.memory();
    let begun = &password(&"x".repeat(65_000))[..60_000];
    let _silent: Vec<_> = (0..900)
        .map(|_| {
            let mut raw = silent(&ferry, &[("user", "trust_user"), ("database", "postgres")]);
            assert_eq!(raw.recv().expect("a question").body, [0, 0, 0, 3]);
            // It may be evicted while it sends.
            raw.try_send(begun);
            raw
        })
        .collect();
    assert_eq!(log_in(&mut ferry.raw(), "trust_user", "postgres", "right"), None);
    let grown = ferry.memory().saturating_sub(before);
    assert!(grown < 36_000, "{grown} kB for 54 MB");
    // A long password is a password all the same.
    assert_eq!(log_in(&mut ferry.raw(), "trust_user", "postgres", &"x".repeat(60_000)).expect("wrong").0, "28P01");
}

#[test]
fn names_of_databases_hold_up_no_lookup_of_another_source() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create role looks_up login superuser");
    let (port, dir) = (free_port(), tempfile::tempdir().expect("a directory"));
    let file = format!(
        "listen = [\"127.0.0.1:{port}\", \"{}\"]\nauth_type = \"scram-sha-256\"\nauth_user = \"looks_up\"\nserver_connect_timeout = \"2s\"\n",
        dir.path().display()
    );
    let certs = Certs::new();
    let path = certs.write("pgferry.toml", &file);
    let ferry = Pgferry::spawn(dir, &["-u", &postgres.url(), "-c", &path], &[]);
    let others = std::sync::Mutex::new(std::collections::VecDeque::new());
    let attack = |nth: usize| {
        let raw = silent(&ferry, &[("user", "scram_user"), ("database", &format!("no_such_{nth}"))]);
        let mut others = others.lock().expect("unpoisoned");
        others.push_back(raw);
        if others.len() > 600 {
            others.pop_front();
        }
        drop(others);
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    under_attack(4, attack, || {
        eventually("some have been looked up in vain", || ferry.log().matches("does not exist").count() > 20);
        // By TCP it is another source.
        let connection = format!("host=127.0.0.1 port={port} dbname=postgres user=scram_user");
        assert_eq!(crate::harness::psql(&connection, PASSWORD, "select 1"), Ok("1".into()));
    });
}

/// A server that takes connections and says nothing.
#[test]
fn a_server_that_hangs_holds_up_no_lookup_at_another() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create role looks_up login superuser");
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = hangs.local_addr().expect("an address").port();
    let file = format!(
        "auth_type = \"scram-sha-256\"\nauth_user = \"looks_up\"\nserver_connect_timeout = \"30s\"\nclient_login_timeout = \"3s\"\n\
         [databases.stuck]\nupstream = \"postgres://127.0.0.1:{port}\"\n"
    );
    let ferry = Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
    let mut stuck: Vec<_> = (0..20).map(|_| silent(&ferry, &[("user", "scram_user"), ("database", "stuck")])).collect();
    // Some of them go.
    stuck.truncate(10);
    let begun = Instant::now();
    let connection = format!("host={} dbname=postgres user=scram_user", ferry.host());
    assert_eq!(crate::harness::psql(&connection, PASSWORD, "select 1"), Ok("1".into()));
    for raw in &mut stuck {
        let error = raw.recv().expect("an error");
        assert!(matches!(&*error.field(b'C'), "28000" | "53300"), "{}", error.field(b'M'));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "told at the end of client_login_timeout: {:?}",
        begun.elapsed()
    );
    drop(hangs);
    ferry.give_up();
}
