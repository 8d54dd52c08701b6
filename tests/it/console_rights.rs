//! Rights at the console: what an admin can't change, and which processes are admins without a password.

use std::process::Command;

use crate::harness::ferry::{command, program};
use crate::harness::postgres::{PASSWORD, free_port};
use crate::harness::{Certs, Ferry, Postgres, Raw, psql};

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
    let ferry = Ferry::start(Postgres::shared(), &[]);
    let mut admin = Raw::logged_in(ferry.raw(), "me", "pgferry");
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
    let ferry = Ferry::spawn(dir, &["-u", &postgres.url(), "-c", &path], &[]);
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
fn ctl_in(wrapper: &[&str], ferry: &Ferry) -> Option<String> {
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
    let ferry = Ferry::start(Postgres::shared(), &[]);
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
    let ferry = Ferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_ADMIN_PEER", "false")]);
    let said = ctl_in(&["env"], &ferry).expect("env works everywhere");
    assert!(said.contains("admin_peer"), "{said}");
}
