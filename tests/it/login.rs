//! Who comes in: pass-through, peer, trust.

use crate::harness::postgres::PASSWORD;
use crate::harness::protocol_client::{message, password, query, startup, tags};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually};

/// Logs in and answers the question for a password, if there is one; returns all that was said.
fn log_in(mut raw: ProtocolClient, user: &str, secret: &str) -> (ProtocolClient, Vec<Message>) {
    let said = raw.try_log_in(&[("user", user), ("database", "postgres")], secret);
    (raw, said)
}

fn is_in(said: &[Message]) -> bool {
    said.last().is_some_and(|message| message.tag == b'Z')
}

fn code(said: &[Message]) -> String {
    said.last().map(|message| message.field(b'C')).unwrap_or_default()
}

#[test]
fn a_password_is_asked_for_only_where_the_upstream_asks() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    for (user, asked) in [("trust_user", false), ("md5_user", true), ("scram_user", true), ("plain_user", true)] {
        for _ in 0..3 {
            let (mut raw, said) = log_in(ferry.raw(), user, PASSWORD);
            assert!(is_in(&said), "{user}: {said:?}");
            assert_eq!(said[0].body == [0, 0, 0, 3], asked, "{user}");
            assert_eq!(raw.value("select current_user"), user);
        }
    }
}

#[test]
fn a_known_password_costs_no_connection_and_a_wrong_one_gets_the_servers_words() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let ferry = Pgferry::start(&postgres, &[]);
    assert!(is_in(&log_in(ferry.raw(), "scram_user", PASSWORD).1));
    let tried = ferry.report().get("logins_tried_upstream");
    for _ in 0..50 {
        assert!(is_in(&log_in(ferry.raw(), "scram_user", PASSWORD).1));
    }
    assert_eq!(ferry.report().get("logins_tried_upstream"), tried);
    let (_, said) = log_in(ferry.raw(), "scram_user", "wrong");
    assert_eq!(code(&said), "28P01");
    let error = said.last().expect("an error");
    assert_eq!(error.field(b'M'), "password authentication failed for user \"scram_user\"");
    assert_eq!(error.field(b'R'), "auth_failed", "the server's own error, with its routine");
    assert!(is_in(&log_in(ferry.raw(), "scram_user", PASSWORD).1), "the right one still works");
}

#[test]
fn wrong_passwords_in_a_loop_cost_a_bounded_number_of_connections() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let ferry = Pgferry::start(&postgres, &[]);
    assert!(is_in(&log_in(ferry.raw(), "md5_user", PASSWORD).1));
    let before = postgres.connections_received();
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        for client in 0..20 {
            let ferry = &ferry;
            scope.spawn(move || {
                for nth in 0..10 {
                    let (_, said) = log_in(ferry.raw(), "md5_user", &format!("wrong {}", (client * nth) % 4));
                    assert!(["28P01", "53300", "28000"].contains(&code(&said).as_str()), "{said:?}");
                }
            });
        }
    });
    // Five at once, then one a second; each of the four wrong passwords is asked about again after five seconds.
    let bound = 5 + usize::try_from(started.elapsed().as_secs()).expect("small") + 1;
    let opened = postgres.connections_received() - before;
    assert!(opened <= bound, "{opened} connections, at most {bound}");
    assert!(is_in(&log_in(ferry.raw(), "md5_user", PASSWORD).1));
}

#[test]
fn clients_that_vanish_cost_a_bounded_number_of_connections() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let ferry = Pgferry::start(&postgres, &[]);
    let before = postgres.connections_received();
    for user in ["trust_user", "scram_user", "nobody_at_all"] {
        for _ in 0..20 {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", user), ("database", "postgres")]));
            drop(raw);
        }
    }
    eventually("all are gone", || ferry.report().get("clients_now") == 0);
    let (_, said) = log_in(ferry.raw(), "trust_user", "");
    assert!(is_in(&said));
    let opened = postgres.connections_received() - before;
    // Who is not known is tried at most 20 times at once, then 5 times a second; each user 5 times, then once.
    assert!(opened <= 25, "{opened}");
}

#[test]
fn strangers_leave_nothing_in_memory() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    assert!(is_in(&log_in(ferry.raw(), "scram_user", PASSWORD).1));
    for nth in 0..300 {
        let mut raw = ferry.raw();
        let options = format!("-c some.thing={nth}{}", "x".repeat(5000));
        raw.send(&startup(&[("user", "scram_user"), ("database", "postgres"), ("options", &options)]));
        assert_eq!(raw.recv().map(|message| message.tag), Some(b'R'));
        drop(raw);
    }
    eventually("their pools are forgotten", || ferry.report().get("pools_now") == 1);
}

