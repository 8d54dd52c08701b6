//! Roles that change while pgferry remembers them: renamed, dropped and made anew, with another password, revoked.

use crate::harness::protocol_client::{password, startup};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually, eventually_some};

/// Logs in with `secret` if there is a question for it; else the error.
fn log_in(ferry: &Pgferry, user: &str, secret: &str) -> Result<ProtocolClient, (String, String)> {
    let error = |message: Message| (message.field(b'C'), message.field(b'M'));
    ferry.raw().log_in(user, "postgres", secret).map_err(error)
}

/// The name that the role has by now as which a session's connection was opened.
const ROLE: &str = "select coalesce((select rolname from pg_roles where oid = a.usesysid), 'dropped') \
                    from pg_stat_get_activity(pg_backend_pid()) a";

/// A server that asks these users for their passwords.
fn postgres(users: &str) -> Postgres {
    let postgres = Postgres::start_with(&[]);
    postgres.prepend_hba(&format!("host all {users} 127.0.0.1/32 scram-sha-256"));
    postgres
}

fn connections(postgres: &Postgres, user: &str) -> String {
    postgres.sql(&format!("select count(*) from pg_stat_activity where usename = '{user}'"))
}

#[test]
fn a_name_that_another_role_has_taken_brings_that_roles_connections() {
    let postgres = postgres("svc");
    postgres.sql("create role svc login password 'one'");
    postgres.sql("create role svc_new login password 'two'");
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        let mut former = eventually_some("the rule is in force", || {
            let again = log_in(&ferry, "svc", "wrong").is_err();
            log_in(&ferry, "svc", "one").ok().filter(|_| again)
        });
        assert_eq!(former.value(ROLE), "svc");
        // Another connection, so that one is idle when the roles change.
        let mut other = log_in(&ferry, "svc", "one").expect("right");
        assert_eq!(other.value(ROLE), "svc");
        drop(other);
        postgres.sql("alter role svc rename to svc_old");
        postgres.sql("alter role svc_new rename to svc");
        for _ in 0..5 {
            let mut latter = log_in(&ferry, "svc", "two").expect("the new role's password");
            assert_eq!(latter.value(ROLE), "svc", "{mode}");
        }
        let (code, _) = log_in(&ferry, "svc", "one").map(drop).expect_err("the former role's password");
        assert_eq!(code, "28P01");
        if mode == "session" {
            assert_eq!(former.value(ROLE), "svc_old", "a session stays whose it is");
        } else {
            let error = former.error("select 1");
            assert_eq!(error.field(b'C'), "57P01", "and does not become another role's: {error:?}");
        }
        drop(former);
        postgres.sql("alter role svc rename to svc_new");
        postgres.sql("alter role svc_old rename to svc");
    }
}

#[test]
fn another_password_of_the_same_role_disturbs_no_client() {
    let postgres = postgres("rotated");
    postgres.sql("create role rotated login password 'one'");
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let mut former = eventually_some("the rule is in force", || {
        let again = log_in(&ferry, "rotated", "wrong").is_err();
        log_in(&ferry, "rotated", "one").ok().filter(|_| again)
    });
    let pid = former.value("select pg_backend_pid()");
    postgres.sql("alter role rotated password 'two'");
    let mut latter = log_in(&ferry, "rotated", "two").expect("the new password");
    assert_ne!(latter.value("select pg_backend_pid()"), pid, "what the former one opened is retired");
    assert_eq!(former.value("select 1"), "1");
    assert_ne!(former.value("select pg_backend_pid()"), pid);
}

#[test]
fn a_role_that_was_dropped_and_made_anew_is_noticed() {
    let postgres = Postgres::start_with(&[]);
    for mode in ["session", "transaction"] {
        let env = [("PGFERRY_AUTH_RECHECK", "200ms"), ("PGFERRY_POOL_MODE", mode)];
        let ferry = Pgferry::start_with(&postgres.url(), &[], &env);
        postgres.sql("create role made login");
        let before = log_in(&ferry, "made", "").expect("a role").value(ROLE);
        assert_eq!(before, "made");
        postgres.sql("drop role made");
        postgres.sql("create role made login");
        eventually("its connections are the new role's", || {
            // A client that was let in just before it was noticed is told to connect again.
            let said = log_in(&ferry, "made", "").map(|mut raw| raw.query(ROLE)).unwrap_or_default();
            said.iter().any(|message| message.tag == b'D' && message.columns() == ["made"])
        });
        postgres.sql("drop role made");
        eventually("it is refused", || log_in(&ferry, "made", "").is_err());
    }
}

#[test]
fn who_may_log_in_no_more_is_noticed_and_nothing_of_it_stays_open() {
    let postgres = postgres("asked");
    postgres.sql("create role asked login password 'right'");
    postgres.sql("revoke connect on database postgres from public");
    let revocations = [
        ("alter role asked nologin", "alter role asked login", "28000"),
        ("alter role asked valid until '2001-01-01'", "alter role asked valid until 'infinity'", "28P01"),
        ("revoke connect on database postgres from asked", "grant connect on database postgres to asked", "42501"),
        ("alter role asked password 'other'", "alter role asked password 'right'", "28P01"),
    ];
    for recheck in ["200ms", "0"] {
        for (revoke, grant, code) in revocations {
            postgres.sql("grant connect on database postgres to asked");
            let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_AUTH_RECHECK", recheck)]);
            let mut raw = eventually_some("it is let in", || log_in(&ferry, "asked", "right").ok());
            assert_eq!(raw.value("select 1"), "1");
            drop(raw);
            postgres.sql(revoke);
            if recheck == "0" {
                assert_eq!(log_in(&ferry, "asked", "right").map(drop).expect_err(revoke).0, code, "{revoke}");
            }
            eventually(revoke, || log_in(&ferry, "asked", "right").is_err_and(|(refused, _)| refused == code));
            eventually("nothing is left", || connections(&postgres, "asked") == "0");
            postgres.sql(grant);
            eventually(grant, || log_in(&ferry, "asked", "right").is_ok());
        }
    }
}

