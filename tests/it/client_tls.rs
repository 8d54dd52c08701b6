//! TLS towards clients: SSLRequest and direct, certificates, logins bound to the channel.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::pgferry::command;
use crate::harness::postgres::{PASSWORD, free_port, program};
use crate::harness::protocol_client::{SSL_REQUEST, packet, startup};
use crate::harness::{CertOptions, Certs, Pgferry, Postgres, ProtocolClient, eventually};

/// pgferry with a TLS listener, and its port. The certificate is for `localhost`, by way of an intermediate authority.
struct Encrypted {
    ferry: Pgferry,
    certs: Certs,
    port: u16,
}

impl Encrypted {
    fn start(postgres: &Postgres, file: &str) -> Self {
        let certs = Certs::new();
        let cert_options =
            CertOptions { name: "pgferry", hosts: &["localhost"], by_intermediate: true, ..CertOptions::default() };
        let (certificate, key) = certs.make("ferry", &cert_options);
        let port = free_port();
        let path = certs.write(
            "pgferry.toml",
            &format!(
                "client_tls_cert_file = \"{certificate}\"\nclient_tls_key_file = \"{key}\"\nclient_tls_ca_file = \"{}\"\n{file}",
                certs.path("root.crt")
            ),
        );
        let listen = format!("127.0.0.1:{port}");
        let ferry = Pgferry::start_with(&postgres.url(), &["-c", &path, "-l", &listen], &[]);
        Self { ferry, certs, port }
    }

    /// What psql says over TCP with these parameters.
    fn psql(&self, parameters: &str, secret: &str) -> Result<String, String> {
        let connection = format!(
            "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres sslrootcert={} {parameters}",
            self.port,
            self.certs.path("root.crt")
        );
        crate::harness::psql(&connection, secret, "select current_user")
    }

    fn raw(&self) -> ProtocolClient {
        ProtocolClient::tcp(self.port)
    }
}

#[test]
fn psql_verifies_the_certificate_and_binds_its_login() {
    let postgres = Postgres::shared();
    let secret = postgres.sql("select rolpassword from pg_authid where rolname = 'scram_user'");
    let file = format!("auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{secret}\"");
    let server = Encrypted::start(postgres, &file);
    for parameters in [
        "sslmode=disable",
        "sslmode=prefer",
        "sslmode=require channel_binding=require",
        "sslmode=verify-full channel_binding=require",
        "sslmode=verify-full channel_binding=disable",
        "sslmode=verify-full channel_binding=prefer ssl_max_protocol_version=TLSv1.2",
        "sslmode=verify-full ssl_min_protocol_version=TLSv1.3",
    ] {
        let parameters = format!("user=scram_user {parameters}");
        assert_eq!(server.psql(&parameters, PASSWORD), Ok("scram_user".into()), "{parameters}");
        assert!(server.psql(&parameters, "wrong").is_err(), "{parameters}");
    }
    let error =
        server.psql("user=scram_user sslmode=disable channel_binding=require", PASSWORD).expect_err("no channel");
    assert!(error.contains("channel binding"), "{error}");
}

#[test]
fn the_upstreams_own_passwords_work_over_tls() {
    let server = Encrypted::start(Postgres::shared(), "");
    for (user, secret) in [("scram_user", PASSWORD), ("md5_user", PASSWORD), ("trust_user", "")] {
        assert_eq!(server.psql(&format!("user={user} sslmode=verify-full"), secret), Ok(user.into()));
    }
    let error = server.psql("user=scram_user sslmode=verify-full", "wrong").expect_err("wrong");
    assert!(error.contains("password authentication failed"), "{error}");
}

#[test]
fn certificates_let_in() {
    let postgres = Postgres::shared();
    let file = "[[rule]]\nuser = \"md5_user\"\nmethod = \"cert\"\ncert_name = \"san\"\n\
                [[rule]]\ntransport = \"tls\"\nmethod = \"cert\"\n[users]\nmd5_user = \"unused\"\n";
    let server = Encrypted::start(postgres, file);
    let certs = &server.certs;
    let with = |name: &str, cert_options: CertOptions<'_>| {
        let (certificate, key) = certs.make(name, &cert_options);
        format!("sslmode=verify-full sslcert={certificate} sslkey={key}")
    };
    let trust_user = with("one", CertOptions { name: "trust_user", ..CertOptions::default() });
    assert_eq!(server.psql(&format!("user=trust_user {trust_user}"), ""), Ok("trust_user".into()));
    let error = server.psql(&format!("user=scram_user {trust_user}"), "").expect_err("another's");
    assert!(error.contains("certificate authentication failed for user \"scram_user\""), "{error}");
    let error = server.psql("user=trust_user sslmode=verify-full sslcert=/none", "").expect_err("none");
    assert!(error.contains("connection requires a valid client certificate"), "{error}");
    let error = server.psql(&format!("user=md5_user {trust_user}"), "").expect_err("not its alternative name");
    assert!(error.contains("certificate authentication failed"), "{error}");
    let expired = with("expired", CertOptions { name: "trust_user", expired: true, ..CertOptions::default() });
    assert!(server.psql(&format!("user=trust_user {expired}"), "").is_err(), "expired");
    let (certificate, key) = certs.make_self_signed("stranger", &[]);
    let parameters = format!("sslmode=verify-full sslcert={certificate} sslkey={key}");
    assert!(server.psql(&format!("user=trust_user {parameters}"), "").is_err(), "another authority");
    assert!(server.psql("user=trust_user sslmode=disable", "").is_err(), "no encryption");
}

