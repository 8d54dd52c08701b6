//! TLS towards PostgreSQL: every sslmode, certificates good and bad, channel binding, and somebody in the middle.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use crate::harness::postgres::PASSWORD;
use crate::harness::protocol_client::{password, startup};
use crate::harness::{CertOptions, Certs, Message, Pgferry, Postgres, ProtocolClient, Signal, eventually};

/// A server with a certificate for `localhost` that the root has signed by way of another authority.
fn tls_postgres(certs: &Certs) -> Postgres {
    let cert_options =
        CertOptions { name: "db", hosts: &["localhost"], by_intermediate: true, ..CertOptions::default() };
    Postgres::start_tls(&certs.make("server", &cert_options), &certs.path("root.crt"))
}

/// pgferry in front of `postgres` with these parameters in the URL.
fn ferry(postgres: &Postgres, host: &str, parameters: &str) -> Pgferry {
    Pgferry::start_with(&format!("postgres://{host}:{}?{parameters}", postgres.port), &[], &[])
}

/// Logs in as `user`, answering a question for a password.
fn log_in(ferry: &Pgferry, user: &str) -> Result<ProtocolClient, Message> {
    ferry.raw().log_in(user, "postgres", PASSWORD)
}

/// Whether the session is encrypted, as the server sees it; or what the client was told instead of a welcome.
fn encrypted(ferry: &Pgferry) -> Result<bool, String> {
    let mut raw = log_in(ferry, "trust_user").map_err(|error| error.field(b'M'))?;
    Ok(raw.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "t")
}

#[test]
fn every_sslmode_means_what_it_means_to_libpq() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let plain = Postgres::start_with(&["ssl=off"]);
    let root = format!("sslrootcert={}", certs.path("root.crt"));
    let other = format!("sslrootcert={}", certs.path("other.crt"));
    let unknown = "no root certificate that is trusted";
    for (host, parameters, with_tls, without) in [
        ("localhost", "sslmode=disable".to_owned(), Ok(false), Ok(false)),
        ("localhost", "sslmode=allow".to_owned(), Ok(false), Ok(false)),
        ("localhost", String::new(), Ok(true), Ok(false)),
        ("localhost", "sslmode=prefer".to_owned(), Ok(true), Ok(false)),
        ("localhost", "sslmode=require".to_owned(), Ok(true), Err("does not support SSL")),
        // A root certificate is looked at in every mode; `prefer` then does without encryption.
        ("localhost", format!("sslmode=prefer&{other}"), Ok(false), Ok(false)),
        ("localhost", format!("sslmode=require&{other}"), Err(unknown), Err("does not support SSL")),
        ("127.0.0.1", format!("sslmode=require&{root}"), Ok(true), Err("does not support SSL")),
        ("127.0.0.1", format!("sslmode=verify-ca&{root}"), Ok(true), Err("does not support SSL")),
        ("localhost", format!("sslmode=verify-ca&{other}"), Err(unknown), Err("does not support SSL")),
        ("localhost", format!("sslmode=verify-full&{root}"), Ok(true), Err("does not support SSL")),
        ("localhost", root.clone(), Ok(true), Err("does not support SSL")),
        ("127.0.0.1", root.clone(), Err("does not match host name \"127.0.0.1\""), Err("does not support SSL")),
    ] {
        for (server, expected) in [(&postgres, with_tls), (&plain, without)] {
            let ferry = ferry(server, host, &parameters);
            let found = encrypted(&ferry);
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{host} {parameters}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{host} {parameters}: {found}"),
                _ => panic!("{host} {parameters}: {found:?}, not {expected:?}"),
            }
        }
    }
}

#[test]
fn the_server_may_insist_on_encryption_or_on_none() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    postgres.prepend_hba("hostnossl postgres trust_user 127.0.0.1/32 reject");
    assert_eq!(encrypted(&ferry(&postgres, "localhost", "sslmode=allow")), Ok(true));
    let error = encrypted(&ferry(&postgres, "localhost", "sslmode=disable")).expect_err("refused");
    assert!(error.contains("pg_hba.conf rejects"), "{error}");
    postgres.prepend_hba(
        "hostssl postgres trust_user 127.0.0.1/32 reject\nhostnossl postgres trust_user 127.0.0.1/32 trust",
    );
    assert_eq!(encrypted(&ferry(&postgres, "localhost", "sslmode=prefer")), Ok(false));
    let error = encrypted(&ferry(&postgres, "localhost", "sslmode=require")).expect_err("refused");
    assert!(error.contains("pg_hba.conf rejects"), "{error}");
}

