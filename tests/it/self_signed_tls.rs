//! TLS for clients that insist on it, where no certificate is configured.

use crate::harness::postgres::{PASSWORD, free_port};
use crate::harness::protocol_client::{SSL_REQUEST, packet, terminate};
use crate::harness::{CertOptions, Certs, Pgferry, Postgres, ProtocolClient, psql, run};

/// pgferry on a unix socket, an abstract socket and loopback TCP, all with the port that is returned.
fn everywhere(url: &str, args: &[&str]) -> (Pgferry, u16) {
    let port = free_port();
    let (tcp, name) = (format!("127.0.0.1:{port}"), format!("@pgferry-test-{port}"));
    let own = port.to_string();
    let mut all = vec!["--listen", &tcp, "--listen", &name, "--port", &own];
    all.extend_from_slice(args);
    (Pgferry::start_with(url, &all, &[]), port)
}

fn over_tcp(port: u16, parameters: &str, secret: &str, sql: &str) -> Result<String, String> {
    psql(&format!("host=127.0.0.1 port={port} dbname=postgres {parameters}"), secret, sql)
}

fn unix(ferry: &Pgferry, port: u16) -> ProtocolClient {
    ProtocolClient::unix(&ferry.dir().join(format!(".s.PGSQL.{port}")))
}

#[test]
fn tls_is_there_without_a_certificate_for_those_who_ask() {
    for mode in ["session", "transaction"] {
        let (ferry, port) = everywhere(&Postgres::shared().url(), &["--pool-mode", mode]);
        for (user, secret) in [("trust_user", ""), ("scram_user", PASSWORD), ("md5_user", PASSWORD)] {
            for ssl in ["require", "prefer", "allow", "disable"] {
                let parameters = format!("user={user} sslmode={ssl}");
                let said = over_tcp(port, &parameters, secret, "select current_user");
                assert_eq!(said, Ok(user.to_owned()), "{mode} {parameters}");
            }
        }
        for raw in [
            unix(&ferry, port),
            ProtocolClient::tcp(port),
            ProtocolClient::abstract_name(&format!("pgferry-test-{port}"), port),
        ] {
            let mut raw = ProtocolClient::logged_in(raw.encrypted(), "trust_user", "postgres");
            assert_eq!(raw.value("select repeat('x', 100000)").len(), 100_000);
        }
        let _encrypted = ProtocolClient::logged_in(unix(&ferry, port).encrypted(), "trust_user", "postgres");
        let console = format!("host={} port={port} dbname=pgferry user=x", ferry.host());
        let clients = psql(&console, "", "show clients").expect("the console");
        assert!(clients.contains("TLSv1.3, TLS13_AES_128_GCM_SHA256"), "{clients}");
    }
}

#[test]
fn the_versions_and_the_direct_way_are_those_of_a_configured_certificate() {
    let (_ferry, port) = everywhere(&Postgres::shared().url(), &[]);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let parameters = format!(
            "user=trust_user sslmode=require ssl_min_protocol_version={version} ssl_max_protocol_version={version}"
        );
        assert_eq!(over_tcp(port, &parameters, "", "select 1"), Ok("1".into()), "{version}");
    }
    // Another pgferry begins with TLS's own first message.
    let url = format!("postgres://127.0.0.1:{port}?sslmode=require&sslnegotiation=direct");
    let outer = Pgferry::start_with(&url, &[], &[]);
    assert_eq!(outer.session().value("select current_user"), "trust_user");
}

#[test]
fn a_certificate_that_pgferry_made_stays_when_settings_are_reloaded() {
    let (ferry, port) = everywhere(&Postgres::shared().url(), &[]);
    let shown = || {
        let client = format!("openssl s_client -starttls postgres -connect 127.0.0.1:{port} </dev/null 2>/dev/null");
        run("sh", &["-c", &format!("{client} | openssl x509 -noout -fingerprint -sha256")], &[])
    };
    let before = shown();
    assert!(before.contains("Fingerprint="), "{before}");
    let console = format!("host={} port={port} dbname=pgferry user=x", ferry.host());
    for command in ["reload", "set log_level = 'debug'"] {
        psql(&console, "", command).expect("the console");
        assert_eq!(shown(), before, "{command}");
    }
}

