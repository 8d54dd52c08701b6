//! A login against a server that says everything, in every order, without waiting for an answer.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::against::log_in_against;
use super::login::log_in;
use super::{DialError, Login, Obstacle, Secret};
use crate::config::{RawConfig, Settings};
use crate::error::ClientError;
use crate::net::{BufferPool, Conn, Stream};
use crate::upstream::conn_info::Birth;
use crate::upstream::target::UpstreamTargets;
use crate::wire::backend;

/// Messages that a server may send, by letter: the type, or for `R` what it asks for.
const SAYS: &[u8] = b"OPMACFvSKNZzTDGE";

/// The message that a letter stands for.
fn said(letter: u8) -> Vec<u8> {
    let authentication = |kind: u32, data: &[u8]| [&kind.to_be_bytes()[..], data].concat();
    let (tag, body) = match letter {
        b'O' => (b'R', authentication(0, b"")),
        b'P' => (b'R', authentication(3, b"")),
        b'M' => (b'R', authentication(5, b"salt")),
        b'A' => (b'R', authentication(10, b"SCRAM-SHA-256\0\0")),
        b'C' => (b'R', authentication(11, b"r=x,s=AAAA,i=1")),
        b'F' => (b'R', authentication(12, b"v=AAAA")),
        b'v' => (b'v', b"\0\x03\0\0\0\0\0\0".to_vec()),
        b'S' => (b'S', b"server_version\x0016\0".to_vec()),
        b'K' => (b'K', b"\0\0\0\x01\0\0\0\x02".to_vec()),
        b'N' => (b'N', b"SNOTICE\0C00000\0Mx\0\0".to_vec()),
        b'Z' => (b'Z', b"I".to_vec()),
        b'z' => (b'Z', b"T".to_vec()),
        b'T' => (b'T', b"\0\0".to_vec()),
        b'D' => (b'D', b"\0\0".to_vec()),
        b'G' => (b'G', b"\0\0\0".to_vec()),
        _ => (b'E', b"SFATAL\0VFATAL\0C28000\0Mno\0\0".to_vec()),
    };
    let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [&[tag], &length[..], &body].concat()
}

/// The login's outcome towards a server that says what the letters stand for and closes.
async fn outcome(parameters: &str, letters: &[u8]) -> Result<(), DialError> {
    let all: Vec<u8> = letters.iter().flat_map(|letter| said(*letter)).collect();
    log_in_against(parameters, &all).await
}

/// Returns whether the manual's "Start-up" lets a login succeed where the server says this. A SCRAM exchange can't be guessed.
fn is_good(letters: &[u8], may_ask: &[u8]) -> bool {
    let rest = letters.strip_prefix(b"v").unwrap_or(letters);
    let rest = match rest {
        [asked @ (b'P' | b'M'), rest @ ..] if may_ask.contains(asked) => rest,
        rest if may_ask.contains(&b'O') => rest,
        _ => return false,
    };
    let Some(rest) = rest.strip_prefix(b"O") else { return false };
    let session = rest.iter().position(|letter| !b"SKN".contains(letter));
    session.is_some_and(|end| rest[end] == b'Z')
}

/// All sequences of `length` letters behind `prefix`.
fn sequences(prefix: &[u8], length: usize) -> Vec<Vec<u8>> {
    let mut all = vec![prefix.to_vec()];
    for _ in 0..length {
        all = all.iter().flat_map(|start| SAYS.iter().map(|letter| [start, &[*letter][..]].concat())).collect();
    }
    all
}

/// Parameters of the URL, and what a server that goes by them may ask for; `O` for nothing at all.
const POLICIES: [(&str, &[u8]); 6] = [
    ("max_protocol_version=3.2", b"OPM"),
    ("max_protocol_version=3.2&channel_binding=require", b""),
    ("max_protocol_version=3.2&require_auth=password", b"P"),
    ("max_protocol_version=3.2&require_auth=md5,none", b"MO"),
    ("max_protocol_version=3.2&require_auth=!none,!password", b"M"),
    ("max_protocol_version=3.2&require_auth=scram-sha-256", b""),
];