#[test]
fn a_wrong_password_is_tried_once() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let ferry = ferry(&postgres, "localhost", "sslmode=prefer");
    assert!(log_in(&ferry, "scram_user").is_ok());
    let before = postgres.connections_received();
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
    raw.recv().expect("a question");
    raw.send(&password("wrong"));
    assert_eq!(raw.until_ready().last().expect("an error").field(b'C'), "28P01");
    assert_eq!(postgres.connections_received() - before, 1);
}

#[test]
fn certificates_that_are_not_good_are_refused() {
    let certs = Certs::new();
    let root = certs.path("root.crt");
    let revoked = certs.revoke("root.crl", &[9]);
    let good = CertOptions { name: "good", hosts: &["localhost"], serial: 8, ..CertOptions::default() };
    let cases = [
        (certs.make("expired", &CertOptions { expired: true, ..good }), "certificate has expired"),
        (
            certs.make("wrong", &CertOptions { hosts: &["db.example"], ..good }),
            "does not match host name \"localhost\"",
        ),
        (certs.make("revoked", &CertOptions { serial: 9, ..good }), "certificate revoked"),
        (certs.make_self_signed("self", &["localhost"]), "self-signed certificate"),
    ];
    let postgres = Postgres::start_tls(&certs.make("good", &good), &root);
    let parameters = format!("sslmode=verify-full&sslrootcert={root}&sslcrl={revoked}");
    let ferry = ferry(&postgres, "localhost", &parameters);
    assert_eq!(encrypted(&ferry), Ok(true), "{}", ferry.log());
    for ((certificate, key), reason) in cases {
        postgres.install(&certificate, "server.crt");
        postgres.install(&key, "server.key");
        postgres.signal(Signal::SIGHUP);
        let shown = |ferry: &Pgferry| encrypted(ferry).err().unwrap_or_default();
        // The server reads them when it gets to it.
        eventually(reason, || shown(&super::upstream_tls::ferry(&postgres, "localhost", &parameters)).contains(reason));
    }
}

#[test]
fn certificates_that_libpq_takes_are_taken() {
    let certs = Certs::new();
    // PostgreSQL's manual makes such: one that is its own root, one of version 1 without alternative names.
    let own = certs.make_self_signed("self", &["localhost"]);
    let postgres = Postgres::start_tls(&own, &own.0);
    let parameters = format!("sslmode=verify-full&sslrootcert={}", own.0);
    assert_eq!(encrypted(&ferry(&postgres, "localhost", &parameters)), Ok(true));
    let old = certs.make_version_1("v1", "localhost");
    let root = certs.path("v1root.crt");
    let postgres = Postgres::start_tls(&old, &root);
    let full = format!("sslmode=verify-full&sslrootcert={root}");
    assert_eq!(encrypted(&ferry(&postgres, "localhost", &full)), Ok(true));
    assert_eq!(
        encrypted(&ferry(&postgres, "localhost", &format!("{full}&ssl_max_protocol_version=TLSv1.2"))),
        Ok(true)
    );
    assert_eq!(encrypted(&ferry(&postgres, "localhost", "sslmode=require")), Ok(true));
    let error = encrypted(&ferry(&postgres, "127.0.0.1", &full)).expect_err("another name");
    assert!(error.contains("does not match"), "{error}");
    let other = format!("sslmode=verify-ca&sslrootcert={}", certs.path("other.crt"));
    assert!(encrypted(&ferry(&postgres, "localhost", &other)).is_err(), "another root");
    // Only a common name, but of version 3.
    let named = certs.make("named", &CertOptions { name: "localhost", ..CertOptions::default() });
    let postgres = Postgres::start_tls(&named, &certs.path("root.crt"));
    let parameters = format!("sslmode=verify-full&sslrootcert={}", certs.path("root.crt"));
    assert_eq!(encrypted(&ferry(&postgres, "localhost", &parameters)), Ok(true));
}

#[test]
fn pgferry_shows_its_own_certificate() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    postgres.prepend_hba("hostssl postgres cert_user 127.0.0.1/32 cert");
    postgres.sql("create role cert_user login");
    let (certificate, key) = certs.make("client", &CertOptions { name: "cert_user", ..CertOptions::default() });
    let parameters = format!("sslmode=require&sslcert={certificate}&sslkey={key}");
    let with = ferry(&postgres, "localhost", &parameters);
    assert!(log_in(&with, "cert_user").is_ok(), "{}", with.log());
    with.logs("need no password here");
    let without = ferry(&postgres, "localhost", "sslmode=require");
    let error = log_in(&without, "cert_user").err().expect("no certificate").field(b'M');
    assert!(error.contains("valid client certificate"), "{error}");
    let stranger = certs.make_self_signed("stranger", &[]);
    let parameters = format!("sslmode=require&sslcert={}&sslkey={}", stranger.0, stranger.1);
    let ferry = ferry(&postgres, "localhost", &parameters);
    let error = log_in(&ferry, "cert_user").err().expect("an unknown authority").field(b'M');
    assert!(error.contains("UnknownCA"), "{error}");
}