#[test]
fn what_is_compared_here_is_rechecked_too() {
    let postgres = postgres("asked");
    postgres.sql("create role asked login password 'right'");
    let certs = crate::harness::Certs::new();
    let file = "auth_type = \"password\"\nauth_recheck = \"200ms\"\n[users]\nasked = \"right\"";
    let path = certs.write("pgferry.toml", file);
    let ferry = Pgferry::start_with(&postgres.url(), &["-c", &path], &[]);
    assert_eq!(log_in(&ferry, "asked", "right").expect("right").value("select 1"), "1");
    postgres.sql("alter role asked nologin");
    eventually("it is noticed", || {
        let _ = log_in(&ferry, "asked", "right");
        connections(&postgres, "asked") == "0"
    });
}

#[test]
fn wrong_passwords_close_no_connection() {
    let postgres = postgres("asked");
    postgres.sql("create role asked login password 'right'");
    let ferry = Pgferry::start(&postgres, &[]);
    eventually("the rule is in force", || log_in(&ferry, "asked", "wrong").is_err());
    let pid = log_in(&ferry, "asked", "right").expect("right").value("select pg_backend_pid()");
    for nth in 0..3 {
        assert!(log_in(&ferry, "asked", &format!("wrong {nth}")).is_err());
    }
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "asked"), ("database", "postgres"), ("options", "-c no.such=1 -c work_mem=x")]));
    raw.send(&password("right"));
    assert_eq!(raw.until(b'E').last().expect("an error").field(b'C'), "22023");
    assert_eq!(log_in(&ferry, "asked", "right").expect("right").value("select pg_backend_pid()"), pid);
}

#[test]
fn clients_of_a_role_that_is_let_in_no_more_are_told_why() {
    let postgres = postgres("asked");
    postgres.sql("create role asked login password 'right'");
    postgres.sql("create database gone");
    for mode in ["session", "transaction"] {
        for (revoke, grant, code) in [
            ("alter role asked nologin", "alter role asked login", "28000"),
            ("alter role asked password 'other'", "alter role asked password 'right'", "28P01"),
            ("alter database gone rename to elsewhere", "alter database elsewhere rename to gone", "3D000"),
        ] {
            let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
            let mut clients: Vec<_> = (0..3)
                .map(|_| eventually_some("it is let in", || ferry.raw().log_in("asked", "gone", "right").ok()))
                .collect();
            assert_eq!(clients[0].value("select 1"), "1");
            postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'asked'");
            eventually("nothing is left", || connections(&postgres, "asked") == "0");
            postgres.sql(revoke);
            for client in clients.iter_mut().skip(1) {
                assert_eq!(client.error("select 1").field(b'C'), code, "{mode}: {revoke}");
            }
            postgres.sql(grant);
        }
    }
}

#[test]
fn roles_made_or_changed_through_pgferry_may_log_in_at_once() {
    let postgres = postgres("late");
    let certs = crate::harness::Certs::new();
    let looked_up =
        certs.write("f.toml", "auth_type = \"password\"\nauth_user = \"trust_user\"\n[users]\ntrust_user = \"me\"");
    for args in [&[][..], &["-c", &looked_up]] {
        postgres.sql("drop role if exists late");
        let ferry = Pgferry::start(&postgres, args);
        eventually("the rule is in force", || log_in(&ferry, "late", "right").is_err());
        let mut admin = ferry.raw().log_in("trust_user", "postgres", "me").expect("right");
        for (sql, secret) in [
            ("create role late login password 'right'", "right"),
            ("alter role late password 'other'", "other"),
            ("alter role late password 'right'", "right"),
        ] {
            assert!(log_in(&ferry, "late", secret).is_err(), "before {sql}");
            admin.query(sql);
            assert_eq!(log_in(&ferry, "late", secret).expect(sql).value("select 1"), "1");
        }
        let (code, _) = log_in(&ferry, "late", "other").map(drop).expect_err("the former password");
        assert_eq!(code, "28P01");
        admin.query("drop role late");
        let (code, _) = log_in(&ferry, "late", "right").map(drop).expect_err("it is gone");
        assert_eq!(code, "28P01");
    }
}

#[test]
fn a_configured_password_is_not_for_clients_that_bring_their_own() {
    let postgres = postgres("asked");
    postgres.sql("create role asked login password 'right'");
    let certs = crate::harness::Certs::new();
    let file = "upstream_password = \"another role's\"\n[[rule]]\nuser = [\"another\"]\nmethod = \"peer\"\n\
                [[rule]]\nmethod = \"pass-through\"\n[[peer]]\nuid = 0\nroles = [\"another\"]";
    for mode in ["session", "transaction"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "-c", &certs.write("f.toml", file)]);
        let mut clients: Vec<_> =
            (0..3).map(|_| eventually_some("it is let in", || log_in(&ferry, "asked", "right").ok())).collect();
        for client in &mut clients {
            client.query("begin");
            assert_eq!(client.value("select 1"), "1", "{mode}");
        }
    }
}
