//! Storms: what one client or server can make pgferry do grows no faster than what it sends, and what it makes pgferry keep is
//! bounded. `make storms` measures how much other clients notice of each.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::postgres::free_port;
use crate::harness::protocol_client::{
    CANCEL_REQUEST, bind, close, describe, execute, message, packet, parse, query, startup, sync,
};
use crate::harness::{Certs, Pgferry, Postgres, ProtocolClient};

/// Growth of the process that is put up with, in kB: buffers, and what the allocator keeps.
const GROWTH: u64 = 24_000;

/// Processor time that is put up with besides, in ticks of 10 ms: what pgferry does on its own, and how coarse ticks are.
const TICKS: u64 = 30;

/// One kind of storm.
struct Storm {
    name: &'static str,
    /// How many units are sent first, and then four times as many.
    count: usize,
    /// Sends units of the storm, each with the number that it is given.
    run: fn(&Sea, Range<usize>),
    /// The pgferry that it goes to.
    place: fn(&Sea) -> &Pgferry,
}

/// Where a storm takes place.
struct Sea {
    ferry: Pgferry,
    /// The port of `admin_listen`.
    admin: u16,
    /// pgferry in front of a server that reports whatever it is asked to.
    reporting: Pgferry,
    /// pgferry that takes few clients.
    narrow: Pgferry,
}

const STORMS: [Storm; 12] = [
    Storm { name: "different settings reported", count: 15_000, run: reported_settings, place: |sea| &sea.reporting },
    Storm { name: "one setting reported", count: 15_000, run: one_setting_reported, place: |sea| &sea.reporting },
    Storm { name: "names of statements", count: 13_000, run: statement_names, place: |sea| &sea.ferry },
    Storm { name: "names of portals", count: 13_000, run: portal_names, place: |sea| &sea.ferry },
    Storm { name: "startup packets", count: 1_500, run: startup_packets, place: |sea| &sea.ferry },
    Storm { name: "pools", count: 200, run: pools, place: |sea| &sea.ferry },
    Storm { name: "names of settings", count: 7_500, run: setting_names, place: |sea| &sea.ferry },
    Storm { name: "words at the console", count: 50_000, run: console_words, place: |sea| &sea.ferry },
    Storm { name: "silent clients", count: 150, run: silent_clients, place: |sea| &sea.narrow },
    Storm { name: "cancel requests", count: 500, run: cancels, place: |sea| &sea.ferry },
    Storm { name: "lines of the log", count: 1_000, run: log_lines, place: |sea| &sea.ferry },
    Storm { name: "labels", count: 30, run: labels, place: |sea| &sea.ferry },
];

impl Sea {
    fn new(postgres: &Postgres) -> Self {
        let admin = free_port();
        let certs = Certs::new();
        let file = format!(
            "admin_listen = \"127.0.0.1:{admin}\"\npool_mode = \"transaction\"\nmax_connecting = 20\n[[rule]]\ndatabase = \"rejected\"\nmethod = \"reject\"\n\
             [[rule]]\nmethod = \"pass-through\"\n"
        );
        let path = certs.write("pgferry.toml", &file);
        let ferry = Pgferry::start_with(&postgres.url(), &["-c", &path], &[]);
        let reporting =
            Pgferry::start_with(&reporting_server(), &["--reset", "never"], &[("PGFERRY_MAX_UPSTREAM", "20")]);
        let narrow = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_MAX_CLIENT_CONN", "50")]);
        Self { ferry, admin, reporting, narrow }
    }

    /// Memory in kB and processor time in ticks of all processes.
    fn cost(&self) -> (u64, u64) {
        let all = [&self.ferry, &self.reporting, &self.narrow];
        (all.map(Pgferry::memory).iter().sum(), all.map(Pgferry::cpu_ticks).iter().sum())
    }
}

/// A server that answers `FROM TO` with reports of so many different settings, and `=FROM TO` with as many of one.
fn reporting_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A client that goes ends it.
            std::thread::spawn(move || drop(report(stream)));
        }
    });
    format!("postgres://127.0.0.1:{port}?sslmode=disable")
}

/// Reads a message, or a packet without a type in front.
fn read(stream: &mut TcpStream, typed: bool) -> std::io::Result<(u8, String)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head[usize::from(!typed)..])?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body)?;
    Ok((head[0], String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned()))
}