#[test]
fn logins_are_bound_to_the_channel() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let root = certs.path("root.crt");
    for (parameters, good) in [
        ("channel_binding=require&sslmode=require".to_owned(), true),
        ("channel_binding=disable&sslmode=require".to_owned(), true),
        (format!("channel_binding=prefer&sslrootcert={root}"), true),
        ("channel_binding=require&sslmode=require&ssl_max_protocol_version=TLSv1.2".to_owned(), true),
        ("channel_binding=require&sslmode=disable".to_owned(), false),
    ] {
        let ferry = ferry(&postgres, "localhost", &parameters);
        let outcome = log_in(&ferry, "scram_user");
        assert_eq!(outcome.is_ok(), good, "{parameters}: {}", ferry.log());
        if let Err(error) = outcome {
            assert!(error.field(b'M').contains("channel binding required"), "{error:?}");
        }
    }
    let ferry = ferry(&postgres, "localhost", "channel_binding=require&sslmode=require");
    for user in ["md5_user", "plain_user", "trust_user"] {
        let error = log_in(&ferry, user).err().expect("not bound");
        assert!(error.field(b'M').contains("channel binding required"), "{user}: {error:?}");
    }
}

#[test]
fn cancel_requests_are_encrypted_too() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let (port, openings) = listening_in(postgres.port);
    let ferry = Pgferry::start_with(&format!("postgres://localhost:{port}?sslmode=require"), &[], &[]);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let welcome = raw.until_ready();
    let key = welcome.iter().find(|message| message.tag == b'K').expect("a key").body.clone();
    raw.send(&crate::harness::protocol_client::query("select pg_sleep(60)"));
    eventually("it runs", || postgres.sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") == "1");
    let mut cancel = ferry.raw();
    cancel.send(&[&[0, 0, 0, 16, 4, 210, 22, 46][..], &key].concat());
    let said = raw.until_ready();
    assert_eq!(said.iter().find(|message| message.tag == b'E').expect("an error").field(b'C'), "57014");
    let openings = openings.lock().expect("unpoisoned");
    assert!(openings.len() >= 2 && openings.iter().all(|first| *first == SSL_REQUEST), "{openings:?}");
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Passes everything on to the server at `port`, and keeps what each connection begins with.
fn listening_in(port: u16) -> (u16, Arc<Mutex<Vec<[u8; 8]>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = listener.local_addr().expect("an address").port();
    let openings = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&openings);
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut first = [0; 8];
            if client.read_exact(&mut first).is_err() {
                continue;
            }
            kept.lock().expect("unpoisoned").push(first);
            let mut server = TcpStream::connect(("127.0.0.1", port)).expect("a server");
            server.write_all(&first).expect("sent");
            let (mut from, mut to) = (client.try_clone().expect("a clone"), server.try_clone().expect("a clone"));
            let pass = |from: &mut TcpStream, to: &mut TcpStream| {
                let _ = std::io::copy(from, to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            };
            std::thread::spawn(move || pass(&mut from, &mut to));
            std::thread::spawn(move || pass(&mut server, &mut client));
        }
    });
    (own, openings)
}

/// Whoever stands between pgferry and the server: answers the request for encryption with `answer` and ends.
fn in_the_middle(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 8];
            if stream.read_exact(&mut request).is_ok() {
                let _ = stream.write_all(answer);
                let _ = stream.read(&mut [0; 4096]);
            }
        }
    });
    port
}

#[test]
fn what_is_said_before_encryption_is_not_believed() {
    // "S", and behind it what would be taken for the server's first words (CVE-2021-23222).
    for (answer, part) in [
        (&b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"[..], ["unencrypted data after SSL response", "does not answer in TLS"]),
        (b"X", ["invalid response to SSL negotiation", ""]),
        (b"N", ["does not support SSL", ""]),
    ] {
        let port = in_the_middle(answer);
        let ferry = Pgferry::start_with(&format!("postgres://localhost:{port}?sslmode=require"), &[], &[]);
        let error = encrypted(&ferry).expect_err("not to be trusted");
        assert!(part.iter().any(|part| !part.is_empty() && error.contains(part)), "{error}");
    }
    // An error's text could be anybody's (CVE-2024-10977).
    let port = in_the_middle(b"E\0\0\0\x20SFATAL\0C28000\0Mlook at evil.example\0\0");
    let ferry = Pgferry::start_with(
        &format!("postgres://localhost:{port}?sslmode=require"),
        &[],
        &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "1s")],
    );
    let error = encrypted(&ferry).expect_err("not to be trusted");
    assert!(!error.contains("evil"), "{error}");
}

