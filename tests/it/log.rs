//! The log: nobody waits for its reader, and nobody else writes lines of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStderr, Stdio};

use tempfile::TempDir;

use crate::harness::pgferry::command;
use crate::harness::postgres::free_port;
use crate::harness::protocol_client::startup;
use crate::harness::{ChildProcess, Pgferry, Postgres, ProtocolClient, SOON, Signal, ends, eventually, signal};

/// A pgferry whose log is read only when a test reads it.
struct Unread {
    child: ChildProcess,
    log: Option<BufReader<ChildStderr>>,
    dir: TempDir,
}

impl Unread {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let host = dir.path().to_str().expect("UTF-8").to_owned();
        let mut command = command();
        command.args(["--upstream", &Postgres::shared().url(), "--listen", &host]).args(args);
        let mut child = ChildProcess::spawn(command.envs(env.iter().copied()).stderr(Stdio::piped()));
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("ready: ") {
            line.clear();
            assert!(log.read_line(&mut line).expect("a line") > 0, "pgferry ended");
        }
        Self { child, log: Some(log), dir }
    }

    fn log(&mut self) -> &mut BufReader<ChildStderr> {
        self.log.as_mut().expect("it is there")
    }

    fn raw(&self) -> ProtocolClient {
        ProtocolClient::unix(&self.dir.path().join(".s.PGSQL.5432"))
    }
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

fn dropped(port: u16) -> u64 {
    let page = get(port, "/metrics");
    let line = page.lines().find(|line| line.starts_with("pgferry_log_lines_dropped_total ")).expect("a figure");
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

#[test]
fn a_log_that_is_not_read_stops_nothing() {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let mut ferry = Unread::start(&[], &[("PGFERRY_ADMIN_LISTEN", &admin)]);
    let mut guest = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    // Each is a line: the pipe's 64 kB, and then the queue, fill up soon.
    let long = format!("RECONNECT \"{}\"", "n".repeat(6_000));
    let mut said = 0;
    while dropped(port) == 0 {
        assert_eq!(guest.error(&long).field(b'C'), "3D000");
        said += 1;
        assert!(said < 20_000, "the queue has a bound");
    }
    assert!(get(port, "/live").starts_with("HTTP/1.1 200"));
    assert_eq!(ProtocolClient::logged_in(ferry.raw(), "trust_user", "postgres").value("select 1"), "1");
    // What was dropped is told as soon as somebody reads.
    let mut told = String::new();
    while !told.contains("lines of the log were dropped") {
        told.clear();
        assert!(ferry.log().read_line(&mut told).expect("a line") > 0, "pgferry ended");
    }
    // A full pipe keeps the process from ending no longer than it takes to give up.
    for _ in 0..300 {
        guest.query(&long);
    }
    signal(ferry.child.id(), Signal::SIGTERM);
    ends(&mut ferry.child);
}

#[test]
fn a_log_whose_reader_is_gone_stops_nothing() {
    let mut ferry = Unread::start(&["-v", "-v"], &[("PGFERRY_LOG_CONNECTIONS", "true")]);
    // The reading end is closed: writes fail from now on.
    ferry.log = None;
    for _ in 0..50 {
        assert_eq!(ProtocolClient::logged_in(ferry.raw(), "trust_user", "postgres").value("select 1"), "1");
    }
    assert!(ferry.child.try_wait().expect("a child").is_none());
}

/// Names that would be lines, colours or other characters of the log.
const FORGED: [&str; 5] = [
    "x\n2030-01-01T00:00:00.000000Z  WARN forged",
    "x\r2030-01-01T00:00:00.000000Z  WARN forged",
    "x\u{1b}[2K\u{1b}[1Aforged",
    "x\u{85}forged\u{2028}forged\u{9b}31m",
    "x\u{202e}forged",
];

#[test]
fn what_clients_and_servers_send_stays_in_its_line() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_LOG_CONNECTIONS", "true")]);
    for forged in FORGED {
        for (user, database) in [("trust_user", forged), (forged, "postgres"), (forged, "pgferry")] {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", user), ("database", database), ("application_name", forged)]));
            raw.send(&crate::harness::protocol_client::query(&format!("show \"{forged}\"")));
            raw.end();
            raw.read_to_end();
        }
        let mut session = ferry.session();
        session.query(&format!("do $$begin raise exception '{forged}'; end$$"));
        session.query(&format!("set application_name = '{forged}'"));
    }
    let mut long = ferry.raw();
    long.send(&startup(&[("user", &"é".repeat(4_000)), ("database", "d")]));
    long.read_to_end();
    eventually("the last is logged", || ferry.log().contains("éé"));
    for line in ferry.log().split('\n').filter(|line| !line.is_empty()) {
        assert!(line.starts_with("20") && !line.starts_with("2030"), "{line:?}");
        let bad = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
        assert!(!line.contains(bad), "{line:?}");
        assert!(line.len() < 9_000, "{} bytes", line.len());
    }
}

#[test]
fn lines_of_json_stay_json() {
    let mut ferry = Unread::start(&["--log-format", "json"], &[("PGFERRY_LOG_CONNECTIONS", "true")]);
    for user in FORGED {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", user), ("database", "d")]));
        raw.read_to_end();
    }
    ProtocolClient::logged_in(ferry.raw(), "u", "pgferry").query(&format!("RECONNECT \"{}\"", "é\\".repeat(9_000)));
    signal(ferry.child.id(), Signal::SIGTERM);
    let mut log = String::new();
    ferry.log().read_to_string(&mut log).expect("UTF-8");
    assert!(log.contains("forged") && log.contains("bytes more"), "{log}");
    for line in log.lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["timestamp"].is_string() && line.len() < 9_000, "{line}");
        assert!(!line.contains(|c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c)), "{line:?}");
    }
}