fn report(mut stream: TcpStream) -> std::io::Result<()> {
    read(&mut stream, false)?;
    let key = message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]);
    stream.write_all(&[message(b'R', &[0; 4]), key, message(b'Z', b"I")].concat())?;
    loop {
        let (tag, text) = read(&mut stream, true)?;
        let mut answer = Vec::new();
        if tag == b'Q' {
            let numbers = text.trim_start_matches('=').split(' ').filter_map(|word| word.parse::<usize>().ok());
            if let [from, to] = numbers.collect::<Vec<_>>()[..] {
                for nth in from..to {
                    let name = if text.starts_with('=') { 0 } else { nth };
                    answer.extend(message(b'S', format!("setting_{name}\0{nth}\0").as_bytes()));
                }
            }
            answer.extend(message(b'C', b"SELECT 0\0"));
        }
        if matches!(tag, b'Q' | b'S') {
            answer.extend(message(b'Z', b"I"));
        }
        stream.write_all(&answer)?;
    }
}

fn reported_settings(sea: &Sea, numbers: Range<usize>) {
    // What reports too many ends, so that it takes many to report all.
    for start in numbers.clone().step_by(1000) {
        let mut raw = ProtocolClient::logged_in(sea.reporting.raw(), "me", "d");
        raw.send(&query(&format!("{start} {}", numbers.end.min(start + 1000))));
        while raw.recv().is_some_and(|message| message.tag != b'Z') {}
    }
}

fn one_setting_reported(sea: &Sea, numbers: Range<usize>) {
    let mut raw = ProtocolClient::logged_in(sea.reporting.raw(), "me", "d");
    raw.query(&format!("={} {}", numbers.start, numbers.end));
}

fn statement_names(sea: &Sea, numbers: Range<usize>) {
    let mut raw = sea.ferry.session();
    for start in numbers.clone().step_by(500) {
        let end = numbers.end.min(start + 500);
        let parses = (start..end).flat_map(|nth| parse(&format!("name_{nth}"), "select 1"));
        raw.send(&parses.chain(sync()).collect::<Vec<_>>());
        raw.until_ready();
    }
}

fn portal_names(sea: &Sea, numbers: Range<usize>) {
    let mut raw = sea.ferry.session();
    for start in numbers.clone().step_by(500) {
        let end = numbers.end.min(start + 500);
        let mut all = parse("", "select 1");
        for nth in start..end {
            let portal = format!("portal_{nth}");
            all.extend(
                [bind(&portal, "", &[]), describe(b'P', &portal), execute(&portal, 0), close(b'P', &portal)].concat(),
            );
        }
        all.extend(sync());
        raw.send(&all);
        raw.until_ready();
    }
}

fn startup_packets(sea: &Sea, numbers: Range<usize>) {
    for nth in numbers {
        let mut raw = sea.ferry.raw();
        let setting = format!("{nth} {}", "x".repeat(nth % 5_000));
        raw.send(&startup(&[
            ("user", &format!("user_{nth}")),
            ("database", "rejected"),
            ("application_name", &setting),
        ]));
        assert_eq!(raw.read_to_end().last().expect("an error").tag, b'E');
    }
}

/// Each client asks for a setting of its own that can't follow it, so that it needs a pool of its own.
fn pools(sea: &Sea, numbers: Range<usize>) {
    let more = ",pg_catalog".repeat(800);
    for nth in numbers {
        let mut raw = sea.ferry.raw();
        let path = format!("pg_temp,s{nth}{more}");
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres"), ("search_path", &path)]));
        raw.until_ready();
    }
}

/// One text that sets so many settings, or asks for more columns than there may be.
fn setting_names(sea: &Sea, numbers: Range<usize>) {
    let calls: Vec<_> = numbers.map(|nth| format!("set_config('a.b{nth}','',1=1)")).collect();
    let told = sea.ferry.session().query(&format!("select {}", calls.join(",")));
    assert_eq!(told.last().map(|message| message.tag), Some(b'Z'));
}

/// Commands of as many letters, for which others are looked for that are spelled alike.
fn console_words(sea: &Sea, numbers: Range<usize>) {
    let mut guest = ProtocolClient::logged_in(sea.ferry.raw(), "me", "pgferry");
    for start in numbers.clone().step_by(50_000) {
        let word = "w".repeat((numbers.end - start).min(50_000));
        for command in [format!("SHOW {word}"), word.clone(), format!("SET {word} = 1")] {
            assert_eq!(guest.query(&command).first().map(|message| message.tag), Some(b'E'));
        }
    }
}

/// All are there at once, many more than there are places for.
fn silent_clients(sea: &Sea, numbers: Range<usize>) {
    let mut all: Vec<_> = numbers.map(|_| sea.narrow.raw()).collect();
    for raw in &mut all {
        raw.try_send(&startup(&[("user", "trust_user"), ("database", "postgres")])[..20]);
    }
    // The first have been told to go by now, or go soon.
    all.drain(..all.len().saturating_sub(50)).for_each(|mut raw| drop(raw.read_to_end()));
}