#[test]
fn direct_tls_needs_no_question() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let parameters = format!("sslnegotiation=direct&sslrootcert={}", certs.path("root.crt"));
    let url = format!("postgres://localhost:{}?{parameters}", postgres.port);
    let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "1s")]);
    let found = encrypted(&ferry);
    if postgres.version() >= 17 {
        assert_eq!(found, Ok(true));
    } else {
        let error = found.expect_err("too old");
        assert!(error.contains("PostgreSQL 17"), "{error}");
    }
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let trusted = certs.write("trusted.crt", &std::fs::read_to_string(certs.path("other.crt")).expect("readable"));
    let ferry = ferry(&postgres, "localhost", &format!("sslrootcert={trusted}"));
    assert!(encrypted(&ferry).is_err());
    std::fs::copy(certs.path("root.crt"), certs.path("new.crt")).expect("copied");
    std::fs::rename(certs.path("new.crt"), &trusted).expect("renamed");
    eventually("the new one is used", || encrypted(&ferry) == Ok(true));
    certs.write("trusted.crt", "not a certificate");
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()");
    eventually("another connection", || encrypted(&ferry) == Ok(true));
    ferry.logs("can't be used, the old ones stay");
    ferry.signal(Signal::SIGHUP);
    ferry.logs("were not reloaded");
    assert_eq!(encrypted(&ferry), Ok(true));
}

/// As `update-ca-certificates` changes them; libpq reads them for each connection.
#[test]
fn the_systems_authorities_are_read_again_when_they_change() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let system = certs.write("system.crt", &std::fs::read_to_string(certs.path("other.crt")).expect("readable"));
    let url = format!("postgres://localhost:{}?sslrootcert=system", postgres.port);
    let ferry = Pgferry::start_with(&url, &[], &[("SSL_CERT_FILE", &system)]);
    let error = encrypted(&ferry).expect_err("another authority");
    assert!(error.contains("no root certificate that is trusted"), "{error}");
    std::fs::copy(certs.path("root.crt"), &system).expect("copied");
    eventually("the new ones are used", || encrypted(&ferry) == Ok(true));
}

/// A key may be written first and made private then.
#[test]
fn a_key_that_is_made_private_after_it_was_written_is_read() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let new = certs.make("new", &CertOptions { name: "trust_user", serial: 2, ..CertOptions::default() });
    let (certificate, key) = certs.make("own", &CertOptions { name: "trust_user", ..CertOptions::default() });
    let parameters = format!("sslmode=require&sslcert={certificate}&sslkey={key}");
    let ferry = ferry(&postgres, "localhost", &parameters);
    let serial = "select client_serial from pg_stat_ssl where pid = pg_backend_pid()";
    let former = log_in(&ferry, "trust_user").expect("in").value(serial);
    std::fs::copy(new.0, certificate).expect("copied");
    std::fs::copy(new.1, &key).expect("copied");
    let permit = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("the owner's");
    permit(0o644);
    let shown = || {
        postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()");
        log_in(&ferry, "trust_user").expect("in").value(serial)
    };
    eventually("another connection with the former certificate", || shown() == former);
    ferry.logs("has group or world access");
    permit(0o600);
    eventually("the new one is shown", || shown() != former);
}

#[test]
fn large_results_and_copies_pass_through_tls() {
    let certs = Certs::new();
    let postgres = tls_postgres(&certs);
    let ferry = ferry(&postgres, "localhost", "sslmode=require");
    let mut raw = log_in(&ferry, "trust_user").expect("in");
    assert_eq!(raw.value("select length(repeat('x', 30000000))"), "30000000");
    let size = raw.value("select repeat('x', 20000000)").len();
    assert_eq!(size, 20_000_000);
    let text = "y".repeat(5_000_000);
    assert_eq!(raw.value(&format!("select length('{text}')")), "5000000");
    assert_eq!(raw.value("select sum(length(repeat('x', n))) from generate_series(1, 2000) n"), "2001000");
}

#[test]
fn a_server_that_speaks_no_tls_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read_exact(&mut [0; 8]);
            let _ = stream.write_all(b"S");
            let _ = stream.read(&mut [0; 10]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let ferry = Pgferry::start_with(&format!("postgres://localhost:{port}?sslmode=require"), &[], &[]);
    let error = encrypted(&ferry).expect_err("no TLS");
    assert!(error.contains("does not answer in TLS"), "{error}");
    drop(TcpStream::connect(("127.0.0.1", port)));
}
