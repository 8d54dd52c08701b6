//! Bytes in both directions: much, slowly, one-sidedly.

use crate::harness::raw::{bind, copy_data, describe, execute, extended, flush, parse, query, sync, tags, terminate};
use crate::harness::{Ferry, Postgres, eventually};

#[test]
fn thousands_of_messages_in_flight() {
    for mode in ["session", "transaction"] {
        let ferry = Ferry::start(Postgres::shared(), &["--pool-mode", mode, "--pool-size", "2"]);
        let mut raw = ferry.session();
        let many: Vec<u8> = (0..5000).flat_map(|n| extended("select $1::int", &[&n.to_string()])).collect();
        std::thread::scope(|scope| {
            // Reads while it writes, as a pipelining driver does.
            let mut writer = ferry.session();
            scope.spawn(move || {
                for chunk in many.chunks(100_000) {
                    writer.send(chunk);
                }
                for n in 0..5000 {
                    let answer = writer.until_ready();
                    assert_eq!(tags(&answer), "12TDCZ");
                    assert_eq!(answer[3].columns(), [n.to_string()]);
                }
            });
        });
        assert_eq!(raw.value("select 1"), "1");
    }
}

#[test]
fn large_requests_and_large_answers_at_once_do_not_block_each_other() {
    for mode in ["session", "transaction"] {
        let ferry = Ferry::start(Postgres::shared(), &["--pool-mode", mode]);
        let mut reader = ferry.session();
        let mut writer = reader.twin();
        let big = "x".repeat(2_000_000);
        std::thread::scope(|scope| {
            // A driver that reads while it writes: requests and answers are far larger than any buffer between.
            scope.spawn(move || {
                writer.send(&parse("s", "select repeat($1, 4)"));
                for _ in 0..5 {
                    writer.send(&[bind("", "s", &[&big]), execute("", 0)].concat());
                }
                writer.send(&sync());
            });
            let messages = reader.until_ready();
            assert_eq!(tags(&messages), "12DC2DC2DC2DC2DCZ");
            assert!(messages.iter().filter(|m| m.tag == b'D').all(|m| m.body.len() > 8_000_000));
        });
    }
}

#[test]
fn a_long_result_of_small_rows_is_whole_and_nothing_of_it_is_kept_back() {
    const ROWS: usize = 200_000;
    let rows = format!("select repeat('x', 49) from generate_series(1, {ROWS})");
    for mode in ["session", "transaction"] {
        let ferry = Ferry::start(Postgres::shared(), &["--pool-mode", mode, "--pool-size", "1"]);
        let mut raw = ferry.session();
        assert_eq!(raw.query(&rows).iter().filter(|message| message.tag == b'D').count(), ROWS);
        // What is short comes as soon as ever on the same connection.
        assert_eq!(raw.value("select 1"), "1");
        raw.send(&query(&format!("{rows} union all select pg_sleep(3600)::text")));
        // The rest is in the server's own buffer while it sleeps.
        let buffer = 8192 / 50;
        let mut here = 0;
        while here < ROWS - buffer {
            here += usize::from(raw.recv().expect("a message").tag == b'D');
        }
        drop(raw);
        assert_eq!(ferry.session().value("select 1"), "1");
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_no_memory() {
    let ferry = Ferry::start(Postgres::shared(), &["--pool-size", "3"]);
    let mut others = ferry.session();
    assert_eq!(others.value("select 1"), "1");
    let mut slow = ferry.session();
    slow.send(&query("select repeat('x', 1000000) from generate_series(1, 200)"));
    let mut still = 0;
    let mut last = 0;
    eventually("memory stands still", || {
        let now = ferry.memory();
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still > 20
    });
    assert!(last < 60_000, "{last} kB");
    for _ in 0..100 {
        assert_eq!(others.value("select 2"), "2");
    }
    let messages = slow.until_ready();
    assert_eq!(messages.iter().filter(|message| message.tag == b'D').count(), 200);
}

#[test]
fn messages_of_any_size_are_streamed() {
    let ferry = Ferry::start(Postgres::shared(), &[]);
    let mut raw = ferry.session();
    let huge = "y".repeat(64 << 20);
    let answer = {
        raw.send(&query(&format!("select length('{huge}')")));
        raw.until_ready()
    };
    assert_eq!(answer[1].columns(), [huge.len().to_string()]);
    drop(huge);
    let answer = raw.query("select repeat('z', 64 * 1024 * 1024)");
    assert_eq!(answer[1].body.len(), (64 << 20) + 6);
    assert!(ferry.memory() < 60_000, "{} kB", ferry.memory());
}

#[test]
fn a_length_that_can_not_be_right_ends_the_session() {
    let ferry = Ferry::start(Postgres::shared(), &[]);
    for length in [0u32, 3, 0x4000_0000, 0xffff_ffff] {
        let bytes = [&b"Q"[..], &length.to_be_bytes()].concat();
        for before in [false, true] {
            let mut raw = ferry.session();
            if before {
                assert_eq!(raw.value("select 1"), "1");
            }
            raw.send(&bytes);
            let error = raw.recv().expect("an error");
            assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "08P01"));
            assert!(raw.recv().is_none());
        }
    }
}

