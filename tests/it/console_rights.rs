//! Rights at the console: what an admin can't change, and which processes are admins without a password.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::pgferry::{command, program};
use crate::harness::postgres::{PASSWORD, free_port};
use crate::harness::protocol_client::{message, query, startup};
use crate::harness::{Certs, Pgferry, Postgres, ProtocolClient, eventually, psql};

/// Settings that name programs, files, credentials, the upstream, listeners, rules or authentication methods, and a value
/// that would be taken from the configuration file.
const BEYOND_SET: [(&str, &str); 42] = [
    ("upstream", "postgres://elsewhere"),
    ("dbname", "other"),
    ("force_user", "postgres"),
    ("upstream_password", "x"),
    ("upstream_password_file", "/etc/passwd"),
    ("password_command", "touch /tmp/x"),
    ("password_ttl", "0"),
    ("passfile", "/tmp/x"),
    ("sslmode", "disable"),
    ("sslnegotiation", "postgres"),
    ("sslrootcert", "/tmp/x"),
    ("sslcert", "/tmp/x"),
    ("sslkey", "/tmp/x"),
    ("sslcrl", "/tmp/x"),
    ("ssl_min_protocol_version", "TLSv1.2"),
    ("ssl_max_protocol_version", "TLSv1.2"),
    ("sslsni", "0"),
    ("channel_binding", "disable"),
    ("require_auth", "none"),
    ("listen", "/tmp"),
    ("port", "6543"),
    ("unix_socket_mode", "0777"),
    ("unix_socket_group", "0"),
    ("allow_remote", "true"),
    ("auth_type", "trust"),
    ("rule", "x"),
    ("peer", "uid=1"),
    ("users", "x"),
    ("auth_file", "/tmp/x"),
    ("auth_user", "postgres"),
    ("auth_query", "select 1"),
    ("auth_dbname", "postgres"),
    ("scram_iterations", "1"),
    ("client_tls_cert_file", "/tmp/x"),
    ("client_tls_key_file", "/tmp/x"),
    ("client_tls_ca_file", "/tmp/x"),
    ("admin_listen", "0.0.0.0:80"),
    ("admin_hosts", "evil.example"),
    ("admin_users", "mallory"),
    ("stats_users", "mallory"),
    ("quit_endpoint", "true"),
    ("databases", "x"),
];

#[test]
fn set_takes_no_key_that_leads_out_of_the_process() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut admin = ProtocolClient::logged_in(ferry.raw(), "me", "pgferry");
    for (key, value) in BEYOND_SET {
        let error = admin.error(&format!("SET {key} = '{value}'"));
        assert_eq!(error.field(b'C'), "55P02", "{key}: {error:?}");
        assert!(error.field(b'H').contains("RELOAD"), "{key}: {error:?}");
    }
    assert!(!ferry.log().contains("settings reloaded"), "{}", ferry.log());
}

#[test]
fn an_admin_of_a_role_runs_no_program_and_takes_no_listener() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let port = free_port();
    let made = tempfile::tempdir().expect("a directory");
    let mark = made.path().join("ran");
    let config = format!(
        "listen = [\"127.0.0.1:{port}\", \"{}\"]\nadmin_users = \"scram_user\"\nadmin_peer = false\n",
        made.path().display()
    );
    let path = certs.write("pgferry.toml", &config);
    let dir = tempfile::tempdir().expect("a directory");
    let ferry = Pgferry::spawn(dir, &["-u", &postgres.url(), "-c", &path], &[]);
    let admin =
        |host: &str, sql: &str| psql(&format!("host={host} port={port} user=scram_user dbname=pgferry"), PASSWORD, sql);
    for sql in [
        format!("SET password_command = 'sh -c \"touch {}\"'", mark.display()),
        "SET auth_type = 'scram-sha-256'".into(),
        "SET upstream = 'postgres://127.0.0.1:1'".into(),
    ] {
        let refused = admin("127.0.0.1", &sql).expect_err("it leads out of the process");
        assert!(refused.contains("cannot be changed"), "{refused}");
    }
    // Who holds the listeners gets everybody's passwords.
    for sql in ["TAKE_OVER", "TAKEN_OVER"] {
        let refused = admin("127.0.0.1", sql).expect_err("that is for the process's own user");
        assert!(refused.contains("permission denied"), "{refused}");
    }
    let _ = psql(&format!("host=127.0.0.1 port={port} user=scram_user dbname=postgres"), PASSWORD, "select 1");
    assert!(!mark.exists());
    assert_eq!(admin("127.0.0.1", "SET pool_size = 7"), Ok("SET pool_size=7".into()), "what is safe can be set");
    drop(ferry);
}

