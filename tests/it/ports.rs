//! Ephemeral ports: whatever clients do, TIME_WAIT is left on the server's side.

use crate::harness::raw::{CANCEL_REQUEST, packet, password, query, startup};
use crate::harness::{Ferry, Postgres, eventually};

/// Sockets in TIME_WAIT that hold an ephemeral port toward `port`, that is, on the side that dialled.
fn time_waits(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    let remote = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2].ends_with(&remote) && row[3] == "06").count()
}

#[test]
fn nothing_that_clients_do_leaves_time_wait_on_our_side() {
    // The harness itself talks to the server over TCP, and leaves its own; a server of our own keeps them apart.
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let env = [("PGFERRY_SERVER_LIFETIME", "50ms"), ("PGFERRY_SERVER_IDLE_TIMEOUT", "50ms")];
    let ferry = Ferry::start_with(&postgres.url(), &["--pool-size", "5"], &env);
    let before = time_waits(postgres.port);
    let received = postgres.connections_received();
    for _ in 0..30 {
        // Connections that are opened and closed all the time.
        let mut raw = ferry.session();
        assert_eq!(raw.value("select 1"), "1");
        // Wrong passwords, users and databases.
        for (user, database) in [("scram_user", "postgres"), ("md5_user", "nowhere"), ("nobody_at_all", "postgres")] {
            let mut wrong = ferry.raw();
            wrong.send(&startup(&[("user", user), ("database", database)]));
            let first = wrong.recv();
            if first.is_some_and(|message| message.tag == b'R') {
                wrong.send(&password("wrong"));
                wrong.read_to_end();
            }
            if ferry.report().get("upstream_failed") > 8 {
                break;
            }
        }
    }
    // Cancels, and clients that vanish in the middle of something.
    for _ in 0..5 {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
        let key = raw.until_ready().into_iter().find(|message| message.tag == b'K').expect("a key").body;
        raw.send(&query("select pg_sleep(68)"));
        eventually("it runs", || ferry.report().get("leased_now") == 1);
        let mut cancel = ferry.raw();
        cancel.send(&packet(CANCEL_REQUEST, &key));
        assert!(cancel.recv().is_none());
        drop(raw);
        eventually("it is over", || ferry.report().get("leased_now") == 0);
    }
    let mut copying = ferry.session();
    copying.send(&query("copy copied from stdin"));
    assert_eq!(copying.recv().map(|message| message.tag), Some(b'G'));
    drop(copying);
    eventually("all connections are closed", || ferry.report().get("upstream_now") == 0);
    let opened = postgres.connections_received() - received;
    assert!(opened >= 10, "{opened}");
    assert_eq!(time_waits(postgres.port), before, "after {opened} connections");
    let report = ferry.report();
    assert_eq!((report.get("upstream_reset"), report.get("time_waits"), report.get("no_port")), (0, 0, 0));
    assert!(report.text("close_reasons").contains("lifetime ") || report.text("close_reasons").contains("idle "));
}
