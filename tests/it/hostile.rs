//! Servers that are not what they should be, and names that are too long: what broke other poolers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use crate::harness::protocol_client::{message, password, query, startup};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually};

/// What a false server says once it has read the startup packet.
type Script = fn(&mut TcpStream);

/// A false server, and pgferry in front of it; what a client is told that brings a password.
fn meet(script: Script) -> (Pgferry, Message) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            packet(&mut stream, 0);
            script(&mut stream);
        }
    });
    let url = format!("postgres://127.0.0.1:{port}?sslmode=disable");
    let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "me"), ("database", "d")]));
    let first = raw.recv().expect("an answer");
    if first.tag == b'E' {
        return (ferry, first);
    }
    assert_eq!(first.body, [0, 0, 0, 3], "{first:?}");
    raw.send(&password("secret"));
    let last = raw.read_to_end().last().expect("an error").clone();
    (ferry, last)
}

/// Reads one packet, with or without a tag in front.
fn packet(stream: &mut TcpStream, tag: usize) -> Vec<u8> {
    let mut head = vec![0; tag + 4];
    if stream.read_exact(&mut head).is_err() {
        return Vec::new();
    }
    let length = u32::from_be_bytes(head[tag..].try_into().expect("four bytes")) as usize;
    let mut body = vec![0; length - 4];
    let _ = stream.read_exact(&mut body);
    body
}

fn say(stream: &mut TcpStream, bytes: &[u8]) {
    // It may have had enough.
    let _ = stream.write_all(bytes);
}

fn authentication(kind: u32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes()[..], data].concat())
}

/// Asks for SCRAM and gives the client's nonce.
fn ask_for_scram(stream: &mut TcpStream) -> String {
    say(stream, &authentication(10, b"SCRAM-SHA-256\0\0"));
    let first = packet(stream, 1);
    let text = String::from_utf8_lossy(&first).into_owned();
    text.rsplit("r=").next().unwrap_or_default().to_owned()
}

#[test]
fn a_nonce_without_end_is_no_overflow() {
    // CVE-2026-6665.
    let (_ferry, error) = meet(|stream| {
        let nonce = ask_for_scram(stream);
        let text = format!("r={nonce}{},s=AAAA,i=4096", "x".repeat(60_000));
        say(stream, &authentication(11, text.as_bytes()));
        packet(stream, 1);
    });
    assert!(error.field(b'M').contains("connection broke during login"), "{error:?}");
}

#[test]
fn work_without_end_is_not_done() {
    let started = Instant::now();
    let (ferry, error) = meet(|stream| {
        let nonce = ask_for_scram(stream);
        say(stream, &authentication(11, format!("r={nonce}x,s=AAAA,i=2147483647").as_bytes()));
        packet(stream, 1);
    });
    assert!(error.field(b'M').contains("2147483647 SCRAM iterations"), "{error:?}");
    assert!(ferry.cpu_ticks() < 100, "{:?} of work in {:?}", ferry.cpu_ticks(), started.elapsed());
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    let (_ferry, error) = meet(|stream| {
        let nonce = ask_for_scram(stream);
        say(stream, &authentication(11, format!("r={nonce}x,s=AAAA,i=8").as_bytes()));
        packet(stream, 1);
        let signature = "A".repeat(43) + "=";
        say(stream, &authentication(12, format!("v={signature}").as_bytes()));
        say(stream, &[authentication(0, b""), message(b'Z', b"I")].concat());
        packet(stream, 1);
    });
    assert!(error.field(b'M').contains("does not know the password"), "{error:?}");
    // Nor is it enough to leave the proof out.
    let (_ferry, error) = meet(|stream| {
        let nonce = ask_for_scram(stream);
        say(stream, &authentication(11, format!("r={nonce}x,s=AAAA,i=8").as_bytes()));
        packet(stream, 1);
        say(stream, &[authentication(0, b""), message(b'Z', b"I")].concat());
        packet(stream, 1);
    });
    assert!(error.field(b'M').contains("no SCRAM server-final-message"), "{error:?}");
}

/// The port of a server that says this to each startup packet, and waits for what the client says to it.
fn server_that_says(says: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            packet(&mut stream, 0);
            say(&mut stream, &says);
            packet(&mut stream, 1);
        }
    });
    port
}

#[test]
fn a_server_that_leaves_the_login_out_serves_nobody() {
    for (parameters, says) in [
        ("channel_binding=require", message(b'Z', b"I")),
        ("channel_binding=prefer", message(b'Z', b"I")),
        ("require_auth=scram-sha-256", message(b'Z', b"I")),
        ("require_auth=scram-sha-256", [authentication(0, b""), message(b'Z', b"I")].concat()),
    ] {
        let port = server_that_says(says);
        let url = format!("postgres://127.0.0.1:{port}?sslmode=disable&{parameters}");
        let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "me"), ("database", "d")]));
        let told = raw.read_to_end();
        assert_eq!(told.first().expect("an answer").tag, b'E', "{parameters}: {told:?}");
    }
}