#[test]
fn logins_are_bound_to_a_certificate_that_pgferry_made() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let secret = postgres.sql("select rolpassword from pg_authid where rolname = 'scram_user'");
    let file =
        certs.write("pgferry.toml", &format!("auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{secret}\""));
    let (_ferry, port) = everywhere(&postgres.url(), &["-c", &file]);
    for binding in ["require", "prefer", "disable"] {
        let parameters = format!("user=scram_user sslmode=require channel_binding={binding}");
        assert_eq!(over_tcp(port, &parameters, PASSWORD, "select 1"), Ok("1".into()), "{binding}");
        assert!(over_tcp(port, &parameters, "wrong", "select 1").is_err(), "{binding}");
    }
    let error = over_tcp(port, "user=scram_user sslmode=disable channel_binding=require", PASSWORD, "select 1");
    assert!(error.as_ref().is_err_and(|error| error.contains("channel binding")), "{error:?}");
}

#[test]
fn what_one_side_binds_to_does_not_meet_the_other() {
    let certs = Certs::new();
    let pair = certs.make("server", &CertOptions { name: "db", hosts: &["localhost"], ..CertOptions::default() });
    let postgres = Postgres::start_tls(&pair, &certs.path("root.crt"));
    let secret = postgres.sql("select rolpassword from pg_authid where rolname = 'scram_user'");
    let by_scram = certs.write("s.toml", &format!("auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{secret}\""));
    let by_upstream = certs.write("p.toml", "auth_type = \"pass-through\"");
    let plain = format!("postgres://127.0.0.1:{}?sslmode=", postgres.port);
    for upstream in ["disable", "require&channel_binding=disable", "require&channel_binding=require"] {
        for file in [&by_scram, &by_upstream] {
            let (_ferry, port) = everywhere(&format!("{plain}{upstream}"), &["-c", file]);
            for client in [
                "sslmode=disable",
                "sslmode=disable channel_binding=disable",
                "sslmode=require channel_binding=disable",
                "sslmode=require channel_binding=prefer",
            ] {
                let said = over_tcp(port, &format!("user=scram_user {client}"), PASSWORD, "select 1");
                assert_eq!(said, Ok("1".into()), "upstream {upstream}, {file}, client {client}");
            }
        }
    }
}

#[test]
fn a_client_that_cannot_verify_the_certificate_is_told_of_in_the_log() {
    let certs = Certs::new();
    let (ferry, port) = everywhere(&Postgres::shared().url(), &[]);
    let parameters = format!("user=trust_user sslmode=verify-ca sslrootcert={}", certs.path("root.crt"));
    for _ in 0..3 {
        assert!(over_tcp(port, &parameters, "", "select 1").is_err());
    }
    ferry.logs("a client left: it closed the connection when it had seen the certificate");
    ferry.logs("Set client_tls_cert_file and client_tls_key_file");
    assert_eq!(ferry.log().matches("a client left").count(), 1, "{}", ferry.log());
    // Node looks at the certificate when the handshake is over.
    let (ferry, port) = everywhere(&Postgres::shared().url(), &[]);
    let mut raw = ProtocolClient::tcp(port).encrypted();
    raw.send(b"");
    raw.send(&[0]);
    drop(raw);
    ferry.logs("Set client_tls_cert_file and client_tls_key_file");
}

#[test]
fn tls_can_be_turned_off_and_who_leaves_for_that_is_one_line() {
    for (setting, unix_too) in [("off", false), ("unix", true)] {
        let certs = Certs::new();
        let file = certs.write("pgferry.toml", &format!("client_tls = \"{setting}\""));
        let (ferry, port) = everywhere(&Postgres::shared().url(), &["-c", &file]);
        assert_eq!(over_tcp(port, "user=trust_user sslmode=prefer", "", "select 1"), Ok("1".into()));
        assert!(!ferry.log().contains("a client left"), "{}", ferry.log());
        for _ in 0..3 {
            let error = over_tcp(port, "user=trust_user sslmode=require", "", "select 1").expect_err("insists");
            assert!(error.contains("server does not support SSL"), "{error}");
        }
        ferry.logs("a client left: it asked for TLS, was told that there is none, and closed the connection");
        assert_eq!(ferry.log().matches("a client left").count(), 1, "{}", ferry.log());
        let mut raw = unix(&ferry, port);
        raw.send(&packet(SSL_REQUEST, b""));
        assert_eq!(raw.byte(), if unix_too { b'S' } else { b'N' }, "{setting}");
    }
}

