//! The ports in the names of sockets, and finding a running pgferry by them.

use std::path::Path;
use std::process::Output;

use crate::harness::{Certs, Pgferry, Postgres, ProtocolClient, Signal, pgferry, psql};

fn directory() -> (tempfile::TempDir, String) {
    let dir = tempfile::Builder::new().prefix("ports-").tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    (dir, path)
}

fn is_there(dir: &Path, port: u16) -> bool {
    dir.join(format!(".s.PGSQL.{port}")).exists()
}

fn pgferry(args: &[&str]) -> Output {
    pgferry::command().args(args).env_remove("PGFERRY_PORT").output().expect("pgferry")
}

#[test]
fn a_connection_string_keeps_its_port() {
    let postgres = Postgres::shared();
    let (dir, at) = directory();
    let ferry = Pgferry::spawn_with_own_port(dir, &["-u", &postgres.url(), "-l", &at]);
    assert!(is_there(ferry.dir(), postgres.port) && !is_there(ferry.dir(), 5432));
    ferry.logs(&format!("\"host={at} port={}\"", postgres.port));
    let connection = format!("host={at} port={} dbname=postgres user=trust_user", postgres.port);
    assert_eq!(psql(&connection, "", "select 1"), Ok("1".into()));
    let clients = psql(&connection.replace("dbname=postgres", "dbname=pgferry"), "", "show clients").expect("a table");
    assert!(clients.contains(&format!("|unix|{}|", postgres.port)), "{clients}");
}

#[test]
fn every_upstream_has_its_port_and_several_can_be_set() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let file = certs.write("f.toml", "[databases.reports]\nupstream = \"postgres://127.0.0.1:6543\"");
    let (dir, at) = directory();
    let ferry = Pgferry::spawn_with_own_port(dir, &["-u", &postgres.url(), "-l", &at, "-c", &file]);
    assert!(is_there(ferry.dir(), postgres.port) && is_there(ferry.dir(), 6543));
    certs.write("f.toml", "port = [5432, 6000]");
    let (dir, at) = directory();
    let ferry = Pgferry::spawn_with_own_port(dir, &["-u", &postgres.url(), "-l", &at, "-c", &file]);
    for port in [5432, 6000] {
        let mut raw = ProtocolClient::logged_in(
            ProtocolClient::unix(&ferry.dir().join(format!(".s.PGSQL.{port}"))),
            "trust_user",
            "postgres",
        );
        assert_eq!(raw.value("select 1"), "1");
    }
    assert!(!is_there(ferry.dir(), postgres.port));
    let (dir, at) = directory();
    let ferry = Pgferry::spawn_with_own_port(dir, &["-u", &postgres.url(), "-l", &at, "--port", "7000,7001"]);
    assert!(is_there(ferry.dir(), 7000) && is_there(ferry.dir(), 7001));
}

#[test]
fn an_upstream_that_moves_to_another_port_takes_no_socket_away() {
    let certs = Certs::new();
    let upstream = |port: u16| format!("upstream = \"postgres://127.0.0.1:{port}\"");
    let file = certs.write("f.toml", &upstream(6543));
    let (dir, at) = directory();
    let ferry = Pgferry::spawn_with_own_port(dir, &["-l", &at, "-c", &file]);
    assert!(is_there(ferry.dir(), 6543));
    certs.write("f.toml", &upstream(Postgres::shared().port));
    ferry.signal(Signal::SIGHUP);
    ferry.logs("settings reloaded");
    for port in [6543, Postgres::shared().port] {
        let mut raw = ProtocolClient::logged_in(
            ProtocolClient::unix(&ferry.dir().join(format!(".s.PGSQL.{port}"))),
            "trust_user",
            "postgres",
        );
        assert_eq!(raw.value("select 1"), "1");
    }
    // It has a listener more than when it started.
    ferry.give_up();
}

#[test]
fn a_running_pgferry_is_found_without_its_upstream_or_port_wherever_listen_stands() {
    let postgres = Postgres::shared();
    let (dir, at) = directory();
    let name = format!("@pgferry-found-{}", postgres.port);
    let _ferry = Pgferry::spawn_with_own_port(dir, &["-u", &postgres.url(), "-l", &at, "-l", &name]);
    let connection = format!("host={at} port={} dbname=postgres user=trust_user", postgres.port);
    assert_eq!(psql(&connection, "", "select 1"), Ok("1".into()));
    for at in [at.as_str(), &name] {
        for args in [
            vec!["health", "--listen", at],
            vec!["--listen", at, "health"],
            vec!["health", "--live", "-l", at],
            vec!["wait", "--listen", at, "--for", "5s", "--", "true"],
            vec!["--listen", at, "wait", "--", "true"],
            vec!["ctl", "--listen", at, "PAUSE", "postgres"],
            vec!["ctl", "RESUME", "postgres", "--listen", at],
            vec!["ctl", "SET", "pool_size", "=", "7", "-l", at],
            vec!["show", "pools", "--listen", at],
            vec!["--listen", at, "show", "pools"],
        ] {
            let output = pgferry(&args);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let (_empty, at) = directory();
    for args in [vec!["health", "-l", &at], vec!["ctl", "SHOW", "POOLS", "-l", &at], vec!["show", "pools", "-l", &at]] {
        let output = pgferry(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(&format!("no pgferry listens at {at}")), "{args:?}: {said}");
    }
    let output = pgferry(&["wait", "-l", &at, "--for", "100ms", "--", "true"]);
    assert!(!output.status.success());
}