/// What `pgferry ctl` says when it is run behind `wrapper`; nothing where the wrapper does not work here.
fn ctl_in(wrapper: &[&str], ferry: &Pgferry) -> Option<String> {
    let works = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("{wrapper:?} is not allowed here");
        return None;
    }
    let output = program(wrapper[0])
        .args(&wrapper[1..])
        .args([command().get_program().to_str().expect("UTF-8"), "-l", ferry.host(), "ctl", "SET pool_size = 9"])
        .output()
        .expect("a program");
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn root_of_another_namespace_is_no_admin() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let own = ctl_in(&["env"], &ferry).expect("env works everywhere");
    assert!(own.contains("settings reloaded"), "{own}");
    for wrapper in [
        &["unshare", "--user", "--map-root-user"][..],
        &["unshare", "--user", "--map-root-user", "--pid", "--fork"],
        &["unshare", "--pid", "--fork"],
        &["unshare", "--pid", "--fork", "--mount-proc"],
    ] {
        if let Some(said) = ctl_in(wrapper, &ferry) {
            assert!(said.contains("admin_peer"), "{wrapper:?}: {said}");
        }
    }
    crate::harness::eventually("it is logged", || ferry.log().contains("is no admin here"));
}

#[test]
fn nobody_is_an_admin_by_uid_where_that_is_off() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_ADMIN_PEER", "false")]);
    let said = ctl_in(&["env"], &ferry).expect("env works everywhere");
    assert!(said.contains("admin_peer"), "{said}");
}

#[test]
fn answers_of_the_console_are_not_piled_up() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut admin = ProtocolClient::logged_in(ferry.raw(), "me", "pgferry");
    let length: usize = admin.query("show config").iter().map(|message| message.body.len() + 5).sum();
    let before = ferry.memory();
    let count = 5_000;
    admin.send(&query(&"show config;".repeat(count)));
    // Nothing is read: what is not taken is not made either.
    let mut grown = 0;
    for _ in 0..50 {
        grown = grown.max(ferry.memory().saturating_sub(before));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(grown < 16_000, "{grown} kB more than before, of {} kB", count * length / 1000);
    let told = admin.until_ready();
    assert_eq!(told.iter().filter(|message| message.tag == b'C').count(), count);
}

#[test]
fn clients_are_served_between_the_commands_of_one_text() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut admin = ProtocolClient::logged_in(ferry.raw(), "me", "pgferry");
    let mut client = ferry.session();
    let (count, answered) = (5_000, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            admin.send(&query(&"show version;".repeat(count)));
            while admin.recv().is_some_and(|message| message.tag != b'Z') {
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        eventually("the console has begun", || answered.load(Ordering::Relaxed) > 0);
        client.query("select 1");
        let before = answered.load(Ordering::Relaxed);
        // Each has a description, a row and a tag.
        assert!(before < 3 * count / 2, "{before} messages came first");
    });
}

#[test]
fn sessions_of_the_console_are_bounded_and_those_of_its_owner_are_not() {
    let port = free_port();
    let dir = tempfile::tempdir().expect("a directory");
    let certs = Certs::new();
    let file = format!(
        "listen = [\"127.0.0.1:{port}\", \"{}\"]\nstats_users = \"trust_user\"\n[[rule]]\nmethod = \"trust\"",
        dir.path().display()
    );
    let path = certs.write("pgferry.toml", &file);
    let url = Postgres::shared().url().replace("127.0.0.1", "trust_user@127.0.0.1");
    let ferry = Pgferry::spawn(dir, &["-u", &url, "-c", &path], &[]);
    let guests: Vec<_> =
        (0..100).map(|_| ProtocolClient::logged_in(ProtocolClient::tcp(port), "trust_user", "pgferry")).collect();
    let mut one_more = ProtocolClient::tcp(port);
    one_more.send(&startup(&[("user", "trust_user"), ("database", "pgferry")]));
    let told = one_more.until(b'E').last().expect("an error").clone();
    assert_eq!(told.field(b'C'), "53300", "{told:?}");
    assert_eq!(ferry.session().value("select 1"), "1");
    assert!(!ProtocolClient::logged_in(ferry.raw(), "me", "pgferry").query("show version").is_empty());
    drop(guests);
}

