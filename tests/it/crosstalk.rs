//! Many clients on few connections, doing at random what clients do: every answer is the asker's own.

use crate::harness::raw::{
    bind, close, copy_data, copy_done, describe, execute, extended, parse, query, sync, tags, terminate,
};
use crate::harness::{Ferry, Message, Postgres, Raw};

/// A small generator of random numbers, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// The first column of every row.
fn values(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'D').map(|message| message.columns().remove(0)).collect()
}

/// One piece of work, whose answers must carry `mark`. Returns false when the client is not to go on.
fn work(raw: &mut Raw, random: &mut Random, mark: &str) -> bool {
    let select = format!("select '{mark}'");
    match random.below(13) {
        0 => assert_eq!(values(&raw.query(&select)), [mark]),
        1 => {
            raw.send(&extended("select $1::text", &[mark]));
            assert_eq!(values(&raw.until_ready()), [mark]);
        }
        2 => {
            raw.send(&[query("begin"), query(&select), query("commit")].concat());
            let answers: Vec<_> = (0..3).flat_map(|_| raw.until_ready()).collect();
            assert_eq!(values(&answers), [mark]);
        }
        3 => {
            // An error, and everything behind it up to the sync is skipped.
            raw.send(
                &[parse("", "select 1/0"), bind("", "", &[]), execute("", 0), query("select 'never'"), sync()].concat(),
            );
            let answers = raw.until_ready();
            assert!(values(&answers).is_empty() && tags(&answers).contains('E'), "{answers:?}");
            assert_eq!(values(&raw.query(&select)), [mark]);
        }
        4 => {
            let many: Vec<u8> = (0..20).flat_map(|n| extended("select $1::text", &[&format!("{mark}-{n}")])).collect();
            raw.send(&many);
            for n in 0..20 {
                assert_eq!(values(&raw.until_ready()), [format!("{mark}-{n}")]);
            }
        }
        5 => {
            raw.send(&[query("copy copied from stdin"), copy_data(b"broken\n"), copy_done(), query(&select)].concat());
            assert!(tags(&raw.until_ready()).contains('E'));
            assert_eq!(values(&raw.until_ready()), [mark]);
        }
        6 => {
            raw.send(&[parse("", &select), describe(b'S', ""), sync()].concat());
            assert_eq!(tags(&raw.until_ready()), "1tTZ");
            raw.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
            let answers = raw.until_ready();
            assert_eq!(values(&answers), [mark], "{answers:?}");
        }
        7 => {
            raw.query("begin; set local application_name = 'mine'");
            assert_eq!(raw.value("show application_name"), "mine");
            raw.query("rollback");
            assert_eq!(raw.value("show application_name"), "");
        }
        8 => {
            let rows = raw.query(&format!("select '{mark}' || repeat('x', 3000) from generate_series(1, 50)"));
            assert!(values(&rows).iter().all(|value| value.starts_with(mark) && value.len() == mark.len() + 3000));
        }
        9 => {
            let big = mark.repeat(20_000);
            raw.send(&extended("select md5($1), md5($1)", &[&big]));
            let row = raw.until_ready();
            let row = row.iter().find(|message| message.tag == b'D').expect("a row").columns();
            assert_eq!(row[0], row[1]);
        }
        10 => {
            // Goes away in the middle of something.
            raw.send(&query("begin; select pg_sleep(0.005), 'abandoned'"));
            return false;
        }
        11 => {
            raw.send(&[query(&select), terminate()].concat());
            assert_eq!(values(&raw.read_to_end()), [mark]);
            return false;
        }
        _ => {
            // Session state: the client keeps its connection from here on.
            raw.send(&[parse("mine", &select), close(b'S', "nobody"), sync()].concat());
            assert_eq!(tags(&raw.until_ready()), "13Z");
            raw.send(&[bind("", "mine", &[]), execute("", 0), sync()].concat());
            assert_eq!(values(&raw.until_ready()), [mark]);
            return false;
        }
    }
    true
}

fn mixed_work(args: &[&str]) {
    let ferry = Ferry::start(Postgres::shared(), args);
    std::thread::scope(|scope| {
        for client in 0..8u64 {
            let ferry = &ferry;
            scope.spawn(move || {
                let mut random = Random(client + 1);
                let mut session = 0;
                let mut raw = ferry.session();
                for nth in 0..200 {
                    if !work(&mut raw, &mut random, &format!("client {client} session {session} work {nth}")) {
                        session += 1;
                        raw = ferry.session();
                    }
                }
            });
        }
    });
}

#[test]
fn in_transaction_mode_on_two_connections() {
    mixed_work(&["--pool-mode", "transaction", "--pool-size", "2"]);
}

#[test]
fn in_transaction_mode_without_resets() {
    mixed_work(&["--pool-mode", "transaction", "--pool-size", "3", "--reset", "on_change"]);
}

/// Clients that differ in what they have set take turns on one connection, each finding its own.
#[test]
fn settings_take_turns() {
    for reset in ["always", "on_change", "never"] {
        let ferry =
            Ferry::start(Postgres::shared(), &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
        std::thread::scope(|scope| {
            for client in 0..6 {
                let ferry = &ferry;
                scope.spawn(move || {
                    let mut raw = ferry.session();
                    let (path, size) = (format!("path_{client}"), format!("{}MB", client + 2));
                    raw.query(&format!("set search_path = {path}"));
                    raw.query(&format!("set work_mem = '{size}'"));
                    raw.send(&[parse("s", "select current_setting('search_path') || $1"), sync()].concat());
                    raw.until_ready();
                    for _ in 0..100 {
                        assert_eq!(raw.value("show search_path"), path);
                        assert_eq!(raw.value("show work_mem"), size);
                        raw.send(&[bind("", "s", &["!"]), execute("", 0), sync()].concat());
                        assert_eq!(values(&raw.until_ready()), [format!("{path}!")]);
                    }
                });
            }
        });
    }
}

#[test]
fn in_session_mode_with_a_connection_for_each() {
    mixed_work(&["--pool-size", "8"]);
}
