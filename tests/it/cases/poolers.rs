//! A pooler between pgferry and PostgreSQL: it is recognised, and a login there is not taken for a server process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::harness::protocol_client::{ProtocolClient, bind, execute, message, parse, query, sync};
use crate::harness::{Pgferry, Postgres};

/// Sessions that a pooler has to give, each of them a new one.
struct Sessions {
    port: u16,
    free: Mutex<usize>,
    returned: Condvar,
}

impl Sessions {
    fn take(&self) -> ProtocolClient {
        let free = self.returned.wait_while(self.free.lock().expect("whole"), |free| *free == 0);
        *free.expect("whole") -= 1;
        ProtocolClient::tcp(self.port).logged_in("trust_user", "postgres")
    }

    fn end(&self, session: ProtocolClient) {
        drop(session);
        *self.free.lock().expect("whole") += 1;
        self.returned.notify_one();
    }
}

/// Time for which a client of the pooler has a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lends {
    UntilTheEnd,
    ForATransaction,
}

/// A pooler with two sessions, which lets everybody in at once. Its URL.
fn pooler(postgres: &Postgres, lends: Lends) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let sessions = Arc::new(Sessions { port: postgres.port, free: Mutex::new(2), returned: Condvar::new() });
    std::thread::spawn(move || {
        for (nth, stream) in (1..).zip(listener.incoming().map_while(Result::ok)) {
            let sessions = Arc::clone(&sessions);
            std::thread::spawn(move || serve(stream, nth, &sessions, lends));
        }
    });
    format!("postgres://127.0.0.1:{port}?sslmode=disable")
}

/// Serves one client, which is told a process id that no process has. Returns when it is gone.
fn serve(mut stream: TcpStream, nth: i32, sessions: &Sessions, lends: Lends) -> Option<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize - 4]).ok()?;
    let key = message(b'K', &[(-nth).to_be_bytes(), [0; 4]].concat());
    let version = message(b'S', b"server_version\x0015.0\0");
    stream.write_all(&[message(b'R', &[0; 4]), version, key, message(b'Z', b"I")].concat()).ok()?;
    let mut lent = None;
    let outcome = relay(&mut stream, sessions, lends, &mut lent);
    if let Some(session) = lent {
        sessions.end(session);
    }
    outcome
}

fn relay(stream: &mut TcpStream, sessions: &Sessions, lends: Lends, lent: &mut Option<ProtocolClient>) -> Option<()> {
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).ok()?;
        let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
        stream.read_exact(&mut body).ok()?;
        if head[0] == b'X' {
            return None;
        }
        let session = lent.get_or_insert_with(|| sessions.take());
        session.send(&message(head[0], &body));
        if !matches!(head[0], b'Q' | b'S') {
            continue;
        }
        let answer = session.until_ready();
        let is_over = answer.last().is_some_and(|ready| ready.body == b"I");
        let bytes: Vec<u8> = answer.iter().flat_map(|part| message(part.tag, &part.body)).collect();
        if is_over && lends == Lends::ForATransaction {
            sessions.end(lent.take()?);
        }
        stream.write_all(&bytes).ok()?;
    }
}

#[test]
fn a_client_gets_the_next_free_session_of_a_pooler_that_has_no_more() {
    let postgres = Postgres::start_with(&[]);
    let url = pooler(&postgres, Lends::UntilTheEnd);
    let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_SERVER_CONNECT_TIMEOUT", "500ms")]);
    let mut one = ferry.session();
    assert_eq!(one.value("select 1"), "1");
    ferry.logs("a pooler answers at 127.0.0.1");
    let mut two = ferry.session();
    assert_eq!(two.value("select 2"), "2");
    let mut three = ferry.session();
    three.send(&query("select 3"));
    ferry.logs("the pooler there gave no server connection in time");
    drop(one);
    let answer = three.until_ready();
    let row = answer.iter().find(|message| message.tag == b'D').expect("a row");
    assert_eq!(row.columns(), ["3"]);
    assert_eq!(two.value("select 4"), "4");
}

#[test]
fn a_pooler_that_keeps_no_session_is_told_in_the_log() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start_with(&pooler(&postgres, Lends::ForATransaction), &[], &[]);
    assert_eq!(ferry.session().value("select 1"), "1");
    ferry.logs("moves a connection from one server process to another");
}

/// Behind a pooler that lends its sessions to several pgferrys, one would execute the other's statement otherwise.
#[test]
fn two_pgferrys_name_no_statement_alike() {
    let postgres = Postgres::start_with(&[]);
    let names = [(); 2].map(|()| {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
        let mut client = ferry.session();
        client.send(&[parse("s", "select 42"), bind("", "s", &[]), execute("", 0), sync()].concat());
        client.until_ready();
        client.value("select name from pg_prepared_statements where statement = 'select 42'")
    });
    assert!(names.iter().all(|name| name.starts_with("pgferry_")), "{names:?}");
    assert_ne!(names[0], names[1]);
}