#[test]
fn requests_that_can_not_be_understood_are_told_as_such() {
    for (says, part) in [
        (authentication(99, b""), "does not support: number 99"),
        (authentication(4, b"ab"), "does not support: number 4"),
        (message(b'R', b"\0"), "a malformed authentication request"),
        (authentication(5, b"ab"), "a malformed authentication request"),
        (authentication(10, b"SCRAM-SHA-256"), "a malformed list of SASL mechanisms"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "invalid message length"),
        // PostgreSQL's, where it can't start a process.
        (
            b"Ecould not fork new process for connection: Cannot allocate memory\n\0".to_vec(),
            "can't serve the connection: could not fork new process for connection: Cannot allocate memory",
        ),
    ] {
        let port = server_that_says(says);
        let url = format!("postgres://127.0.0.1:{port}?sslmode=disable");
        let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "me"), ("database", "d")]));
        let told = raw.read_to_end().last().expect("an answer").clone();
        assert!(told.field(b'M').contains(part), "{told:?}");
    }
}

#[test]
fn an_error_without_a_code_is_an_error() {
    // CVE-2026-6666.
    for body in [&b"SFATAL\0Msomething\0\0"[..], b"\0", b"", b"M", b"C28P01", b"SFATAL\0C\0Mx\0\0"] {
        let body = body.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                packet(&mut stream, 0);
                say(&mut stream, &message(b'E', &body));
            }
        });
        let url = format!("postgres://127.0.0.1:{port}?sslmode=disable");
        let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "me"), ("database", "d")]));
        assert_eq!(raw.read_to_end().first().expect("an answer").tag, b'E');
    }
}

#[test]
fn lengths_that_lie_are_not_believed() {
    // CVE-2026-6664 and its kin: nothing is allocated for what is only claimed.
    for lie in [&b"R\x7f\xff\xff\xff"[..], b"R\0\0\0\0", b"R\0\0\0\x03", b"R\xff\xff\xff\xff", b"K\0\0\0\x05x"] {
        let port = server_that_says(lie.to_vec());
        let url = format!("postgres://127.0.0.1:{port}?sslmode=disable");
        let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
        let before = ferry.memory();
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "me"), ("database", "d")]));
        assert_eq!(raw.read_to_end().first().expect("an answer").field(b'C'), "08P01");
        assert!(ferry.memory() < before + 20_000);
    }
}

#[test]
fn names_that_fill_the_packet_are_passed_on() {
    // CVE-2012-4575.
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &[]);
    for (user, database) in [(5, 9_900), (9_900, 5), (4_900, 4_900)] {
        let (user, database) = ("u".repeat(user), "d".repeat(database));
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", &user), ("database", &database)]));
        let found = raw.read_to_end();
        let mut direct = crate::harness::ProtocolClient::tcp(postgres.port);
        direct.send(&startup(&[("user", &user), ("database", &database)]));
        let expected = direct.read_to_end();
        let told = |said: &[Message]| said.last().map(|error| (error.field(b'C'), error.field(b'M')));
        assert_eq!(told(&found), told(&expected));
    }
}

#[test]
fn a_name_that_no_startup_packet_holds_twice_is_refused_at_once() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut raw = ferry.raw();
    // It is the name of the database as well, which pgferry writes out.
    raw.send(&startup(&[("user", &"u".repeat(6_000))]));
    let told = raw.read_to_end().last().expect("an error").clone();
    assert_eq!(told.field(b'C'), "08P01", "{told:?}");
    ferry.logs("longer than PostgreSQL allows");
}

#[test]
fn a_server_that_says_nothing_is_left_in_good_order() {
    for parameters in ["sslmode=disable", "sslmode=require", "sslmode=prefer"] {
        // The kernel accepts; nobody ever reads or answers.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("postgres://127.0.0.1:{port}?{parameters}");
        let env = [("PGFERRY_CLIENT_LOGIN_TIMEOUT", "1s"), ("PGFERRY_SERVER_CONNECT_TIMEOUT", "300ms")];
        let ferry = Pgferry::start_with(&url, &[], &env);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "me"), ("database", "d")]));
        let error = raw.read_to_end().last().expect("an error").clone();
        assert!(error.field(b'M').contains("timed out after"), "{error:?}");
        eventually("all are closed", || {
            let report = ferry.report();
            report.get("upstream_opened") == report.get("upstream_closed")
        });
        let report = ferry.report();
        assert!(report.get("upstream_reset") >= 1);
        assert_eq!(report.get("time_waits"), 0, "{parameters}");
    }
}

/// Answers a message, by its type and body.
type Answer = fn(&mut TcpStream, u8, &[u8]) -> std::io::Result<()>;

