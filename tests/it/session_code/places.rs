//! Looks at the catalogs of odd databases, servers and roles.

use super::{log_in, run};
use crate::harness::protocol_client::{message, startup};
use crate::harness::{Pgferry, Postgres, ProtocolClient, eventually};

const LEAVES: &str = "create function leaves() returns void language plpgsql as $$ begin set work_mem = '77MB'; end $$";

/// A function that leaves nothing, with letters of `bytes` in its name and its source.
fn harmless(bytes: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 5] = [
        b"create function \"",
        bytes,
        b"\"() returns text language plpgsql as $$ begin return '",
        bytes,
        b"; set x = 1'; end $$\0",
    ];
    message(b'Q', &parts.concat())
}

#[test]
fn in_every_encoding() {
    let postgres = Postgres::start_with(&[]);
    // In SQL_ASCII any bytes, in WIN1252 one that is no character of Unicode.
    for (encoding, bytes) in [
        ("SQL_ASCII", &b"\xff\xfe"[..]),
        ("LATIN1", b"\xe9\xfc"),
        ("EUC_JP", b"\xa4\xa2\x8e\xb1"),
        ("WIN1252", b"\x80\x81"),
        ("UTF8", "é\u{3042}".as_bytes()),
    ] {
        let database = encoding.to_lowercase();
        run(
            &postgres,
            "postgres",
            &format!("create database {database} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"),
        );
        let mut direct = log_in(ProtocolClient::tcp(postgres.port), &database);
        direct.send(&harmless(bytes));
        assert!(direct.until_ready().iter().all(|message| message.tag != b'E'), "{encoding}");
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
        for client_encoding in [None, Some("UTF8"), Some("SJIS")] {
            let mut client = ferry.raw();
            let params = [("user", "trust_user"), ("database", &database)];
            let own = client_encoding.map(|encoding| ("client_encoding", encoding));
            let own = own.filter(|_| encoding != "LATIN1" && encoding != "WIN1252");
            client.send(&startup(&params.into_iter().chain(own).collect::<Vec<_>>()));
            client.until_ready();
            assert_eq!(client.value("select 1"), "1", "{encoding}");
        }
        ferry.logs("its code leaves nothing in a session");
        log_in(ferry.raw(), &database).query(LEAVES);
        log_in(ferry.raw(), &database).query("select leaves()");
        assert_eq!(log_in(ferry.raw(), &database).value("show work_mem"), "4MB", "{encoding}");
    }
}

#[test]
fn on_a_standby() {
    let mut primary = Postgres::start_with(&["max_connections=50"]);
    primary.sql("create table t (a int)");
    let standby = primary.standby();
    let ferry = Pgferry::start(&standby, &["--pool-mode", "transaction", "--pool-size", "1"]);
    for isolation in ["read committed", "serializable", "repeatable read"] {
        let mut client = ferry.session();
        assert_eq!(client.value("select pg_is_in_recovery()"), "t");
        // It is what the next look finds.
        client.query(&format!("set default_transaction_isolation = '{isolation}'"));
    }
    ferry.logs("its code leaves nothing in a session");
    primary.sql(LEAVES);
    eventually("the standby has it, and it is noticed", || {
        ferry.session().query("select leaves()");
        ferry.log().contains("function public.leaves()")
    });
    assert_eq!(ferry.session().value("show work_mem"), "4MB");
    assert!(!ferry.log().contains("could not be looked at"), "{}", ferry.log());
}

#[test]
fn without_rights_to_what_the_catalog_is_asked_by() {
    for revoke in [
        "revoke execute on function pg_stat_get_tuples_inserted(oid) from public",
        "revoke select on pg_proc from public",
        "revoke select on pg_settings from public; revoke select on pg_locks from public",
        "revoke execute on function pg_listening_channels() from public",
        "revoke select on pg_prepared_statements, pg_cursors from public",
    ] {
        let postgres = Postgres::start_with(&[]);
        postgres.sql(LEAVES);
        postgres.sql(revoke);
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
        let client = || ferry.raw().logged_in("limited", "postgres");
        for _ in 0..2 {
            // What pins, what is asked for, and what is reset.
            let mut one = client();
            for sql in ["select leaves()", "begin", "listen x", "rollback", "listen x", "unlisten *", "select 1"] {
                let answer = one.query(sql);
                assert!(answer.iter().all(|message| message.tag != b'E'), "{revoke}: {sql}: {answer:?}");
            }
            one.query("select set_config('work_mem', '5MB', false)");
            assert_eq!(one.value("show work_mem"), "5MB", "{revoke}");
            drop(one);
            let mut other = client();
            assert_eq!(other.value("show work_mem"), "4MB", "{revoke}");
            assert_eq!(other.value("select count(*) from pg_stat_activity where pid = pg_backend_pid()"), "1");
        }
    }
}
