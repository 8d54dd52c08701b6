//! Connections for replication, on which SQL runs as well: what ends in the middle of a message, and what still comes behind an end.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::script::{Findings, SESSION, TRANSACTION};
use crate::harness::protocol_client::{message, query, startup, tags, terminate};
use crate::harness::{Pgferry, Postgres, ProtocolClient, Signal, eventually};

fn replicates(mut raw: ProtocolClient) -> ProtocolClient {
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres"), ("replication", "database")]));
    assert!(tags(&raw.until_ready()).ends_with('Z'));
    raw
}

fn walsenders(postgres: &Postgres) -> String {
    postgres.sql("select count(*) from pg_stat_activity where backend_type = 'walsender'")
}

#[test]
fn statement_that_a_replication_client_did_not_finish_is_not_carried_out() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table half_rows (a int)");
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0]] {
        let ferry = setup.start(&postgres);
        for missing in [1, 2, 3, 5] {
            let mut raw = replicates(ferry.raw());
            let last = query("insert into half_rows values (1) --xxxxxxxxxx");
            raw.send(&last[..last.len() - missing]);
            drop(raw);
            eventually("the connection has ended", || walsenders(&postgres) == "0");
            let rows = postgres.sql("select count(*) from half_rows");
            if rows != "0" {
                findings.add(format!("{rows} rows of a query without its last {missing} bytes ({setup:?})"));
                postgres.sql("truncate half_rows");
            }
        }
        ferry.give_up();
    }
    findings.report();
}

/// pgjdbc looks for its lag in `pg_stat_replication` by that.
#[test]
fn process_id_of_a_replication_client_is_its_walsenders() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[0], TRANSACTION[0]] {
        let ferry = setup.start(&postgres);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres"), ("replication", "database")]));
        let welcome = raw.until_ready();
        let key = welcome.iter().find(|message| message.tag == b'K').expect("a key");
        let given = i32::from_be_bytes(key.body[..4].try_into().expect("a pid")).to_string();
        let own = postgres.sql("select pid from pg_stat_activity where backend_type = 'walsender'");
        if given != own {
            findings.add(format!("{given} instead of {own} ({setup:?})"));
        }
        drop(raw);
        eventually("the connection has ended", || walsenders(&postgres) == "0");
        ferry.give_up();
    }
    findings.report();
}

#[test]
fn replication_client_that_sends_no_more_gets_its_answers() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    let answers = |raw: ProtocolClient| {
        let mut raw = replicates(raw);
        raw.send(&[query("select pg_sleep(0.1)"), query("select 7")].concat());
        raw.end();
        tags(&raw.read_to_end())
    };
    assert_eq!(answers(ProtocolClient::tcp(postgres.port)), "TDCZTDCZ");
    assert_eq!(answers(ferry.raw()), "TDCZTDCZ");
    eventually("the connection has ended", || walsenders(&postgres) == "0");
}

/// Nothing tells a client without a password that it has to wait for its login.
#[test]
fn statements_that_a_replication_client_sends_with_its_login_are_carried_out() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &[]);
    let login = startup(&[("user", "trust_user"), ("database", "postgres"), ("replication", "database")]);
    for mut raw in [ProtocolClient::tcp(postgres.port), ferry.raw()] {
        raw.send(&[login.clone(), query("select 7")].concat());
        assert!(tags(&raw.until_ready()).starts_with('R'));
        assert_eq!(tags(&raw.until_ready()), "TDCZ");
    }
    let mut raw = ferry.raw();
    raw.send(&[login, query("select 7")].concat());
    raw.end();
    assert!(tags(&raw.read_to_end()).ends_with("ZTDCZ"), "one that sends no more");
}

/// A message of the server's of which a client has had part, when its session is killed.
#[test]
fn error_of_pgferrys_own_does_not_end_up_in_a_message_of_the_servers() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    let mut raw = replicates(ferry.raw());
    // One row that is longer than what sockets hold.
    raw.send(&query("select repeat('x', 20000000)"));
    let mut console = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    let rows = console.query("show clients");
    let is_replication = |row: &&crate::harness::Message| row.tag == b'D' && row.columns()[3] == "logical";
    let id = rows.iter().find(is_replication).map(|row| row.columns()[20].clone()).expect("the client");
    eventually("part of the row is there", || raw.byte() == b'D');
    console.query(&format!("kill_client {id}"));
    let rest = raw.drain();
    let all_x = rest.iter().skip(10).all(|byte| *byte == b'x');
    assert!(all_x, "{} bytes, the last of them {:?}", rest.len(), &rest[rest.len().saturating_sub(60)..]);
}

#[test]
fn server_of_a_replication_login_that_a_shutdown_cuts_off_is_told_of_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut ferry = Pgferry::start_with(&format!("postgres://127.0.0.1:{port}?sslmode=disable"), &[], &[]);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "u"), ("database", "d"), ("replication", "database")]));
    let (mut server, _) = listener.accept().expect("a connection");
    assert!(server.read(&mut [0; 1000]).expect("a startup packet") > 0);
    ferry.signal(Signal::SIGTERM);
    let end = raw.read_to_end().pop().expect("an error");
    assert_eq!(end.field(b'C'), "57P03", "at once");
    let welcome = [message(b'R', &[0; 4]), message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]), message(b'Z', b"I")].concat();
    server.write_all(&welcome).expect("sent");
    let mut last = [0; 5];
    server.read_exact(&mut last).expect("a message");
    assert_eq!(last[..], terminate());
    drop(server);
    assert!(ferry.wait().success());
}

#[test]
fn replication_is_among_the_servers_that_the_console_shows() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    let mut console = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    let mut rows = |what: &str| -> Vec<Vec<String>> {
        let rows = console.query(&format!("show {what}"));
        rows.iter().filter(|row| row.tag == b'D').map(crate::harness::Message::columns).collect()
    };
    let raw = replicates(ferry.raw());
    let [server] = <[_; 1]>::try_from(rows("servers")).expect("one server connection");
    assert_eq!(server[1..5], ["trust_user", "postgres", "logical", "active"], "{server:?}");
    let clients = rows("clients");
    let client = clients.iter().find(|client| client[3] == "logical").expect("the client");
    assert_eq!((&client[15], &server[15]), (&server[14], &client[14]), "each names the other");
    drop(raw);
    eventually("it is gone", || rows("servers").is_empty());
}