/// Names that would move a terminal's cursor or begin lines.
const FORGED: &str = "x\n\u{1b}[2K\u{9b}1A\u{202e}forged";

#[test]
fn tables_hold_nothing_that_a_terminal_obeys() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let _admin = ProtocolClient::logged_in(ferry.raw(), FORGED, "pgferry");
    for args in [&["show", "clients"][..], &["show", "clients", "--json"]] {
        let output = command().args(["-l", ferry.host()]).args(args).output().expect("pgferry");
        let told = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(told.contains("forged"), "{told:?}");
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!told.contains(bad), "{told:?}");
        assert!(!told.lines().any(|line| line.starts_with("forged") || line.starts_with('\\')), "{told:?}");
    }
}

/// Returns what a command says, on both of its outputs, which must not be obeyed.
fn said(args: &[&str]) -> String {
    let output = command().args(args).output().expect("pgferry");
    let told = [output.stdout, output.stderr].map(|told| String::from_utf8(told).expect("UTF-8")).concat();
    let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(told.contains("forged") && !told.contains(bad), "{args:?}: {told:?}");
    assert!(!told.lines().any(|line| line.starts_with("forged") || line.starts_with('\\')), "{args:?}: {told:?}");
    told
}

/// What listens at a socket, or answers where PostgreSQL should, may be another user's program.
#[test]
fn answers_of_others_hold_nothing_that_a_terminal_obeys() {
    let error = format!("SFATAL\0VFATAL\0C57P03\0M{FORGED}\0H{FORGED}\0\0");
    let ready = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
    let name = [FORGED.as_bytes(), &[0; 19]].concat();
    let row = [&[0, 1, 0, 0, 0, 1][..], b"x"].concat();
    let table = [message(b'T', &[&[0, 1][..], &name].concat()), message(b'D', &row), message(b'C', b"SHOW\0")].concat();
    let done = message(b'C', format!("{FORGED}\0").as_bytes());
    // The detail has the lines of SHOW HELP.
    let notice = message(b'N', format!("M{FORGED}\0D{}\0\0", FORGED.replace('\n', "")).as_bytes());
    let refusal = message(b'E', error.as_bytes());
    for (args, answer) in [
        (["show", "pools"], refusal.clone()),
        (["show", "pools"], table),
        (["ctl", "RELOAD"], done),
        (["ctl", "RELOAD"], notice),
        (["ctl", "RELOAD"], refusal.clone()),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).expect("a listener");
        let answer = [answer, message(b'Z', b"I")].concat();
        let ready = ready.clone();
        let answering = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            client.write_all(&ready).and_then(|()| client.write_all(&answer)).expect("it listens");
            let _ = client.read_to_end(&mut Vec::new());
        });
        said(&[&["-l", dir.path().to_str().expect("UTF-8")], &args[..]].concat());
        answering.join().expect("answered");
    }
    let figures = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = figures.local_addr().expect("an address").to_string();
    let answering = std::thread::spawn(move || {
        let (mut client, _) = figures.accept().expect("a client");
        let answer = format!("HTTP/1.1 503 Unavailable\r\n\r\n{FORGED}");
        client.read(&mut [0; 1000]).and_then(|_| client.write_all(answer.as_bytes())).expect("it listens");
    });
    let output = command().arg("health").env("PGFERRY_ADMIN_LISTEN", at).output().expect("pgferry");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(told.contains("forged") && told.lines().count() == 1, "{told:?}");
    assert!(!told.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{told:?}");
    answering.join().expect("answered");
}
