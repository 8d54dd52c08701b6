//! Connections that stay get connections of their own, as far as the server has any; short ones share a pool.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::protocol_client::{ProtocolClient, startup};
use crate::harness::{Pgferry, Postgres, eventually};

fn client(ferry: &Pgferry, user: &str) -> ProtocolClient {
    ProtocolClient::logged_in(ferry.raw(), user, "postgres")
}

#[test]
fn standing_connections_are_served_as_far_as_the_server_goes() {
    let postgres = Postgres::start_with(&["max_connections=100"]);
    let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_QUERY_WAIT_TIMEOUT", "1s")]);
    let mut standing = Vec::new();
    for nth in 0..97 {
        let mut raw = client(&ferry, "limited");
        assert_eq!(raw.value("select 1"), "1", "client {nth}");
        standing.push(raw);
    }
    let mut last = client(&ferry, "limited");
    let refused = last.query("select 1");
    assert_eq!((refused[0].field(b'C').as_str(), refused.len()), ("53300", 2), "{refused:?}");
    let mut direct = ProtocolClient::tcp(postgres.port);
    direct.send(&startup(&[("user", "limited"), ("database", "postgres")]));
    let direct = direct.read_to_end().pop().expect("a refusal");
    assert_eq!(refused[0].field(b'M'), direct.field(b'M'));
    drop(standing.pop());
    assert_eq!(last.value("select 2"), "2", "as soon as there is room");
    for raw in &mut standing {
        assert_eq!(raw.value("select 3"), "3");
    }
}

#[test]
fn standing_connections_that_come_together_are_served() {
    for mode in ["session", "transaction"] {
        let postgres = Postgres::start_with(&["max_connections=100"]);
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        let gate = std::sync::Barrier::new(60);
        std::thread::scope(|scope| {
            for _ in 0..60 {
                scope.spawn(|| {
                    let mut raw = client(&ferry, "limited");
                    raw.query("begin");
                    assert_eq!(raw.value("select 1"), "1");
                    // All of them have one at the same time.
                    gate.wait();
                    raw.query("commit");
                });
            }
        });
        assert!(ferry.report().get("upstream_opened") <= 64, "{mode}");
    }
}

#[test]
fn short_connections_share_a_pool_beside_standing_ones() {
    let postgres = Postgres::start_with(&["max_connections=100"]);
    let ferry = Pgferry::start(&postgres, &[]);
    let storm = || {
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    for _ in 0..4 {
                        assert_eq!(client(&ferry, "limited").value("select 1"), "1");
                    }
                });
            }
        });
    };
    storm();
    let opened = ferry.report().get("upstream_opened");
    assert!(opened <= 20, "short ones cost {opened}");
    let mut standing: Vec<_> = (0..25).map(|_| client(&ferry, "limited")).collect();
    for raw in &mut standing {
        assert_eq!(raw.value("select 1"), "1");
    }
    storm();
    for raw in &mut standing {
        assert_eq!(raw.value("select 2"), "2");
    }
    drop(standing);
    eventually("the reserve is given back", || postgres.backends() <= 20);
}

#[test]
fn a_reserve_is_exact() {
    let postgres = Postgres::start_with(&[]);
    let env = [("PGFERRY_RESERVE_POOL_SIZE", "1"), ("PGFERRY_QUERY_WAIT_TIMEOUT", "500ms")];
    let ferry = Pgferry::start_with(&postgres.url(), &["--pool-size", "2"], &env);
    let mut standing: Vec<_> = (0..3).map(|_| ferry.session()).collect();
    for raw in &mut standing {
        assert_eq!(raw.value("select 1"), "1");
    }
    let refused = ferry.session().query("select 1");
    assert_eq!(refused[0].field(b'C'), "53300");
    assert!(refused[0].field(b'D').contains("3 of 3"), "{refused:?}");
}

#[test]
fn while_connections_come_free_the_reserve_is_not_touched() {
    let ferry = Pgferry::start_with(
        &Postgres::shared().url(),
        &["--pool-size", "2", "--pool-mode", "transaction"],
        &[("PGFERRY_RESERVE_POOL_SIZE", "auto"), ("PGFERRY_RESERVE_POOL_TIMEOUT", "2s")],
    );
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut long = ferry.session();
        long.query("begin");
        for _ in 0..4 {
            scope.spawn(|| {
                let mut raw = ferry.session();
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(raw.value("select 1 from pg_sleep(0.01)"), "1");
                }
            });
        }
        assert_eq!(long.value("select 2 from pg_sleep(4)"), "2");
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(ferry.report().get("upstream_opened"), 2);
}