#[test]
fn alternative_names_are_names() {
    let postgres = Postgres::shared();
    let file = "[[rule]]\nmethod = \"cert\"\ncert_name = \"san\"\n";
    let server = Encrypted::start(postgres, file);
    // A host's name is text as any other; the common name does not count.
    let (certificate, key) = server
        .certs
        .make("san", &CertOptions { name: "plain_user", hosts: &["trust-user.example"], ..CertOptions::default() });
    let parameters = format!("sslmode=verify-full sslcert={certificate} sslkey={key}");
    postgres.sql("do $$ begin create role \"trust-user.example\" login; exception when duplicate_object then end $$");
    let user = "user=trust-user.example";
    assert_eq!(server.psql(&format!("{user} {parameters}"), ""), Ok("trust-user.example".into()));
    assert!(server.psql(&format!("user=plain_user {parameters}"), "").is_err());
}

#[test]
fn unix_sockets_have_the_certificate_too_and_plaintext_is_not_smuggled_in() {
    let server = Encrypted::start(Postgres::shared(), "");
    let mut raw = ProtocolClient::logged_in(server.ferry.raw().encrypted(), "trust_user", "postgres");
    assert_eq!(raw.value("select 1"), "1");
    let mut raw = server.raw();
    // CVE-2021-23214: what came before the handshake would have counted as encrypted.
    raw.send(&[packet(SSL_REQUEST, b""), startup(&[("user", "trust_user")])].concat());
    let said = raw.read_to_end();
    assert_eq!(said[0].field(b'M'), "received unencrypted data after SSL request", "{said:?}");
    let mut raw = server.raw();
    raw.send(&packet(SSL_REQUEST, b""));
    assert_eq!(raw.byte(), b'S');
    raw.send(&startup(&[("user", "trust_user")]));
    let said = raw.drain();
    assert!(!said.contains(&b'R'), "an alert at most: {said:?}");
}

#[test]
fn direct_tls_is_for_those_who_name_the_protocol() {
    let server = Encrypted::start(Postgres::shared(), "");
    let connect = format!("127.0.0.1:{}", server.port);
    let s_client = |more: &[&str]| {
        let output = Command::new("timeout")
            .args(["20", "openssl", "s_client", "-quiet", "-ign_eof", "-connect", &connect])
            .args(more)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = s_client(&[]);
    assert!(said.contains("received direct SSL connection request without ALPN"), "{said}");
    let said = s_client(&["-alpn", "http/1.1"]);
    assert!(said.contains("no application protocol"), "{said}");
    // Another pgferry does it right.
    let url = format!(
        "postgres://localhost:{}?hostaddr=127.0.0.1&sslnegotiation=direct&sslrootcert={}",
        server.port,
        server.certs.path("root.crt")
    );
    let outer = Pgferry::start_with(&url, &[], &[]);
    assert_eq!(outer.session().value("select current_user"), "trust_user");
    let count = || server.ferry.report().get("upstream_now");
    assert!(count() >= 1);
}

#[test]
fn a_new_certificate_is_shown_and_a_broken_one_is_not() {
    let server = Encrypted::start(Postgres::shared(), "");
    let verify = || server.psql("user=trust_user sslmode=verify-full", "");
    assert!(verify().is_ok());
    let cert_options = CertOptions { name: "pgferry", hosts: &["elsewhere.example"], ..CertOptions::default() };
    server.certs.make("ferry", &cert_options);
    let error = verify().expect_err("for another host");
    assert!(error.contains("elsewhere.example"), "{error}");
    server.certs.make("ferry", &CertOptions { hosts: &["localhost"], ..cert_options });
    assert!(verify().is_ok());
    server.certs.write("ferry.crt", "nothing");
    assert!(verify().is_ok(), "the old one stays");
    server.ferry.logs("can't be used, the old ones stay");
}

#[test]
fn a_cancel_request_inside_tls_gets_tlss_goodbye() {
    let server = Encrypted::start(Postgres::shared(), "");
    let connect = format!("127.0.0.1:{}", server.port);
    let mut client = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-quiet", "-ign_eof", "-starttls", "postgres", "-connect", &connect])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    let request = packet(80_877_102, &[0, 0, 0, 1, 0, 0, 0, 2]);
    client.stdin.take().expect("piped").write_all(&request).expect("sent");
    let output = client.wait_with_output().expect("openssl");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // libpq 17 and later takes another end for a request that has failed, and says so.
    assert!(output.status.success() && !said.contains("unexpected eof"), "{said}");
}

#[test]
fn keys_and_certificates_that_do_not_go_together_are_explained() {
    let certs = Certs::new();
    let options = CertOptions { name: "pgferry", hosts: &["localhost"], ..CertOptions::default() };
    let (own, key) = certs.make("own", &options);
    let (other, _) = certs.make("other-host", &options);
    // An RSA key of the kind that is for RSA-PSS only.
    let pss = certs.path("pss.key");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &pss])
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl").success());
    for (certificate, key, part) in [(&other, &key, "not that of the key"), (&own, &pss, "RSA-PSS")] {
        let output = command()
            .args(["check", "-u", "postgres://127.0.0.1:1"])
            .env("PGFERRY_CLIENT_TLS_CERT_FILE", certificate)
            .env("PGFERRY_CLIENT_TLS_KEY_FILE", key)
            .output()
            .expect("pgferry");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(part), "{said}");
    }
}

