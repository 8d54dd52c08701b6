//! Servers that are not what they should be, and names that are too long: what broke other poolers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use crate::harness::raw::{message, password, startup};
use crate::harness::{Ferry, Message, Postgres, eventually};

/// What a false server says once it has read the startup packet.
type Script = fn(&mut TcpStream);

/// A false server, and pgferry in front of it; what a client is told that brings a password.
fn meet(script: Script) -> (Ferry, Message) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            packet(&mut stream, 0);
            script(&mut stream);
        }
    });
    let url = format!("postgres://127.0.0.1:{port}?sslmode=disable");
    let ferry = Ferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
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

#[test]
fn a_server_that_leaves_the_login_out_serves_nobody() {
    for (parameters, says) in [
        ("channel_binding=require", message(b'Z', b"I")),
        ("channel_binding=prefer", message(b'Z', b"I")),
        ("require_auth=scram-sha-256", message(b'Z', b"I")),
        ("require_auth=scram-sha-256", [authentication(0, b""), message(b'Z', b"I")].concat()),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                packet(&mut stream, 0);
                say(&mut stream, &says);
                packet(&mut stream, 1);
            }
        });
        let url = format!("postgres://127.0.0.1:{port}?sslmode=disable&{parameters}");
        let ferry = Ferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "me"), ("database", "d")]));
        let told = raw.read_to_end();
        assert_eq!(told.first().expect("an answer").tag, b'E', "{parameters}: {told:?}");
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
        let ferry = Ferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "me"), ("database", "d")]));
        assert_eq!(raw.read_to_end().first().expect("an answer").tag, b'E');
    }
}

#[test]
fn lengths_that_lie_are_not_believed() {
    // CVE-2026-6664 and its kin: nothing is allocated for what is only claimed.
    for lie in [&b"R\x7f\xff\xff\xff"[..], b"R\0\0\0\0", b"R\0\0\0\x03", b"R\xff\xff\xff\xff", b"K\0\0\0\x05x"] {
        let lie = lie.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                packet(&mut stream, 0);
                say(&mut stream, &lie);
                packet(&mut stream, 1);
            }
        });
        let url = format!("postgres://127.0.0.1:{port}?sslmode=disable");
        let ferry = Ferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s")]);
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
    let ferry = Ferry::start(postgres, &[]);
    for (user, database) in [(5, 9_900), (9_900, 5), (4_900, 4_900)] {
        let (user, database) = ("u".repeat(user), "d".repeat(database));
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", &user), ("database", &database)]));
        let found = raw.read_to_end();
        let mut direct = crate::harness::Raw::tcp(postgres.port);
        direct.send(&startup(&[("user", &user), ("database", &database)]));
        let expected = direct.read_to_end();
        let told = |said: &[Message]| said.last().map(|error| (error.field(b'C'), error.field(b'M')));
        assert_eq!(told(&found), told(&expected));
    }
}

#[test]
fn a_server_that_says_nothing_is_left_in_good_order() {
    for parameters in ["sslmode=disable", "sslmode=require", "sslmode=prefer"] {
        // The kernel accepts; nobody ever reads or answers.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("postgres://127.0.0.1:{port}?{parameters}");
        let env = [("PGFERRY_CLIENT_LOGIN_TIMEOUT", "1s"), ("PGFERRY_SERVER_CONNECT_TIMEOUT", "300ms")];
        let ferry = Ferry::start_with(&url, &[], &env);
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
