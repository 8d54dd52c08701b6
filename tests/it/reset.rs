//! What one client leaves in a session the next one never sees.

use crate::harness::protocol_client::{bind, execute, flush, parse, terminate};
use crate::harness::{Pgferry, Postgres, eventually};

/// A kind of leftover: what makes it openly, what makes it inside a function, and what shows it to the next client
/// with the value it must show.
struct Leftover {
    name: &'static str,
    openly: &'static str,
    inside: Option<&'static str>,
    shows: &'static str,
    clean: &'static str,
}

const LEFTOVERS: [Leftover; 9] = [
    Leftover {
        name: "a reported setting",
        openly: "set timezone = 'Asia/Tokyo'",
        inside: Some("perform set_config('timezone', 'Asia/Tokyo', false)"),
        shows: "select current_setting('timezone')",
        clean: "Etc/UTC",
    },
    Leftover {
        name: "an unreported setting",
        openly: "set search_path = nowhere",
        inside: Some("set search_path = nowhere"),
        shows: "select current_setting('search_path')",
        clean: "\"$user\", public",
    },
    Leftover {
        name: "a temporary table",
        openly: "create temp table leftover (a int)",
        inside: Some("create temp table leftover (a int)"),
        shows: "select to_regclass('leftover') is null",
        clean: "t",
    },
    Leftover {
        name: "an advisory lock",
        openly: "select pg_advisory_lock(42)",
        inside: Some("perform pg_advisory_lock(42)"),
        shows: "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        clean: "0",
    },
    Leftover {
        name: "a LISTEN",
        openly: "listen leftover",
        inside: Some("execute 'listen leftover'"),
        shows: "select count(*) from pg_listening_channels()",
        clean: "0",
    },
    Leftover {
        name: "a prepared statement",
        openly: "prepare leftover as select 1",
        inside: Some("execute 'prepare leftover as select 1'"),
        shows: "select count(*) from pg_prepared_statements",
        clean: "0",
    },
    Leftover {
        name: "a cursor",
        openly: "declare leftover cursor with hold for select 1",
        inside: None,
        shows: "select count(*) from pg_cursors where name = 'leftover'",
        clean: "0",
    },
    Leftover {
        name: "a role",
        openly: "set role limited",
        inside: Some("set role limited"),
        shows: "select current_user",
        clean: "trust_user",
    },
    Leftover {
        name: "a sequence's last value",
        openly: "select nextval('leftover_sequence')",
        inside: Some("perform nextval('leftover_sequence')"),
        shows: "select 1",
        clean: "1",
    },
];

fn prepare(postgres: &Postgres) {
    postgres.sql("create sequence leftover_sequence");
    for (nth, leftover) in LEFTOVERS.iter().enumerate() {
        if let Some(inside) = leftover.inside {
            postgres.sql(&format!(
                "create function leave_{nth}() returns void language plpgsql as $body$ begin {inside}; end $body$"
            ));
        }
    }
}

/// Makes each leftover, openly and inside a function, and looks as the next client on the same connection.
fn leave_and_look(args: &[&str], inside_too: bool) {
    let postgres = Postgres::start_with(&[]);
    prepare(&postgres);
    let ferry = Pgferry::start(&postgres, args);
    for (nth, leftover) in LEFTOVERS.iter().enumerate() {
        let inside = leftover.inside.filter(|_| inside_too).map(|_| format!("select leave_{nth}()"));
        for sql in std::iter::once(leftover.openly.to_owned()).chain(inside) {
            let mut first = ferry.session();
            let pid = first.value("select pg_backend_pid()");
            let answer = first.query(&sql);
            assert!(answer.iter().all(|message| message.tag != b'E'), "{sql}: {answer:?}");
            drop(first);
            let mut second = ferry.session();
            assert_eq!(second.value(leftover.shows), leftover.clean, "{} by {sql}", leftover.name);
            assert_eq!(second.value("select pg_backend_pid()"), pid, "the connection is used again");
            if leftover.name.contains("sequence") {
                assert_eq!(second.error("select lastval()").field(b'C'), "55000");
            }
        }
    }
}

#[test]
fn the_default_hides_everything_in_session_mode() {
    leave_and_look(&["--pool-size", "1"], true);
}

#[test]
fn the_default_hides_everything_in_transaction_mode() {
    leave_and_look(&["--pool-size", "1", "--pool-mode", "transaction"], true);
}