#[test]
fn a_changed_password_is_followed_in_both_directions() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "2"]);
    postgres.sql("create role changing login password 'old'");
    postgres.prepend_hba("host all changing 127.0.0.1/32 scram-sha-256");
    eventually("the rule is in force", || is_in(&log_in(ferry.raw(), "changing", "old").1));
    postgres.sql("alter role changing password 'new'");
    assert!(is_in(&log_in(ferry.raw(), "changing", "new").1), "the new one works at once");
    assert_eq!(code(&log_in(ferry.raw(), "changing", "old").1), "28P01", "and the old one no more");
    postgres.sql("alter role changing password 'old'");
    eventually("a refusal is forgotten", || is_in(&log_in(ferry.raw(), "changing", "old").1));
    // Where the upstream has changed its mind about a remembered password, the next connection finds out.
    postgres.sql("alter role changing password 'newer'");
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'changing'");
    let (mut raw, said) = log_in(ferry.raw(), "changing", "old");
    assert!(is_in(&said));
    let error = raw.error("select 1");
    assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "28P01"));
    assert_eq!(code(&log_in(ferry.raw(), "changing", "old").1), "28P01");
    assert!(is_in(&log_in(ferry.raw(), "changing", "newer").1));
}

#[test]
fn a_herd_of_first_clients_costs_one_try() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "3"]);
    let before = postgres.connections_received();
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                let (mut raw, said) = log_in(ferry.raw(), "scram_user", PASSWORD);
                assert!(is_in(&said), "{said:?}");
                assert_eq!(raw.value("select 1"), "1");
            });
        }
    });
    let tried = ferry.report().get("logins_tried_upstream");
    assert!(tried <= 2, "{tried}");
    assert!(postgres.connections_received() - before <= 5);
}

#[test]
fn answers_that_are_no_passwords_are_refused() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    assert!(is_in(&log_in(ferry.raw(), "scram_user", PASSWORD).1));
    for (answer, expected) in [
        (password(""), "28P01"),
        (message(b'p', b"no terminator"), "08P01"),
        (message(b'p', b"a\0b\0"), "08P01"),
        (message(b'Q', b"select 1\0"), "08P01"),
        ([&b"p"[..], &0xffff_ffffu32.to_be_bytes()].concat(), "08P01"),
        ([&b"p"[..], &3u32.to_be_bytes()].concat(), "08P01"),
    ] {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
        assert_eq!(raw.recv().map(|message| message.body), Some(vec![0, 0, 0, 3]));
        raw.send(&answer);
        let error = raw.recv().expect("an error");
        assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", expected), "{error:?}");
        assert!(raw.recv().is_none());
    }
    // libpq without a password closes, asks its user, and comes again.
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
    assert_eq!(raw.recv().map(|message| message.tag), Some(b'R'));
    drop(raw);
    let long = "x".repeat(2000);
    assert_eq!(code(&log_in(ferry.raw(), "scram_user", &long).1), "28P01", "tokens may be long");
}

#[test]
fn passwords_are_never_logged() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &["-v"], &[("PGFERRY_LOG_CONNECTIONS", "true")]);
    assert!(is_in(&log_in(ferry.raw(), "scram_user", PASSWORD).1));
    log_in(ferry.raw(), "scram_user", "hunter2");
    assert!(!ferry.log().contains("hunter2") && !ferry.log().contains(PASSWORD), "{}", ferry.log());
}

#[test]
fn trust_uses_the_urls_credential_and_only_its_user() {
    let postgres = Postgres::shared();
    let url = format!("postgres://scram_user:pa%20ss'w%5Cord@127.0.0.1:{}", postgres.port);
    let ferry = Pgferry::start_with(&url, &["--auth-type", "trust"], &[]);
    let (mut raw, said) = log_in(ferry.raw(), "scram_user", "");
    assert!(is_in(&said) && said[0].body == [0; 4], "no password is asked for: {said:?}");
    assert_eq!(raw.value("select current_user"), "scram_user");
    let (_, said) = log_in(ferry.raw(), "trust_user", "");
    assert_eq!(code(&said), "28000");
    assert!(said[0].field(b'H').contains("scram_user"), "{said:?}");
}

#[test]
fn peer_lets_in_whom_the_rules_name() {
    let postgres = Postgres::shared();
    let url = format!("postgres://127.0.0.1:{}", postgres.port);
    let uid = nix::unistd::geteuid();
    let rules = format!("uid={uid} roles=trust_user,scram_user");
    let env = [("PGFERRY_PEER", rules.as_str()), ("PGFERRY_UPSTREAM_PASSWORD", PASSWORD)];
    let ferry = Pgferry::start_with(&url, &["--auth-type", "peer"], &env);
    for user in ["trust_user", "scram_user"] {
        let (mut raw, said) = log_in(ferry.raw(), user, "");
        assert!(is_in(&said), "{said:?}");
        assert_eq!(raw.value("select current_user"), user);
    }
    let (_, said) = log_in(ferry.raw(), "md5_user", "");
    assert_eq!(code(&said), "28000");
    assert_eq!(said[0].field(b'M'), "Peer authentication failed for user \"md5_user\"");
    assert!(said[0].field(b'D').contains(&format!("uid {uid}")));
}

#[test]
fn a_missing_upstream_credential_is_explained() {
    let postgres = Postgres::shared();
    let url = format!("postgres://scram_user@127.0.0.1:{}", postgres.port);
    let ferry = Pgferry::start_with(&url, &["--auth-type", "trust"], &[]);
    let (_, said) = log_in(ferry.raw(), "scram_user", "");
    assert_eq!(code(&said), "28000");
    assert!(said[0].field(b'H').contains("upstream_password"), "{said:?}");
}