#[test]
fn a_client_that_goes_without_a_word_is_cleaned_up_after() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Ferry::start(&postgres, &["--pool-size", "2"]);
    let active = "select count(*) from pg_stat_activity where state <> 'idle' and pid <> pg_backend_pid() \
                  and backend_type = 'client backend'";
    postgres.sql("create table gone (a int)");
    let slow = "insert into gone select 1 from pg_sleep(60)";
    let leave: [(&str, Vec<u8>); 7] = [
        ("in a long query", query(slow)),
        ("in a long extended query", extended(slow, &[])),
        (
            "in a long extended query without its sync",
            [parse("", slow), bind("", "", &[]), execute("", 0), flush()].concat(),
        ),
        ("in a transaction", query("begin; insert into gone values (1)")),
        ("in a copy", [query("copy gone from stdin"), copy_data(b"1\n")].concat()),
        ("in a large result", query("select repeat('x', 100000) from generate_series(1, 1000)")),
        ("in the middle of a message", query("select 1")[..8].to_vec()),
    ];
    for (name, bytes) in &leave {
        let mut raw = ferry.session();
        assert_eq!(raw.value("select 1"), "1");
        raw.send(bytes);
        if *name == "in a long query" {
            eventually("it runs", || postgres.sql(active) == "1");
        }
        drop(raw);
        eventually(name, || postgres.sql(active) == "0");
        assert_eq!(ferry.session().value("select count(*) from gone"), "0", "{name}");
    }
    assert!(postgres.backends() <= 2);
}

#[test]
fn a_query_with_good_bye_behind_it_is_carried_out() {
    let postgres = Postgres::shared();
    postgres.sql("create table last_words (a int)");
    for (nth, mode) in ["session", "transaction"].iter().enumerate() {
        let ferry = Ferry::start(postgres, &["--pool-mode", mode]);
        let mut raw = ferry.session();
        raw.send(&[query("insert into last_words select 1 from pg_sleep(0.2)"), terminate()].concat());
        assert_eq!(tags(&raw.read_to_end()), "CZ");
        assert_eq!(postgres.sql("select count(*) from last_words"), (nth + 1).to_string());
    }
}

#[test]
fn late_copy_messages_get_no_connection_and_no_answer() {
    let ferry = Ferry::start(Postgres::shared(), &["--pool-mode", "transaction", "--pool-size", "1"]);
    let mut raw = ferry.session();
    raw.send(&[copy_data(&vec![b'x'; 100_000]), crate::harness::raw::copy_done(), query("select 1")].concat());
    assert_eq!(tags(&raw.until_ready()), "TDCZ");
    raw.send(&copy_data(b"late"));
    assert_eq!(ferry.session().value("select 2"), "2", "nobody else is held up");
}

#[test]
fn notifications_come_at_any_time() {
    let postgres = Postgres::shared();
    for mode in ["session", "transaction"] {
        let ferry = Ferry::start(postgres, &["--pool-mode", mode, "--pool-size", "2"]);
        let mut raw = ferry.session();
        raw.query("listen news");
        for n in 0..3 {
            postgres.sql(&format!("notify news, '{n}'"));
            let message = raw.recv().expect("a notification");
            assert_eq!(message.tag, b'A');
            assert!(message.body.ends_with(format!("news\0{n}\0").as_bytes()));
        }
        // Others are not told.
        let mut other = ferry.session();
        assert_eq!(other.value("select 1"), "1");
        postgres.sql("notify news, 'more'");
        assert_eq!(raw.recv().map(|message| message.tag), Some(b'A'));
        assert_eq!(tags(&other.query("select 1")), "TDCZ");
    }
}

