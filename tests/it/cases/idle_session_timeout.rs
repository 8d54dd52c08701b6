//! Time limits that a client sets for itself end its session as they do directly.

use super::script::{A, B, DEFAULTS, Params, Script, TRANSACTION, compare, step};
use crate::harness::protocol_client::{query, startup, sync, tags};
use crate::harness::{Pgferry, Postgres};

const AT_START: Params = &[("options", "-c idle_session_timeout=300ms")];

#[test]
fn idle_session_timeout_ends_the_client_that_set_it() {
    if Postgres::shared().version() < 14 {
        // There is no such setting before.
        return;
    }
    let scripts = [
        Script::new("SET").sql(A, "set idle_session_timeout = '300ms'").end(A),
        Script::new("SET without a unit").sql(A, "set session idle_session_timeout to 300").end(A),
        Script::new("SET in words").sql(A, "set idle_session_timeout = '0.3 s'").end(A),
        Script::new("SET, and work").sql(A, "set idle_session_timeout = '300ms'").sql(A, "select 1").end(A),
        Script::new("SET among others").sql(A, "set a.b = 'c'; set idle_session_timeout = '300ms'").end(A),
        Script::new("SET in a pipeline").ask(A, &[step("set idle_session_timeout = '300ms'"), sync()]).end(A),
        Script::new("set_config").sql(A, "select set_config('idle_session_timeout', '300ms', false)").end(A),
        Script::new("in a transaction")
            .sql(A, "begin")
            .sql(A, "set idle_session_timeout = '300ms'")
            .sql(A, "commit")
            .end(A),
        Script::new("with another client, which stays")
            .sql(A, "set idle_session_timeout = '300ms'")
            .sql(B, "select 1")
            .end(A)
            .sql(B, "select 'stays'"),
        Script::new("taken back")
            .sql(A, "set idle_session_timeout = '300ms'")
            .sql(A, "reset idle_session_timeout")
            .aside("select from pg_sleep(0.6)")
            .sql(A, "select 'stays'"),
        Script::new("rolled back")
            .sql(A, "begin; set idle_session_timeout = '300ms'; rollback")
            .aside("select from pg_sleep(0.6)")
            .sql(A, "select 'stays'"),
        Script::new("by the startup packet").comes_with(A, AT_START).sql(A, "select 1").end(A),
    ];
    compare(Postgres::shared(), &TRANSACTION[..4], &scripts);
    compare(Postgres::shared(), &[DEFAULTS[1]], &scripts);
}

#[test]
fn idle_in_transaction_session_timeout_ends_the_client_that_set_it() {
    let scripts = [
        Script::new("SET").sql(A, "set idle_in_transaction_session_timeout = '300ms'").sql(A, "begin").end(A),
        Script::new("SET, with another client between")
            .sql(A, "set idle_in_transaction_session_timeout = '300ms'")
            .sql(B, "select 1")
            .sql(A, "begin")
            .end(A)
            .sql(B, "select 'stays'"),
    ];
    compare(Postgres::shared(), &TRANSACTION, &scripts);
    compare(Postgres::shared(), &[DEFAULTS[1]], &scripts);
}

/// It has no connection by then, in session mode too.
#[test]
fn a_client_whose_request_was_refused_may_not_be_idle_for_longer() {
    if Postgres::shared().version() < 14 {
        return;
    }
    for mode in ["session", "transaction"] {
        let env = [("PGFERRY_QUERY_WAIT_TIMEOUT", "100ms")];
        let ferry = Pgferry::start_with(&Postgres::shared().url(), &["--pool-mode", mode, "--pool-size", "1"], &env);
        let [mut busy, mut refused] = [ferry.raw(), ferry.raw()];
        for raw in [&mut busy, &mut refused] {
            raw.send(&startup(&[&[("user", "trust_user"), ("database", "postgres")], AT_START].concat()));
            assert!(tags(&raw.until_ready()).ends_with('Z'));
        }
        busy.query("begin");
        refused.send(&query("select 1"));
        let messages = refused.read_to_end();
        assert_eq!(tags(&messages), "EZE", "{mode}");
        assert_eq!(messages[2].field(b'C'), "57P05", "{mode}");
    }
}
