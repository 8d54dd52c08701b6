//! The first bytes of a connection.

use crate::harness::protocol_client::{
    CANCEL_REQUEST, GSS_REQUEST, SSL_REQUEST, packet, startup, startup_version, tags,
};
use crate::harness::{Pgferry, Postgres, ProtocolClient};

const WHO: [(&str, &str); 2] = [("user", "trust_user"), ("database", "postgres")];

#[test]
fn encryption_is_declined_in_any_order_and_the_connection_goes_on() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_CLIENT_TLS", "off")]);
    for requests in
        [vec![SSL_REQUEST], vec![GSS_REQUEST], vec![GSS_REQUEST, SSL_REQUEST], vec![SSL_REQUEST, GSS_REQUEST]]
    {
        let mut raw = ferry.raw();
        for request in requests {
            raw.send(&packet(request, &[]));
            assert_eq!(raw.byte(), b'N');
        }
        let mut raw = ProtocolClient::logged_in(raw, "trust_user", "postgres");
        assert_eq!(raw.value("select 1"), "1");
    }
}

#[test]
fn a_second_request_for_the_same_encryption_is_a_version_nobody_knows() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_CLIENT_TLS", "off")]);
    for request in [SSL_REQUEST, GSS_REQUEST] {
        let mut raw = ferry.raw();
        raw.send(&packet(request, &[]));
        assert_eq!(raw.byte(), b'N');
        raw.send(&packet(request, &[]));
        let error = raw.recv().expect("an error");
        assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "0A000"));
        assert!(raw.recv().is_none());
    }
}

#[test]
fn bytes_stuffed_behind_an_encryption_request_are_refused() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    for request in [SSL_REQUEST, GSS_REQUEST] {
        let mut raw = ferry.raw();
        raw.send(&[packet(request, &[]), startup(&WHO)].concat());
        let error = raw.recv().expect("an error");
        assert_eq!(error.field(b'C'), "08P01", "{error:?}");
        assert!(error.field(b'M').contains("received unencrypted data after"), "{error:?}");
        assert!(raw.recv().is_none());
    }
}

#[test]
fn lengths_out_of_bounds_end_the_connection_without_a_word() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let direct = || ProtocolClient::tcp(Postgres::shared().port);
    for length in [0u32, 3, 7, 10_005, 0x7fff_ffff, 0xffff_ffff] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([0, 3, 0, 0]);
        for mut raw in [ferry.raw(), direct()] {
            raw.send(&bytes);
            assert!(raw.recv().is_none(), "{length}");
        }
    }
    // The longest that PostgreSQL takes.
    let filler = "x".repeat(10_000 - 4 - "user\0trust_user\0database\0postgres\0application_name\0\0\0".len());
    let full = startup(&[WHO[0], WHO[1], ("application_name", &filler)]);
    assert_eq!(full.len(), 10_004);
    for mut raw in [ferry.raw(), direct()] {
        raw.send(&full);
        assert!(tags(&raw.until_ready()).ends_with('Z'));
    }
}

#[test]
fn packets_may_come_in_pieces() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut raw = ferry.raw();
    for byte in startup(&WHO) {
        raw.send(&[byte]);
    }
    assert!(tags(&raw.until_ready()).ends_with("KZ"));
}

#[test]
fn other_majors_are_refused() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    for version in [2 << 16, 4 << 16, 1 << 16 | 7] {
        let mut raw = ferry.raw();
        raw.send(&startup_version(version, &WHO));
        let error = raw.recv().expect("an error");
        assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "0A000"), "{error:?}");
        assert!(error.field(b'M').starts_with("unsupported frontend protocol"), "{error:?}");
        assert!(raw.recv().is_none());
    }
}