/// A server that lets everybody in without a password, with `greeting` in its welcome.
fn false_server(greeting: Vec<u8>, answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let greeting = greeting.clone();
            std::thread::spawn(move || {
                packet(&mut stream, 0);
                let key = message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]);
                say(&mut stream, &[authentication(0, b""), greeting, key, message(b'Z', b"I")].concat());
                let mut tag = [0];
                while stream.read_exact(&mut tag).is_ok() {
                    let body = packet(&mut stream, 0);
                    if answer(&mut stream, tag[0], &body).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("postgres://127.0.0.1:{port}?sslmode=disable")
}

fn reports(names: std::ops::Range<usize>) -> Vec<u8> {
    names.flat_map(|nth| message(b'S', format!("setting_{nth}\0{nth}\0").as_bytes())).collect()
}

/// Answers a query without any rows, with `inside` in front of the end.
fn no_rows(stream: &mut TcpStream, tag: u8, inside: &[u8]) -> std::io::Result<()> {
    match tag {
        b'Q' => stream.write_all(&[inside, &message(b'C', b"SELECT 0\0"), &message(b'Z', b"I")].concat()),
        b'S' => stream.write_all(&message(b'Z', b"I")),
        _ => Ok(()),
    }
}

/// Starts pgferry in front of a false server, without questions of its own as far as that can be.
fn in_front_of(url: &str, reset: &str) -> Pgferry {
    let env = [
        ("PGFERRY_CLIENT_LOGIN_TIMEOUT", "3s"),
        ("PGFERRY_QUERY_WAIT_TIMEOUT", "3s"),
        ("PGFERRY_SERVER_CONNECT_TIMEOUT", "3s"),
        ("PGFERRY_MAX_UPSTREAM", "20"),
    ];
    Pgferry::start_with(url, &["--reset", reset], &env)
}

#[test]
fn sixty_thousand_settings_are_no_login() {
    let ferry = in_front_of(&false_server(reports(0..60_000), |stream, tag, _| no_rows(stream, tag, b"")), "never");
    let before = (ferry.memory(), ferry.cpu_ticks());
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "me"), ("database", "d")]));
    let told = raw.read_to_end().last().expect("an error").clone();
    assert!(told.field(b'M').contains("too many settings"), "{told:?}");
    assert!(ferry.memory() - before.0 < 16_000, "{} kB more", ferry.memory() - before.0);
    // Sixty thousand names, each compared with all others, took seconds.
    assert!(ferry.cpu_ticks() - before.1 < 100, "{} ticks", ferry.cpu_ticks() - before.1);
}

#[test]
fn settings_without_end_end_the_connection_that_reports_them() {
    let url = false_server(reports(0..10), |stream, tag, body| {
        let flood = body.starts_with(b"flood");
        no_rows(stream, tag, &if flood { reports(0..60_000) } else { Vec::new() })
    });
    let ferry = in_front_of(&url, "never");
    let mut raw = ProtocolClient::logged_in(ferry.raw(), "me", "d");
    raw.query("one");
    let before = (ferry.memory(), ferry.cpu_ticks());
    raw.send(&query("flood"));
    let told = raw.read_to_end().last().expect("an error").clone();
    assert_eq!(told.field(b'C'), "08006", "{told:?}");
    assert!(ferry.memory() - before.0 < 16_000, "{} kB more", ferry.memory() - before.0);
    assert!(ferry.cpu_ticks() - before.1 < 100, "{} ticks", ferry.cpu_ticks() - before.1);
    assert_eq!(ProtocolClient::logged_in(ferry.raw(), "me", "d").query("two").len(), 2, "others go on");
}

#[test]
fn answers_without_end_to_questions_of_pgferrys_own_are_not_kept() {
    // Whatever is asked, rows come until the asking side is gone.
    let url = false_server(Vec::new(), |stream, tag, _| {
        if tag != b'Q' {
            return Ok(());
        }
        let row = message(b'D', &[&1u16.to_be_bytes()[..], &60_000u32.to_be_bytes(), &vec![b'x'; 60_000]].concat());
        loop {
            stream.write_all(&row)?;
        }
    });
    let ferry = in_front_of(&url, "auto");
    let before = ferry.memory();
    let mut raws: Vec<_> = (0..3)
        .map(|nth| {
            let mut raw = ferry.raw();
            raw.send(&startup(&[("user", "me"), ("database", &format!("d{nth}"))]));
            raw
        })
        .collect();
    let mut most = 0;
    let over = Instant::now() + std::time::Duration::from_secs(5);
    while Instant::now() < over {
        most = most.max(ferry.memory().saturating_sub(before));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(most < 3 * 40_000, "{most} kB more than before");
    for raw in &mut raws {
        assert_eq!(raw.read_to_end().last().expect("an error").tag, b'E');
    }
}