#[test]
fn half_a_message_takes_no_connection() {
    for mode in ["session", "transaction"] {
        let ferry = Ferry::start(Postgres::shared(), &["--pool-mode", mode, "--pool-size", "1"]);
        let mut dribbling = ferry.session();
        let message = query("select 'slowly'");
        dribbling.send(&message[..10]);
        assert_eq!(ferry.session().value("select 1"), "1", "nobody is held up");
        eventually("the other is gone", || ferry.report().get("leased_now") == 0);
        let busy = ferry.cpu_ticks();
        for _ in 0..20 {
            assert_eq!(ferry.report().get("leased_now"), 0);
        }
        assert!(ferry.cpu_ticks() - busy < 50, "and nothing spins");
        dribbling.send(&message[10..]);
        assert_eq!(dribbling.until_ready()[1].columns(), ["slowly"]);
    }
}

#[test]
fn transaction_mode_shares_connections_between_statements() {
    let ferry = Ferry::start(Postgres::shared(), &["--pool-mode", "transaction", "--pool-size", "1"]);
    let mut sessions: Vec<_> = (0..5).map(|_| ferry.session()).collect();
    for _ in 0..3 {
        for session in &mut sessions {
            assert_eq!(session.value("select 1"), "1");
        }
    }
    let mut first = sessions.remove(0);
    first.query("begin");
    sessions[0].send(&query("select 2"));
    eventually("it waits", || ferry.report().get("waiting_now") == 1);
    first.query("commit");
    assert_eq!(sessions[0].until_ready()[1].columns(), ["2"]);
    // A named statement stays where it is, and so does its client.
    first.send(&[parse("mine", "select 7"), sync()].concat());
    first.until_ready();
    sessions[1].send(&query("select 3"));
    first.send(&[bind("", "mine", &[]), execute("", 0), sync()].concat());
    assert_eq!(tags(&first.until_ready()), "2DCZ");
    drop(first);
    assert_eq!(sessions[1].until_ready()[1].columns(), ["3"]);
}

/// As Go's lib/pq does it: parse and describe, wait for the answer, then bind.
#[test]
fn an_unnamed_statement_is_found_again() {
    for reset in ["always", "on_change", "never"] {
        let ferry =
            Ferry::start(Postgres::shared(), &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
        let mut careful = ferry.session();
        let mut other = ferry.session();
        assert_eq!(other.value("select 'before'"), "before");
        careful.send(&[parse("", "select 'mine'"), describe(b'S', ""), sync()].concat());
        assert_eq!(tags(&careful.until_ready()), "1tTZ");
        other.send(&extended("select 'other'", &[]));
        assert_eq!(other.until_ready()[3].columns(), ["other"], "it need not wait");
        for _ in 0..2 {
            careful.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
            assert_eq!(careful.until_ready()[1].columns(), ["mine"]);
            assert_eq!(other.value("select 'another'"), "another");
        }
        // What somebody else has parsed is nobody's.
        careful.query("select 1");
        other.send(&extended("select 'other'", &[]));
        assert_eq!(other.until_ready()[3].columns(), ["other"]);
        careful.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
        let messages = careful.until_ready();
        assert_eq!(messages[0].field(b'C'), "26000", "{reset}: {messages:?}");
    }
}

#[test]
fn an_idle_client_holds_neither_connection_nor_much_memory() {
    let ferry = Ferry::start(Postgres::shared(), &["--pool-size", "1"]);
    drop(ferry.session());
    let before = ferry.memory();
    let sessions: Vec<_> = (0..500).map(|_| ferry.session()).collect();
    let each = (ferry.memory().saturating_sub(before)) * 1024 / 500;
    assert!(each < 16_000, "{each} bytes per idle client");
    assert_eq!(ferry.report().get("leased_now"), 0);
    drop(sessions);
}