#[test]
fn minors_and_protocol_options_are_negotiated_exactly_once() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let option = ("_pq_.something", "on");
    for (minor, options, told, spoken, key) in [
        (0u32, false, false, 0u32, 4),
        (2, false, false, 2, 32),
        (1, false, true, 0, 4),
        (3, false, true, 2, 32),
        (9999, false, true, 2, 32),
        (0, true, true, 0, 4),
        (2, true, true, 2, 32),
    ] {
        let mut params = WHO.to_vec();
        if options {
            params.push(option);
        }
        let mut raw = ferry.raw();
        raw.send(&startup_version(3 << 16 | minor, &params));
        let welcome = raw.until_ready();
        let negotiations: Vec<_> = welcome.iter().filter(|message| message.tag == b'v').collect();
        assert_eq!(negotiations.len(), usize::from(told), "3.{minor}: {welcome:?}");
        if let Some(negotiation) = negotiations.first() {
            assert_eq!(welcome[0].tag, b'v', "before anything else");
            assert_eq!(negotiation.body[..4], (3u32 << 16 | spoken).to_be_bytes());
            let expected: &[u8] = if options { b"\0\0\0\x01_pq_.something\0" } else { &[0; 4] };
            assert_eq!(&negotiation.body[4..], expected);
        }
        let data = welcome.iter().find(|message| message.tag == b'K').expect("a key");
        assert_eq!(data.body.len(), 4 + key, "3.{minor}");
        assert_eq!(raw.value("select 1"), "1");
    }
}

#[test]
fn broken_layouts_are_refused() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    for body in [&b"user\0trust_user\0"[..], b"user\0trust_user", b"user\0trust_user\0\0more"] {
        let mut raw = ferry.raw();
        raw.send(&packet(3 << 16, body));
        let error = raw.recv().expect("an error");
        assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "08P01"), "{body:?}");
        assert!(raw.recv().is_none());
    }
}

#[test]
fn who_says_nothing_is_no_error() {
    for (tls, offered) in [("auto", b'S'), ("off", b'N')] {
        let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_CLIENT_TLS", tls)]);
        for bytes in [&b""[..], b"\0", b"\0\0\0\x08\x04", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"] {
            let mut raw = ferry.raw();
            raw.send(bytes);
            raw.end();
            assert!(raw.recv().is_none(), "{bytes:?}");
        }
        let mut raw = ferry.raw();
        raw.send(&packet(SSL_REQUEST, &[]));
        assert_eq!(raw.byte(), offered);
        drop(raw);
        assert_eq!(ferry.session().value("select 1"), "1");
        for word in ["WARN", "ERROR", "INFO refused"] {
            assert!(!ferry.log().contains(word), "{}", ferry.log());
        }
    }
}

#[test]
fn a_cancel_request_for_nobody_is_just_closed() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    for body in [vec![0; 8], vec![0xff; 8], vec![1; 36], vec![1; 260], vec![0; 5]] {
        let mut raw = ferry.raw();
        raw.send(&packet(CANCEL_REQUEST, &body));
        assert!(raw.recv().is_none());
    }
}

#[test]
fn a_login_that_takes_too_long_is_refused() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "200ms")]);
    let mut silent = ferry.raw();
    let mut slow = ferry.raw();
    slow.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
    assert_eq!(slow.recv().map(|message| message.tag), Some(b'R'));
    for raw in [&mut silent, &mut slow] {
        let error = raw.recv().expect("an error");
        assert!(
            error.field(b'M').contains("timeout") && error.field(b'D').contains("client_login_timeout"),
            "{error:?}"
        );
        assert!(raw.recv().is_none());
    }
}

#[test]
fn too_many_clients_are_told_so() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_MAX_CLIENT_CONN", "2")]);
    let first = ferry.session();
    let _second = ferry.session();
    let mut third = ferry.raw();
    third.send(&startup(&WHO));
    let error = third.recv().expect("an error");
    assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "53300"));
    assert!(error.field(b'H').contains("max_client_conn"), "{error:?}");
    assert!(third.recv().is_none());
    drop(first);
    crate::harness::eventually("a place comes free", || {
        let mut raw = ferry.raw();
        raw.send(&startup(&WHO));
        tags(&raw.until_ready()).ends_with('Z')
    });
}
