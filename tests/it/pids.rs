//! The pid that a client is given: its backend's own where it can be.

use crate::harness::protocol_client::{startup, terminate};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually};

/// Logs in; returns the session and the pid it was given.
fn log_in(ferry: &Pgferry) -> (ProtocolClient, i32) {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let welcome = raw.until_ready();
    let key = welcome.iter().find(|message| message.tag == b'K').expect("a key");
    let pid = i32::from_be_bytes(key.body[..4].try_into().expect("a pid"));
    (raw, pid)
}

fn notifier(message: &Message) -> i32 {
    i32::from_be_bytes(message.body[..4].try_into().expect("a pid"))
}

#[test]
fn in_session_mode_it_is_the_backends_own() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &["--pool-size", "2"]);
    for _ in 0..3 {
        let (mut raw, pid) = log_in(&ferry);
        assert_eq!(raw.value("select pg_backend_pid()"), pid.to_string());
        assert_eq!(postgres.sql(&format!("select count(*) from pg_stat_activity where pid = {pid}")), "1");
        drop(raw);
        eventually("its connection is free again", || ferry.report().get("leased_now") == 0);
    }
    let (mut idle, pid) = log_in(&ferry);
    let (mut killer, _) = log_in(&ferry);
    assert_eq!(idle.value("select 1"), "1");
    assert_eq!(killer.value(&format!("select pg_terminate_backend({pid})")), "t");
    let last = idle.read_to_end();
    assert_eq!(last.last().expect("a word").field(b'C'), "57P01");
}

#[test]
fn a_client_that_has_not_used_its_connection_gives_it_up() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1"]);
    let (mut first, first_pid) = log_in(&ferry);
    let (mut second, second_pid) = log_in(&ferry);
    assert_ne!(first_pid, second_pid);
    assert_eq!(second.value("select pg_backend_pid()"), first_pid.to_string(), "it has that connection now");
    first.send(&crate::harness::protocol_client::query("select 'patience'"));
    eventually("the first waits", || ferry.report().get("waiting_now") == 1);
    drop(second);
    assert_eq!(first.until_ready()[1].columns(), ["patience"]);
}

#[test]
fn an_unused_connection_goes_to_another_pool_that_finds_no_place() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_MAX_UPSTREAM", "1")]);
    let (mut idle, pid) = log_in(&ferry);
    let mut other = ferry.raw().logged_in("trust_user", "other");
    assert_eq!(other.value("select current_database()"), "other");
    drop(other);
    // Its connection was closed for the other one's sake.
    let now = idle.value("select pg_backend_pid()");
    assert_ne!(now, pid.to_string());
}

#[test]
fn what_somebody_left_in_it_is_reset_while_it_waits() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create function lock_it() returns void language sql as 'select pg_advisory_lock(42)'");
    let ferry = Pgferry::start(&postgres, &["--pool-size", "1"]);
    let mut holder = ferry.session();
    holder.query("select lock_it()");
    drop(holder);
    eventually("its connection is free again", || ferry.report().get("leased_now") == 0);
    let (mut idle, pid) = log_in(&ferry);
    eventually("the lock is given back", || {
        postgres.sql("select count(*) from pg_locks where locktype = 'advisory'") == "0"
    });
    assert_eq!(idle.value("select pg_backend_pid()"), pid.to_string());
}

#[test]
fn a_client_knows_its_own_notifications() {
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(Postgres::shared(), &["--pool-mode", mode, "--pool-size", "2"]);
        let (mut first, first_pid) = log_in(&ferry);
        let (mut second, _) = log_in(&ferry);
        let channel = format!("own_{mode}");
        first.query(&format!("listen {channel}"));
        let own = first.query(&format!("notify {channel}"));
        let own = own.iter().find(|message| message.tag == b'A').expect("a notification");
        assert_eq!(notifier(own), first_pid, "{mode}");
        second.query(&format!("notify {channel}"));
        let foreign = first.until(b'A').pop().expect("a notification");
        assert_ne!(notifier(&foreign), first_pid, "{mode}");
    }
}

#[test]
fn when_the_unused_connection_dies_another_one_serves() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &["--pool-size", "2"]);
    let (mut idle, pid) = log_in(&ferry);
    postgres.sql(&format!("select pg_terminate_backend({pid})"));
    eventually("it is gone", || {
        postgres.sql(&format!("select count(*) from pg_stat_activity where pid = {pid}")) == "0"
    });
    assert_eq!(idle.value("select 'served'"), "served");
}

#[test]
fn a_client_right_behind_another_gets_a_pid_that_exists() {
    // What the client leaves is reset in front of the next one, or at once where it was seen.
    for (leaves, most) in [("select 1", 1), ("set work_mem = '5MB'", 10)] {
        let ferry = Pgferry::start(Postgres::shared(), &[]);
        let mut invented = 0;
        for _ in 0..30 {
            let (mut raw, pid) = log_in(&ferry);
            raw.query(leaves);
            raw.send(&terminate());
            drop(raw);
            invented += u32::from(pid > 4_194_304);
        }
        assert!(invented <= most, "{leaves}: {invented} of 30 are invented");
    }
}
