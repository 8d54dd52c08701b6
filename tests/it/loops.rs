//! Connections that PostgreSQL's own sessions make back through pgferry, by postgres_fdw and dblink.

use crate::harness::postgres::free_port;
use crate::harness::protocol_client::terminate;
use crate::harness::{Pgferry, Postgres, ProtocolClient, eventually};

/// A database in which the table `far` is `near` by way of pgferry at `host` and `port`.
fn database(postgres: &Postgres, name: &str, host: &str, port: u16) {
    postgres.sql(&format!("create database {name}"));
    let server = format!("options (host '{host}', port '{port}', dbname '{name}')");
    let setup = format!(
        "create extension postgres_fdw; create extension dblink; create table near (a int); insert into near values (7);
         create server back foreign data wrapper postgres_fdw {server};
         create user mapping for public server back options (user 'trust_user', password_required 'false');
         create foreign table far (a int) server back options (table_name 'near');
         grant all on near, far to public; grant usage on foreign server back to public;
         create function hidden() returns text language sql security definer as
             $$ select dblink_connect('kept', 'host={host} port={port} dbname={name} user=trust_user') $$"
    );
    let connection = format!("host=127.0.0.1 port={} dbname={name} user=trust_user", postgres.port);
    crate::harness::run(
        &crate::harness::postgres::program("psql"),
        &["-X", "-q", "-d", &connection, "-c", &setup],
        &[],
    );
}

fn log_in(raw: ProtocolClient, database: &str) -> ProtocolClient {
    raw.logged_in("trust_user", database)
}

/// Runs `sql` on one short connection after another and looks that nothing stays.
fn nothing_stays(mode: &str, name: &str, sql: &str, by_tcp: bool) {
    let postgres = Postgres::start_with(&[]);
    let tcp = free_port();
    let listen = format!("127.0.0.1:{tcp}");
    let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "8", "-l", &listen]);
    let (host, port) = if by_tcp { ("127.0.0.1", tcp) } else { (ferry.host(), 5432) };
    // PostgreSQL runs as another user.
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(ferry.dir(), open).expect("chmod");
    database(&postgres, name, host, port);
    for _ in 0..12 {
        let mut raw = log_in(ferry.raw(), name);
        let said = raw.query(sql);
        assert!(said.iter().all(|message| message.tag != b'E'), "{mode} {sql}: {said:?}");
        raw.send(&terminate());
    }
    eventually("no connection outlives the session that made it", || ferry.report().get("clients_now") == 0);
    let reasons = ferry.report().text("close_reasons").to_owned();
    assert!(reasons.contains("looped "), "{reasons}");
    let mut plain = log_in(ferry.raw(), name);
    let pid = plain.value("select pg_backend_pid()");
    assert_eq!(plain.value("select a from near"), "7");
    drop(plain);
    eventually("it is free again", || ferry.report().get("leased_now") == 0);
    let mut next = log_in(ferry.raw(), name);
    assert_eq!(next.value("select pg_backend_pid()"), pid, "a session without such connections is reused");
}

#[test]
fn foreign_tables_by_way_of_the_unix_socket() {
    for mode in ["session", "transaction"] {
        nothing_stays(mode, "loops", "select a from far", false);
    }
}

#[test]
fn foreign_tables_by_way_of_tcp() {
    for mode in ["session", "transaction"] {
        nothing_stays(mode, "loops", "select a from far", true);
    }
}

#[test]
fn dblink_inside_a_function() {
    for mode in ["session", "transaction"] {
        nothing_stays(mode, "loops", "select hidden()", false);
    }
}