fn cancels(sea: &Sea, numbers: Range<usize>) {
    for nth in numbers {
        let mut raw = sea.ferry.raw();
        let pid = i32::try_from(nth).expect("small");
        raw.send(&packet(CANCEL_REQUEST, &[pid.to_be_bytes(), [1; 4]].concat()));
        assert!(raw.recv().is_none());
    }
}

fn log_lines(sea: &Sea, numbers: Range<usize>) {
    let mut guest = ProtocolClient::logged_in(sea.ferry.raw(), "me", "pgferry");
    for nth in numbers {
        guest.query(&format!("RECONNECT \"{nth}{}\"", "n".repeat(2_000)));
    }
}

fn labels(sea: &Sea, numbers: Range<usize>) {
    for nth in numbers {
        let mut raw = sea.ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", &format!("no_such_{nth}"))]));
        raw.read_to_end();
    }
    assert!(metrics(sea.admin).len() < 300_000);
}

fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("answered");
    page
}

#[test]
fn storms_cost_what_they_send_and_leave_nothing() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = String::new();
    for storm in STORMS {
        let sea = Sea::new(&postgres);
        // Buffers and tables have their size by then.
        (storm.run)(&sea, 0..storm.count);
        let first = sea.cost();
        (storm.run)(&sea, storm.count..2 * storm.count);
        let second = sea.cost();
        (storm.run)(&sea, 2 * storm.count..6 * storm.count);
        let third = sea.cost();
        let grown = third.0.saturating_sub(first.0);
        let (once, fourfold) = (second.1 - first.1, third.1 - second.1);
        println!("{}: {once} ticks, fourfold {fourfold}; {grown} kB", storm.name);
        if grown > GROWTH {
            let _ = writeln!(findings, "{}: {grown} kB more than before", storm.name);
        }
        // What grows with the square takes sixteen times as long.
        if fourfold > 8 * once + TICKS {
            let _ = writeln!(findings, "{}: {once} ticks, and {fourfold} for four times as much", storm.name);
        }
    }
    assert!(findings.is_empty(), "{findings}");
}

/// Times of one client's requests for `length`, a millisecond between them.
fn times(ferry: &Pgferry, length: Duration) -> Vec<Duration> {
    let mut raw = ProtocolClient::logged_in(ferry.raw(), "trust_user", "postgres");
    let (over, mut times) = (Instant::now() + length, Vec::new());
    while Instant::now() < over {
        let began = Instant::now();
        assert!(raw.query("select 1").len() >= 2, "it is served");
        times.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    times
}

/// The time that one in a hundred exceeds.
fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// How much other clients notice of storms: requests while one is on against those before and behind it. The ratio of times is
/// told, and held against its bound where it is measured for long enough (`STORM_SECONDS`, `make storms`).
#[test]
fn other_clients_are_served_in_storms() {
    let postgres = Postgres::start_with(&[]);
    let seconds = std::env::var("STORM_SECONDS").ok().map(|text| text.parse::<u32>().expect("seconds"));
    // Half of the time is calm.
    let (window, windows) = (Duration::from_millis(500), seconds.unwrap_or(1));
    let mut findings = String::new();
    for storm in STORMS {
        let sea = Sea::new(&postgres);
        let ferry = (storm.place)(&sea);
        let (mut calm, mut stormy, mut sent) = (Vec::new(), Vec::new(), 0);
        for _ in 0..windows {
            calm.extend(times(ferry, window));
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let raging = scope.spawn(|| {
                    // What is sent at once elsewhere, each second.
                    let portion = (storm.count / 100).max(1);
                    let first = sent;
                    while !over.load(Ordering::Relaxed) {
                        (storm.run)(&sea, sent..sent + portion);
                        sent += portion;
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    assert!(sent > first, "there is a storm");
                });
                stormy.extend(times(ferry, window));
                over.store(true, Ordering::Relaxed);
                raging.join().expect("no panic");
            });
        }
        let (calm, stormy) = (p99(&mut calm), p99(&mut stormy));
        let ratio = stormy.as_secs_f64() / calm.as_secs_f64();
        println!("{}: p99 {calm:?}, in the storm {stormy:?}: {ratio:.2}; {sent} units", storm.name);
        if seconds.is_some() && ratio > 2.0 {
            let _ = writeln!(findings, "{}: {ratio:.2}", storm.name);
        }
    }
    assert!(findings.is_empty(), "more than doubled: {findings}");
}
