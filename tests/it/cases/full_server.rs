//! A server that has no connection left: it is waited for, its words are passed on, and who has idle connections gives them back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::postgres::PASSWORD;
use crate::harness::protocol_client::{Message, ProtocolClient, startup};
use crate::harness::{Certs, Pgferry, Postgres, eventually, psql};

/// What the log says of a full server.
const FULL: &str = "is full and refuses connections";

/// Direct connections of `user` that hold `count` places.
fn hold(postgres: &Postgres, user: &str, count: usize) -> Vec<ProtocolClient> {
    (0..count).map(|_| ProtocolClient::tcp(postgres.port).logged_in(user, "postgres")).collect()
}

fn client(ferry: &Pgferry, user: &str, database: &str) -> ProtocolClient {
    ProtocolClient::logged_in(ferry.raw(), user, database)
}

fn refused_login(ferry: &Pgferry, user: &str) -> Message {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", user), ("database", "postgres")]));
    raw.read_to_end().pop().expect("a refusal")
}

#[test]
fn a_login_waits_for_a_full_server_and_is_told_its_words() {
    let postgres = Postgres::start_with(&["max_connections=10"]);
    let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
    let held = hold(&postgres, "limited", 7);
    // Several at a time, since they wait for each other.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let refused = refused_login(&ferry, "limited");
                assert_eq!((refused.tag, refused.field(b'C').as_str()), (b'E', "53300"), "{refused:?}");
                assert!(refused.field(b'M').contains("connection"), "{refused:?}");
            });
        }
    });
    let failed = ferry.report().get("upstream_failed");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client(&ferry, "limited", "postgres").value("select 1"));
        eventually("it is tried", || ferry.report().get("upstream_failed") > failed);
        drop(held);
        assert_eq!(waiting.join().expect("no panic"), "1");
    });
    ferry.logs(FULL);
    assert_eq!(ferry.log().matches(FULL).count(), 1);
}

#[test]
fn idle_connections_of_other_pools_are_closed_for_those_that_the_server_refuses() {
    let postgres = Postgres::start_with(&["max_connections=10"]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let _held = hold(&postgres, "limited", 5);
    // Two places are left, and each database takes one.
    for _ in 0..3 {
        for database in ["postgres", "other", "template1"] {
            assert_eq!(client(&ferry, "limited", database).value("select current_database()"), database);
        }
    }
}

#[test]
fn the_log_says_whose_idle_connections_fill_the_server() {
    let postgres = Postgres::start_with(&["max_connections=20"]);
    let ferry =
        Pgferry::start_with(&postgres.url(), &["--pool-mode", "transaction"], &[("PGFERRY_QUERY_WAIT_TIMEOUT", "1s")]);
    let mut busy = client(&ferry, "limited", "postgres");
    busy.query("begin");
    let mut held = hold(&postgres, "limited", 16);
    let mut other = client(&ferry, "limited", "postgres");
    let refused = other.query("select 1");
    assert_eq!(refused[0].field(b'C'), "53300", "{refused:?}");
    drop(held.pop());
    assert_eq!(other.value("select 2"), "2");
    ferry.logs("15 of its 17 places are idle connections: role \"limited\" 15");
    assert_eq!(ferry.log().matches(FULL).count(), 1);
    busy.query("commit");
}

#[test]
fn a_role_at_its_limit_is_told_so_and_others_are_not_bothered() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("alter role limited connection limit 2");
    let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_QUERY_WAIT_TIMEOUT", "500ms")]);
    let mut standing: Vec<_> = (0..2).map(|_| client(&ferry, "limited", "postgres")).collect();
    for raw in &mut standing {
        assert_eq!(raw.value("select 1"), "1");
    }
    let refused = client(&ferry, "limited", "postgres").query("select 1");
    assert_eq!(refused[0].field(b'C'), "53300", "{refused:?}");
    assert_eq!(refused[0].field(b'M'), "too many connections for role \"limited\"");
    assert_eq!(ferry.session().value("select 1"), "1");
    // An idle connection to one database makes room for one to another.
    drop(standing);
    for _ in 0..2 {
        for database in ["postgres", "other", "template1"] {
            assert_eq!(client(&ferry, "limited", database).value("select 1"), "1");
        }
    }
    assert!(!ferry.log().contains(FULL), "{}", ferry.log());
}