#[test]
fn loopback_tcp_and_abstract_sockets_take_passwords_too() {
    let port = crate::harness::postgres::free_port();
    let name = format!("@pgferry-test-{port}");
    let tcp = format!("127.0.0.1:{port}");
    let ferry = Pgferry::start(Postgres::shared(), &["--listen", &tcp, "--listen", &name]);
    let (mut raw, said) = log_in(ProtocolClient::tcp(port), "scram_user", PASSWORD);
    assert!(is_in(&said));
    assert_eq!(raw.value("select 1"), "1");
    let out = crate::harness::run(
        "psql",
        &["-X", "-h", &name, "-U", "scram_user", "-d", "postgres", "-Atc", "select current_user"],
        &[("PGPASSWORD", PASSWORD)],
    );
    assert_eq!(out.trim(), "scram_user");
    ferry.logs(&format!("host={name}"));
}

#[test]
fn replication_is_passed_through() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &[]);
    for (nth, (user, mode)) in
        [("trust_user", "database"), ("trust_user", "true"), ("scram_user", "database"), ("scram_user", "on")]
            .into_iter()
            .enumerate()
    {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", user), ("database", "postgres"), ("replication", mode)]));
        let first = raw.recv().expect("an answer");
        if user == "scram_user" {
            assert_eq!(first.body, [0, 0, 0, 3]);
            raw.send(&password(PASSWORD));
        }
        assert!(tags(&raw.until_ready()).ends_with("KZ"), "{user} {mode}");
        let messages = raw.query("IDENTIFY_SYSTEM");
        assert_eq!(tags(&messages), "TDCZ", "{messages:?}");
        let shown = if mode == "database" { "logical" } else { "physical" };
        let clients = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry").query("show clients");
        assert!(clients.iter().any(|row| row.tag == b'D' && row.columns()[3] == shown), "{clients:?}");
        // A name of its own: the slot of the one before may not be gone yet.
        let slot = format!("s{}_{nth}", std::process::id());
        let slot = raw.query(&format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY PHYSICAL"));
        assert!(tags(&slot).contains('D'), "{slot:?}");
        raw.send(&crate::harness::protocol_client::query("START_REPLICATION PHYSICAL 0/1000000"));
        let begun = raw.recv().expect("an answer");
        // Copy-both, or that this part of the log is gone: the server's answer either way.
        assert!(matches!(begun.tag, b'W' | b'E'), "{begun:?}");
    }
    eventually("the connections are closed", || {
        let replicating = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
        postgres.sql(replicating) == "0"
    });
}

#[test]
fn a_greeting_has_postgresqls_spelling_where_no_connection_can_be_asked() {
    let postgres = Postgres::shared();
    let told = |raw: &mut ProtocolClient, name: &str, value: &str| {
        let said = raw.try_log_in(&[("user", "trust_user"), ("database", "postgres"), (name, value)], "");
        assert!(is_in(&said), "{name} = {value}: {said:?}");
        let mut told: Vec<_> =
            said.iter().filter(|message| message.tag == b'S').map(|told| told.body.clone()).collect();
        told.sort();
        told
    };
    let ferry = Pgferry::start(postgres, &["--pool-size", "1"]);
    let mut holder = ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    for (name, value) in [
        ("client_encoding", "utf-8"),
        ("client_encoding", "Unicode"),
        ("client_encoding", "iso_8859_1"),
        ("client_encoding", "sql_ascii"),
        ("DateStyle", "iso"),
        ("DateStyle", "iso, dmy"),
        ("DateStyle", "european,PostgreSQL"),
        ("datestyle", "us"),
        ("DateStyle", "german"),
        ("DateStyle", "german, ymd"),
        ("DateStyle", "iso, iso"),
        ("IntervalStyle", "ISO_8601"),
        ("standard_conforming_strings", "TRUE"),
        ("standard_conforming_strings", "of"),
        ("application_name", "it's me"),
    ] {
        let directly = told(&mut ProtocolClient::tcp(postgres.port), name, value);
        assert_eq!(told(&mut ferry.raw(), name, value), directly, "{name} = {value}");
    }
}

/// They come together, so that most wait until it is known whether the server lets their role in.
#[test]
fn clients_that_send_no_more_are_logged_in_and_get_their_answers() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &[]);
    let answers = |connect: &dyn Fn() -> ProtocolClient| {
        let clients: Vec<_> = (0..20)
            .map(|_| {
                let mut raw = connect();
                raw.send(&[startup(&[("user", "trust_user"), ("database", "postgres")]), query("select 7")].concat());
                raw.end();
                raw
            })
            .collect();
        clients.into_iter().map(|mut raw| tags(&raw.read_to_end()).replace('S', "")).collect::<Vec<_>>()
    };
    let direct = answers(&|| ProtocolClient::tcp(postgres.port));
    assert!(direct.iter().all(|tags| tags == "RKZTDCZ"), "{direct:?}");
    assert_eq!(answers(&|| ferry.raw()), direct);
}