#[test]
fn on_change_hides_what_was_done_openly() {
    leave_and_look(&["--pool-size", "1", "--reset", "on_change"], false);
}

#[test]
fn locks_and_listens_are_given_back_soon() {
    let postgres = Postgres::start_with(&[]);
    prepare(&postgres);
    let ferry = Pgferry::start(&postgres, &[]);
    for sql in ["select pg_advisory_lock(42)", "select leave_3()"] {
        let mut holder = ferry.session();
        holder.query(sql);
        assert_eq!(postgres.sql("select count(*) from pg_locks where locktype = 'advisory'"), "1");
        drop(holder);
        // At once where it was seen; from the janitor where it was not.
        eventually("the lock is given back", || {
            postgres.sql("select count(*) from pg_locks where locktype = 'advisory'") == "0"
        });
    }
}

#[test]
fn never_leaves_sessions_as_they_are() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1", "--reset", "never"]);
    ferry.session().query("set search_path = nowhere");
    assert_eq!(ferry.session().value("select current_setting('search_path')"), "nowhere");
    // What a client asked for at its start is still its own.
    ferry.session().query("set timezone = 'Asia/Tokyo'");
    assert_eq!(ferry.session().value("select current_setting('timezone')"), "Etc/UTC");
}

#[test]
fn a_session_that_can_not_be_reset_is_closed() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1"]);
    let mut first = ferry.session();
    let pid = first.value("select pg_backend_pid()");
    // Makes DISCARD ALL fail: the time is up before it begins.
    first.query("set statement_timeout = '1ms'; set x.y = 1");
    first.send(&crate::harness::protocol_client::query("begin"));
    first.until_ready();
    drop(first);
    let mut second = ferry.session();
    assert_eq!(second.value("select current_setting('x.y', true)"), "");
    // Whether it was reset in time or closed, nothing of it is left.
    let _ = pid;
    assert_eq!(second.value("select current_setting('statement_timeout')"), "0");
}

/// Extended requests without a `Sync` are not committed when their client goes, however it goes.
#[test]
fn what_no_sync_has_followed_is_rolled_back() {
    let postgres = Postgres::shared();
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(postgres, &["--pool-size", "1", "--pool-mode", mode]);
        let table = format!("unsynced_{mode}");
        postgres.sql(&format!("create table {table} (a int unique)"));
        let insert = |value: &str| {
            let sql = format!("insert into {table} values ($1)");
            [parse("", &sql), bind("", "", &[value]), execute("", 0)].concat()
        };
        let count = || ferry.session().value(&format!("select count(*) from {table}"));
        let pid = ferry.session().value("select pg_backend_pid()");
        for (nth, (ending, wait)) in [(flush(), true), (Vec::new(), false)].into_iter().enumerate() {
            let mut raw = ferry.session();
            raw.send(&[insert(&nth.to_string()), ending].concat());
            if wait {
                raw.until(b'C');
            }
        }
        // In a state where the server discards everything up to a Sync.
        let mut raw = ferry.session();
        raw.send(&[insert("7"), insert("7"), insert("8"), flush()].concat());
        raw.until(b'E');
        raw.send(&terminate());
        raw.read_to_end();
        assert_eq!(count(), "0", "{mode}");
        assert_eq!(ferry.session().value("select pg_backend_pid()"), pid, "{mode}: and the connection is used again");
        for (nth, ending) in [terminate(), [flush(), terminate()].concat()].into_iter().enumerate() {
            // The server itself is told of the end where a client may still read what it says to that.
            ferry.session().send(&[insert(&nth.to_string()), ending].concat());
        }
        assert_eq!(count(), "0", "{mode}");
    }
}

#[test]
fn a_transaction_left_open_is_rolled_back() {
    let postgres = Postgres::shared();
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(postgres, &["--pool-size", "1", "--pool-mode", mode]);
        let table = format!("left_open_{mode}");
        postgres.sql(&format!("create table {table} (a int)"));
        let mut first = ferry.session();
        let pid = first.value("select pg_backend_pid()");
        first.query(&format!("begin; insert into {table} values (1)"));
        drop(first);
        let mut second = ferry.session();
        assert_eq!(second.value(&format!("select count(*) from {table}")), "0");
        assert_eq!(second.value("select pg_backend_pid()"), pid, "{mode}: and the connection is used again");
    }
}