#[tokio::test]
async fn a_login_succeeds_only_by_what_the_protocol_allows() {
    for (parameters, may_ask) in POLICIES {
        for prefix in [&b""[..], b"O", b"PO", b"vMO"] {
            let length = if prefix.is_empty() { 3 } else { 2 };
            for letters in sequences(prefix, length) {
                let outcome = outcome(parameters, &letters).await;
                let shown = String::from_utf8_lossy(&letters);
                assert_eq!(outcome.is_ok(), is_good(&letters, may_ask), "{parameters} {shown}: {:?}", outcome.err());
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_as_by_libpq() {
    for (parameters, letters, part) in [
        ("channel_binding=require", &b"Z"[..], "expected authentication request from server, but received Z"),
        ("channel_binding=require", b"O", "channel binding required, but server authenticated client without"),
        ("channel_binding=require", b"P", "channel binding required, but server authenticated client without"),
        ("require_auth=scram-sha-256", b"P", "failed: server requested a cleartext password"),
        ("require_auth=scram-sha-256", b"M", "failed: server requested a hashed password"),
        ("require_auth=md5", b"A", "failed: server requested SASL authentication"),
        ("require_auth=md5", b"O", "failed: server did not complete authentication"),
        ("", b"PM", "twice"),
        ("", b"OP", "unexpected"),
        ("", b"Oz", "transaction"),
    ] {
        let error = outcome(parameters, letters).await.expect_err("wrong").client_error().to_string();
        assert!(error.contains(part), "{parameters} {}: {error}", String::from_utf8_lossy(letters));
    }
}

#[tokio::test]
async fn a_login_without_end_is_bounded_in_bytes() {
    let mut status = Vec::new();
    backend::put_parameter_status(&mut status, b"x", &vec![b'y'; 40_000]);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("nonblocking");
    let flood = std::thread::spawn(move || {
        let mut theirs = theirs;
        let _ = theirs.write_all(&said(b'O'));
        let mut sent = 0_usize;
        while theirs.write_all(&status).is_ok() {
            sent += status.len();
            assert!(sent < 100_000_000, "nothing stops it");
        }
    });
    let mut written = RawConfig::default();
    written.file_text("f", "upstream = \"postgres://h\"").expect("good");
    let upstream_targets = UpstreamTargets::new(&Settings::resolve(&written).expect("good"), None).expect("a route");
    let upstream_target = Arc::clone(upstream_targets.of(b"d"));
    let mut conn = Conn::new(Stream::accepted_unix(ours.into()).expect("a stream"), BufferPool::new(8192, 1));
    let mut login = Login {
        birth: Birth::default(),
        user: b"u".to_vec(),
        params: Vec::new(),
        secret: Secret::None,
        upstream_target: Arc::clone(&upstream_target),
    };
    let outcome = log_in(&mut conn, &mut login, &upstream_target.endpoints[0], &mut None).await.map(drop);
    assert!(matches!(outcome, Err(DialError::Protocol(_))));
    drop(conn);
    flood.join().expect("it ends");
}

#[test]
fn a_pooler_that_takes_no_connections_is_no_server_that_stops() {
    let refused = |code: &str, routine: &str| {
        let body = format!("SFATAL\0VFATAL\0C{code}\0Mno\0{routine}\0");
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        let frame = [b"E", &length[..], body.as_bytes()].concat();
        DialError::Refused(ClientError::Server(frame.into()), None)
    };
    assert!(refused("57P03", "RProcessStartupPacket\0").takes_no_connections());
    assert!(!refused("57P03", "").takes_no_connections());
    assert!(!refused("53300", "RProcessStartupPacket\0").takes_no_connections());
}

#[test]
fn a_host_that_has_no_port_left_is_not_taken_for_the_servers_fault() {
    let unreachable = |kind: io::ErrorKind| DialError::Unreachable {
        host: "h".into(),
        why: "why".into(),
        obstacle: Obstacle::of(&kind.into()),
    };
    let no_port = unreachable(io::ErrorKind::AddrNotAvailable);
    assert!(no_port.client_error().to_string().contains("ip_local_port_range"), "{}", no_port.client_error());
    assert!(no_port.hint_behind_wait().contains("ip_local_port_range") && !no_port.is_down());
    let refused = unreachable(io::ErrorKind::ConnectionRefused);
    assert!(refused.client_error().to_string().contains("Is PostgreSQL running there") && refused.is_down());
}
