//! Settings that the server itself changes: by its configuration, or because a standby has become a primary. Clients have what a
//! direct connection would have.

use crate::harness::protocol_client::Message;
use crate::harness::{Pgferry, Postgres, eventually};

const MODES: [&str; 2] = ["session", "transaction"];

/// What a client that does nothing else is told of `setting` at its login.
fn told_at_login(ferry: &Pgferry, setting: &str) -> Option<String> {
    let welcome = ferry.raw().try_log_in(&[("user", "trust_user"), ("database", "postgres")], "");
    let told = |message: &Message| {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let (name, value) = text.strip_suffix('\0')?.split_once('\0')?;
        (message.tag == b'S' && name == setting).then(|| value.to_owned())
    };
    welcome.iter().find_map(told)
}

#[test]
fn a_login_is_told_that_a_standby_has_become_a_primary() {
    let mut primary = Postgres::start_with(&[]);
    if primary.version() < 14 {
        // They don't report it.
        return;
    }
    let standby = primary.standby();
    let ferries = MODES.map(|mode| Pgferry::start(&standby, &["--pool-mode", mode]));
    for ferry in &ferries {
        assert_eq!(told_at_login(ferry, "in_hot_standby").as_deref(), Some("on"));
    }
    // Its connection is not idle, and tells of nothing while its client is.
    let kept = Pgferry::start(&standby, &["--pool-mode", "session"]);
    let mut client = kept.session();
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(told_at_login(&kept, "in_hot_standby").as_deref(), Some("on"));
    standby.sql("select pg_promote()");
    eventually("it is told", || told_at_login(&kept, "in_hot_standby").as_deref() == Some("off"));
    for ferry in &ferries {
        // libpq with target_session_attrs=primary looks at that, and leaves: nothing is ever sent to the server.
        eventually("it is told", || told_at_login(ferry, "in_hot_standby").as_deref() == Some("off"));
    }
}

#[test]
fn logins_are_told_of_a_changed_configuration() {
    let server = Postgres::start_with(&[]);
    let ferries = MODES.map(|mode| Pgferry::start(&server, &["--pool-mode", mode]));
    let mut settings = vec![("TimeZone", "Asia/Tokyo"), ("IntervalStyle", "iso_8601")];
    if server.version() >= 14 {
        settings.push(("default_transaction_read_only", "on"));
    }
    for ferry in &ferries {
        ferry.session().value("select 1");
    }
    for (name, value) in &settings {
        server.sql(&format!("alter system set {name} = '{value}'"));
    }
    server.sql("select pg_reload_conf()");
    for ferry in &ferries {
        for (name, value) in &settings {
            eventually("it is told", || told_at_login(ferry, name).as_deref() == Some(value));
        }
        let mut client = ferry.session();
        for (name, value) in &settings {
            assert_eq!(client.value(&format!("show {name}")), *value);
        }
    }
}

/// It may be of another version, too.
#[test]
fn the_first_login_after_a_restart_is_told_what_the_server_is_now() {
    let mut server = Postgres::start_with(&[]);
    let ferries = MODES.map(|mode| Pgferry::start(&server, &["--pool-mode", mode]));
    for ferry in &ferries {
        ferry.session().value("select 1");
    }
    server.stop();
    server.configure("timezone='Asia/Tokyo'");
    server.start();
    for ferry in &ferries {
        eventually("its connections are gone", || ferry.report().get("upstream_now") == 0);
        assert_eq!(told_at_login(ferry, "TimeZone").as_deref(), Some("Asia/Tokyo"));
    }
}

#[test]
fn a_change_in_a_clients_transaction_is_not_the_clients() {
    let server = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&server, &["--pool-mode", "transaction"]);
    let mut client = ferry.session();
    let settings = [
        ("default_transaction_read_only", "off", "on"),
        ("TimeZone", "Europe/Berlin", "Asia/Tokyo"),
        ("search_path", "public", "elsewhere"),
        ("DateStyle", "ISO, DMY", "German, DMY"),
        ("default_transaction_deferrable", "off", "on"),
    ];
    let set = |name: &str, value: &str| {
        server.sql(&format!("alter system set {name} = '{value}'"));
        server.sql("select pg_reload_conf()");
    };
    for (name, first, then) in settings {
        let show = format!("show {name}");
        for value in [first, then] {
            client.query("begin");
            set(name, value);
            eventually("the transaction sees it", || client.value(&show) == value);
            client.query("commit");
            assert_eq!(client.value(&show), value);
        }
        set(name, first);
        eventually("new sessions have it", || server.sql(&show) == first);
        // The client's next connection is one that it has not had.
        let mut others = [ferry.session(), ferry.session()];
        for other in &mut others {
            other.query("begin");
        }
        assert_eq!(client.value(&show), first);
    }
}

#[test]
fn what_a_client_has_set_stays_when_the_default_changes() {
    let server = Postgres::start_with(&["TimeZone='UTC'", "DateStyle='ISO, MDY'"]);
    let ferry = Pgferry::start(&server, &["--pool-mode", "transaction"]);
    let mut client = ferry.session();
    // Nothing is reported of these, since they were so before.
    client.query("set timezone = 'UTC'");
    client.query("begin; set datestyle = 'ISO, MDY'; commit");
    server.sql("alter system set timezone = 'Asia/Tokyo'");
    server.sql("alter system set datestyle = 'German, DMY'");
    server.sql("select pg_reload_conf()");
    eventually("new sessions have it", || server.sql("show timezone") == "Asia/Tokyo");
    // Its next connection is a new one.
    let mut others = [ferry.session(), ferry.session()];
    for other in &mut others {
        other.query("begin");
    }
    assert_eq!([client.value("show timezone"), client.value("show datestyle")], ["UTC", "ISO, MDY"]);
}

#[test]
fn what_a_startup_packet_asks_for_stays_when_that_was_the_default() {
    let server = Postgres::start_with(&["TimeZone='UTC'"]);
    let ferry = Pgferry::start(&server, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let ask_for = |zone| {
        let mut client = ferry.raw();
        client.try_log_in(&[("user", "trust_user"), ("database", "postgres"), ("TimeZone", zone)], "");
        client
    };
    // The connection is opened for a client that asks for nothing, and the server has said how it spells that; it is reset then.
    ferry.session().value("select 1");
    ask_for("UTC").query("discard all");
    let mut client = ask_for("UTC");
    assert_eq!(client.value("show timezone"), "UTC");
    server.sql("alter system set timezone = 'Asia/Tokyo'");
    server.sql("select pg_reload_conf()");
    let default = "select reset_val from pg_catalog.pg_settings where name = 'TimeZone'";
    eventually("the connection has the new default", || client.value(default) == "Asia/Tokyo");
    assert_eq!(client.value("show timezone"), "UTC");
    client.query("begin");
    server.sql("alter system set timezone = 'Europe/Berlin'");
    server.sql("select pg_reload_conf()");
    eventually("its transaction has the next default", || client.value(default) == "Europe/Berlin");
    assert_eq!(client.value("show timezone"), "UTC");
    client.query("rollback");
    assert_eq!(client.value("show timezone"), "UTC");
}