#[test]
fn lookups_wait_for_a_full_server() {
    let postgres = Postgres::start_with(&["max_connections=10"]);
    let certs = Certs::new();
    let path = certs.write("pgferry.toml", "auth_type = \"scram-sha-256\"\nauth_user = \"trust_user\"\n");
    let ferry = Pgferry::start_with(&postgres.url(), &["-c", &path], &[]);
    let held = hold(&postgres, "trust_user", 10);
    std::thread::scope(|scope| {
        let connection = format!("host={} user=scram_user dbname=postgres", ferry.host());
        let waiting = scope.spawn(move || psql(&connection, PASSWORD, "select 1"));
        eventually("it is tried", || ferry.report().get("upstream_failed") > 0);
        drop(held);
        assert_eq!(waiting.join().expect("no panic"), Ok("1".into()));
    });
}

#[test]
fn a_fleet_shares_a_server() {
    let postgres = Postgres::start_with(&["max_connections=24"]);
    let fleet: Vec<_> = (0..8).map(|_| Pgferry::start(&postgres, &[])).collect();
    std::thread::scope(|scope| {
        for (ferry, nth) in fleet.iter().zip(0..) {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(300) * nth);
                for _ in 0..3 {
                    std::thread::scope(|burst| {
                        for _ in 0..12 {
                            burst.spawn(|| assert_eq!(client(ferry, "limited", "postgres").value("select 1"), "1"));
                        }
                    });
                    std::thread::sleep(Duration::from_secs(3));
                }
            });
        }
    });
}

/// Connections that are in use all the time are never idle for long, and the first pgferrys could keep all that there are.
#[test]
fn a_newcomer_gets_a_connection_where_others_are_busy() {
    let postgres = Postgres::start_with(&["max_connections=11"]);
    let start = || Pgferry::start(&postgres, &["-m", "transaction"]);
    let (busy, over) = ([start(), start()], AtomicBool::new(false));
    std::thread::scope(|scope| {
        for ferry in busy.iter().cycle().take(16) {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    client(ferry, "limited", "postgres").query("select pg_sleep(0.02)");
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        eventually("the server is full", || postgres.log().contains("remaining connection slots"));
        let served: Vec<_> = (0..3)
            .map(|_| {
                let newcomer = start();
                newcomer.raw().log_in("limited", "postgres", PASSWORD).map(|mut client| client.value("select 1"))
            })
            .collect();
        over.store(true, Ordering::SeqCst);
        assert!(served.iter().all(|answer| matches!(answer.as_deref(), Ok("1"))), "{served:?}");
    });
}

#[test]
fn many_roles_that_come_at_once_are_all_served() {
    const ROLES: usize = 200;
    let postgres = Postgres::start_with(&["max_connections=30"]);
    postgres.sql(&format!(
        "do $$ begin for n in 1..{ROLES} loop execute format('create role r%s login', n); end loop; end $$"
    ));
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        let next = AtomicUsize::new(1);
        std::thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    while let Some(role) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|role| *role <= ROLES) {
                        let role = format!("r{role}");
                        assert_eq!(client(&ferry, &role, "postgres").value("select current_user"), role);
                    }
                });
            }
        });
    }
}

#[test]
fn idle_connections_make_room_for_replication() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_MAX_UPSTREAM", "1")]);
    for _ in 0..2 {
        assert_eq!(ferry.session().value("select 1"), "1");
        let connection = format!("host={} user=trust_user dbname=postgres replication=database", ferry.host());
        assert!(psql(&connection, "", "IDENTIFY_SYSTEM").is_ok());
    }
}