#[test]
fn other_machines_are_offered_no_certificate_that_proves_nothing() {
    // An address of this machine that is not loopback, if it has one, makes a client remote.
    let addresses = crate::harness::run("hostname", &["-I"], &[]);
    let Some(address) = addresses.split_whitespace().find(|address| address.contains('.')) else { return };
    let port = free_port();
    let listen = format!("0.0.0.0:{port}");
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &["-l", &listen], &[("PGFERRY_ALLOW_REMOTE", "true")]);
    let psql = |host: &str| {
        psql(&format!("host={host} port={port} dbname=postgres user=trust_user sslmode=require"), "", "select 1")
    };
    assert_eq!(psql("127.0.0.1"), Ok("1".into()));
    assert!(psql(address).is_err_and(|error| error.contains("server does not support SSL")));
    ferry.logs("to other machines client_tls_cert_file and client_tls_key_file");
}

#[test]
fn rules_take_a_certificate_that_proves_nothing_for_none() {
    let certs = Certs::new();
    let rules =
        "[[rule]]\ntransport = \"tls\"\nmethod = \"reject\"\n[[rule]]\ntransport = \"tcp\"\nmethod = \"pass-through\"";
    let file = certs.write("pgferry.toml", rules);
    let (_ferry, port) = everywhere(&Postgres::shared().url(), &["-c", &file]);
    for ssl in ["disable", "require"] {
        assert_eq!(over_tcp(port, &format!("user=trust_user sslmode={ssl}"), "", "select 1"), Ok("1".into()), "{ssl}");
    }
}

#[test]
fn a_program_that_leaves_for_being_offered_tls_is_told_that_there_is_none() {
    let (ferry, port) = everywhere(&Postgres::shared().url(), &[]);
    let ask = || {
        let mut raw = unix(&ferry, port);
        raw.send(&packet(SSL_REQUEST, b""));
        (raw.byte(), raw)
    };
    // As tokio-postgres does, which has no host name on a unix socket.
    let (answer, raw) = ask();
    assert_eq!(answer, b'S');
    drop(raw);
    ferry.logs("closed the connection when that was offered");
    let (answer, raw) = ask();
    assert_eq!(answer, b'N');
    let mut raw = ProtocolClient::logged_in(raw, "trust_user", "postgres");
    assert_eq!(raw.value("select 1"), "1");
    // Another program is offered it all the same; so is this one over TCP, and once it has left for not being offered it.
    assert_eq!(over_tcp(port, "user=trust_user sslmode=require", "", "select 1"), Ok("1".into()));
    let mut tcp = ProtocolClient::tcp(port);
    tcp.send(&packet(SSL_REQUEST, b""));
    assert_eq!(tcp.byte(), b'S');
    let (answer, raw) = ask();
    assert_eq!(answer, b'N');
    drop(raw);
    crate::harness::eventually("the program insists", || ask().0 == b'S');
}

#[test]
fn a_client_that_says_goodbye_inside_tls_on_a_unix_socket_meets_no_broken_pipe() {
    let (ferry, port) = everywhere(&Postgres::shared().url(), &[]);
    for _ in 0..50 {
        let mut raw = ProtocolClient::logged_in(unix(&ferry, port).encrypted(), "trust_user", "postgres");
        assert_eq!(raw.value("select 1"), "1");
        raw.send(&terminate());
        assert_eq!(raw.drain(), b"", "TLS's own goodbye is all that comes");
        // The server reads until the client has closed.
        raw.send(&terminate());
    }
}
