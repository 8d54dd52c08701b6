//! Databases that are created, renamed and dropped, and roles that are changed, while pgferry has idle connections.

use crate::harness::protocol_client::{ProtocolClient, bind, execute, extended, parse, query, sync, tags};
use crate::harness::{Pgferry, Postgres, eventually};

fn client(ferry: &Pgferry, database: &str) -> ProtocolClient {
    ProtocolClient::logged_in(ferry.raw(), "trust_user", database)
}

#[test]
fn databases_that_were_visited_can_be_dropped_renamed_and_copied() {
    for mode in ["session", "transaction"] {
        let postgres = Postgres::start_with(&[]);
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        let visit = |database: &str| assert_eq!(client(&ferry, database).value("select current_database()"), database);
        let mut admin = client(&ferry, "postgres");
        let mut run = |message: Vec<u8>| {
            admin.send(&message);
            let answer = admin.until_ready();
            let tags = tags(&answer);
            assert!(!tags.contains('E'), "{mode}: {answer:?}");
        };
        for send in [query as fn(&str) -> Vec<u8>, |sql| extended(sql, &[])] {
            run(send("create database shop"));
            visit("shop");
            run(send("alter database shop rename to \"Old shop\""));
            visit("Old shop");
            run(send("/* a copy */ create database copy template \"Old shop\""));
            visit("copy");
            visit("template1");
            run(send("create database another"));
            for database in ["copy", "U&\"Old\\0020shop\"", "another"] {
                run(send(&format!(";drop database if exists {database}")));
            }
        }
    }
}

#[test]
fn a_statement_that_drops_a_database_does_so_each_time_it_is_run() {
    for mode in ["session", "transaction"] {
        let postgres = Postgres::start_with(&[]);
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        let mut admin = client(&ferry, "postgres");
        let run = |admin: &mut ProtocolClient, request: Vec<u8>| {
            admin.send(&[request, sync()].concat());
            let answer = admin.until_ready();
            assert!(!tags(&answer).contains('E'), "{mode}: {answer:?}");
        };
        for (name, sql) in [("make", "create database shop"), ("drop", "drop database shop")] {
            run(&mut admin, parse(name, sql));
        }
        for _ in 0..2 {
            run(&mut admin, [bind("", "make", &[]), execute("", 0)].concat());
            assert_eq!(client(&ferry, "shop").value("select 1"), "1");
            run(&mut admin, [bind("", "drop", &[]), execute("", 0)].concat());
        }
    }
}

#[test]
fn databases_with_tables_of_their_own_are_on_the_same_server() {
    let postgres = Postgres::start_with(&[]);
    let tables = format!(
        "[databases.shop]\ndbname = \"old\"\n[databases.again]\nupstream = \"{}\"\ndbname = \"postgres\"\n",
        postgres.url()
    );
    let ferry = Pgferry::start_with_file(&postgres.url(), &tables, &[], &[]);
    let mut admin = client(&ferry, "postgres");
    admin.query("create database old");
    assert_eq!(client(&ferry, "shop").value("select current_database()"), "old");
    assert_eq!(client(&ferry, "again").value("select current_database()"), "postgres");
    let dropped = admin.query("drop database old");
    assert_eq!(tags(&dropped), "CZ", "{dropped:?}");
    let capacity = ProtocolClient::logged_in(ferry.raw(), "anybody", "pgferry").query("show capacity");
    assert_eq!(tags(&capacity), "TDCZ", "one server: {capacity:?}");
}

#[test]
fn nobody_is_kept_from_creating_databases() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    assert_eq!(client(&ferry, "template1").value("select 1"), "1");
    // The server itself waits 5 s for it to be gone.
    postgres.sql("create database directly");
    drop(client(&ferry, "template1"));
    eventually("what nobody used is closed", || postgres.backends() == 0);
}

#[test]
fn changed_roles_and_databases_are_seen_by_the_next_client() {
    for mode in ["session", "transaction"] {
        let postgres = Postgres::start_with(&[]);
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        let seen = |setting: &str| client(&ferry, "postgres").value(&format!("show {setting}"));
        assert_eq!((seen("work_mem"), seen("timezone")), ("4MB".into(), "Etc/UTC".into()));
        let mut admin = client(&ferry, "postgres");
        admin.query("alter role trust_user set work_mem = '7MB'");
        assert_eq!(seen("work_mem"), "7MB", "{mode}");
        admin.query("begin");
        admin.query("alter database postgres set timezone = 'Asia/Tokyo'");
        admin.query("select 1");
        admin.query("commit");
        assert_eq!(seen("timezone"), "Asia/Tokyo", "{mode}");
        let mut told = ferry.raw();
        told.send(&crate::harness::protocol_client::startup(&[("user", "trust_user"), ("database", "postgres")]));
        let told = told.until_ready();
        assert!(told.iter().any(|message| message.body.starts_with(b"TimeZone\0Asia/Tokyo")), "{mode}: {told:?}");
        // By somebody else, whom nobody hears.
        postgres.sql("alter role trust_user set work_mem = '9MB'");
        eventually("it is noticed", || seen("work_mem") == "9MB");
    }
}