#[test]
fn a_certificate_that_has_expired_is_shown_with_a_warning() {
    let server = Encrypted::start(Postgres::shared(), "");
    let options = CertOptions { name: "pgferry", hosts: &["localhost"], expired: true, ..CertOptions::default() };
    server.certs.make("ferry", &options);
    assert!(server.psql("user=trust_user sslmode=require sslrootcert=/nonexistent", "").is_ok());
    server.ferry.logs("has expired or is not valid yet");
}

#[test]
fn bulk_passes_through_tls_both_ways() {
    let server = Encrypted::start(Postgres::shared(), "");
    let connection = format!("host=127.0.0.1 port={} dbname=postgres user=trust_user sslmode=require", server.port);
    let script = "set client_min_messages = warning; create temp table t (a text); \
                  insert into t select repeat('x', 100000) from generate_series(1, 200);";
    let copy = "\\copy t to '/dev/stdout'";
    let output = Command::new(program("psql"))
        .args(["-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-d", &connection, "-c", script, "-c", copy])
        .output()
        .expect("psql");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 200 * 100_001);
    let copy_in = format!(
        "psql -X -q -d '{connection}' -c \"create temp table u (a text)\" -c '\\copy u from /dev/stdin' -c 'select count(*) from u' -At"
    );
    let run = format!(
        "yes {} | head -n 300 | {}",
        "y".repeat(90_000),
        copy_in.replace("psql ", &format!("{} ", program("psql")))
    );
    assert_eq!(crate::harness::run("sh", &["-c", &run], &[]).trim(), "300");
}

#[test]
fn remote_clients_need_encryption_for_the_upstreams_passwords() {
    // An address of this machine that is not loopback, if it has one, makes a client remote.
    let addresses = crate::harness::run("hostname", &["-I"], &[]);
    let Some(address) = addresses.split_whitespace().find(|address| address.contains('.')) else { return };
    let certs = Certs::new();
    let (certificate, key) =
        certs.make("ferry", &CertOptions { name: "pgferry", hosts: &["localhost"], ..CertOptions::default() });
    let port = free_port();
    let file =
        format!("allow_remote = true\nclient_tls_cert_file = \"{certificate}\"\nclient_tls_key_file = \"{key}\"");
    let path = certs.write("f.toml", &file);
    let listen = format!("0.0.0.0:{port}");
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &["-c", &path, "-l", &listen], &[]);
    let psql = |mode: &str| {
        let connection = format!("host={address} port={port} dbname=postgres user=scram_user sslmode={mode}");
        crate::harness::psql(&connection, PASSWORD, "select 1")
    };
    let error = psql("disable").expect_err("in clear text");
    assert!(error.contains("over an unencrypted network connection is refused"), "{error}");
    assert_eq!(psql("require"), Ok("1".into()));
    eventually("all is over", || ferry.report().get("clients_now") == 0);
}
