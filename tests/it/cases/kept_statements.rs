//! Resets between clients of transaction mode keep the statements that pgferry has prepared, and leave nothing else.

use crate::harness::protocol_client::{bind, describe, execute, parse, sync};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient};

fn ferry(postgres: &Postgres) -> Pgferry {
    Pgferry::start(postgres, &["--pool-mode", "transaction", "--pool-size", "1", "--reset", "always"])
}

/// Prepares `sql` as `name`.
fn prepare(client: &mut ProtocolClient, name: &str, sql: &str) {
    client.send(&[parse(name, sql), describe(b'S', name), sync()].concat());
    let answer = client.until_ready();
    assert!(answer.iter().all(|message| message.tag != b'E'), "{sql}: {answer:?}");
}

fn answer(client: &mut ProtocolClient, name: &str, params: &[&str]) -> Vec<Message> {
    client.send(&[bind("", name, params), execute("", 0), sync()].concat());
    client.until_ready()
}

/// The first column of the only row.
fn run(client: &mut ProtocolClient, name: &str, params: &[&str]) -> String {
    let answer = answer(client, name, params);
    let row = answer.iter().find(|message| message.tag == b'D').unwrap_or_else(|| panic!("{name}: {answer:?}"));
    row.columns()[0].clone()
}

/// When which of the clients' statements were prepared on the connection.
const PREPARED: &str = "select coalesce(string_agg(statement || ' ' || prepare_time, ', ' order by statement), '') \
    from pg_prepared_statements where name ~ '^pgferry_[0-9]+$'";

#[test]
fn statements_outlive_resets() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table t (a int, b text); insert into t values (1, 'one'), (2, 'two')");
    let ferry = ferry(&postgres);
    let mut clients = [ferry.session(), ferry.session(), ferry.session()];
    let mut seen = Vec::new();
    for round in 0..4 {
        for client in &mut clients[..2] {
            if round == 0 {
                prepare(client, "first", "select b from t where a = $1");
                prepare(client, "second", "select a from t where b = $1");
            }
            client.query("begin");
            assert_eq!(run(client, "first", &["2"]), "two");
            assert_eq!(run(client, "second", &["one"]), "1");
            client.query("commit");
        }
        seen.push(clients[2].value(PREPARED));
    }
    assert!(seen[1].contains("select b from t") && seen[1].contains("select a from t"), "{seen:?}");
    assert_eq!((&seen[1], &seen[2]), (&seen[2], &seen[3]), "they are prepared once");
    assert_eq!(ferry.report().get("upstream_opened"), 1);
}

#[test]
fn a_transactions_properties_can_be_set_behind_a_reset_that_discards_plans() {
    let postgres = Postgres::start_with(&["log_statement=all"]);
    let ferry = ferry(&postgres);
    let (mut one, mut other) = (ferry.session(), ferry.session());
    for first in ["begin isolation level serializable read only", "set transaction isolation level serializable"] {
        prepare(&mut one, "kept", "select $1::int");
        one.query("begin");
        // It is used where code may have changed settings.
        for _ in 0..2 {
            assert_eq!(run(&mut one, "kept", &["7"]), "7");
        }
        one.query("commit");
        let answer = other.query(first);
        assert!(answer.iter().all(|message| message.tag != b'E'), "{first}: {answer:?}");
        other.query("rollback");
        one.send(&[crate::harness::protocol_client::close(b'S', "kept"), sync()].concat());
        one.until_ready();
    }
    assert!(postgres.log().contains("DISCARD PLANS"), "{}", postgres.log());
}

/// Everything that code may leave, hidden in functions; each is looked for by the next client.
const LEFT: [(&str, &str, &str); 13] = [
    ("perform set_config('timezone', 'Asia/Tokyo', false)", "select current_setting('timezone')", "Etc/UTC"),
    ("set search_path = elsewhere", "select current_setting('search_path')", "\"$user\", public"),
    ("perform set_config('app.user', 'me', false)", "select current_setting('app.user', true)", ""),
    ("create temp table leftover (a int)", "select to_regclass('leftover') is null", "t"),
    (
        "perform pg_advisory_lock(42)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "0",
    ),
    ("execute 'listen leftover'", "select count(*) from pg_listening_channels()", "0"),
    ("execute 'prepare leftover as select 1'", "select count(*) from pg_prepared_statements where from_sql", "0"),
    (
        "execute 'declare leftover cursor with hold for select 1'",
        "select count(*) from pg_cursors where is_holdable",
        "0",
    ),
    ("set role limited", "select current_user", "trust_user"),
    ("perform nextval('hidden_numbers')", "select 1", "1"),
    (
        "set default_transaction_isolation = 'serializable'; set default_transaction_deferrable = on",
        "select current_setting('default_transaction_isolation') || current_setting('default_transaction_deferrable')",
        "read committedoff",
    ),
    ("set transform_null_equals = on", "select null = null is null", "t"),
    (READS_OTHERWISE, "select '\\'", "\\"),
];

/// What makes later functions be read otherwise: no other client gets that connection.
const READS_OTHERWISE: &str = "set standard_conforming_strings = off";

#[test]
fn nothing_else_outlives_them() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create schema elsewhere; create sequence hidden_numbers; create table kept (a int); insert into kept values (7)",
    );
    postgres.sql("create table elsewhere.kept (a text); insert into elsewhere.kept values ('wrong')");
    for (nth, (inside, _, _)) in LEFT.iter().enumerate() {
        postgres.sql(&format!(
            "create function leave_{nth}() returns void language plpgsql as $body$ begin {inside}; end $body$"
        ));
    }
    for (nth, (inside, shows, clean)) in LEFT.iter().enumerate() {
        let ferry = ferry(&postgres);
        let mut clients = [ferry.session(), ferry.session()];
        for client in &mut clients {
            prepare(client, "kept", "select a from kept where a = $1");
            assert_eq!(run(client, "kept", &["7"]), "7");
        }
        let [first, second] = &mut clients;
        for _ in 0..3 {
            first.value(&format!("select public.leave_{nth}()::text"));
            // Prepared while what the names mean has changed.
            first.send(
                &[parse("", "select a from kept where a is not null"), bind("", "", &[]), execute("", 0), sync()]
                    .concat(),
            );
            first.until_ready();
            assert_eq!(second.value(shows), *clean, "{inside}");
            assert_eq!(run(second, "kept", &["7"]), "7", "{inside}");
            assert_eq!(second.error("select lastval()").field(b'C'), "55000", "{inside}");
        }
        let opened = ferry.report().get("upstream_opened");
        let most = if *inside == READS_OTHERWISE { 7 } else { 2 };
        assert!(opened <= most, "{inside}: {opened} connections");
    }
}

/// What a text means is never what it meant to another client under settings that code had changed.
#[test]
fn what_was_prepared_under_hidden_settings_is_not_kept_as_it_is() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create schema hidden; create table t (a int); insert into t values (1)");
    postgres.sql("create table hidden.t (a text); insert into hidden.t values ('1'), ('hidden')");
    postgres.sql(
        "create function hide() returns text language plpgsql as $$ begin set search_path = hidden; \
        set transform_null_equals = on; return 'hidden'; end $$",
    );
    let ferry = ferry(&postgres);
    let mut first = ferry.session();
    let mut second = ferry.session();
    prepare(&mut second, "known", "select 'known'");
    let texts = [
        "select count(*) from t where a = $1",
        "select a from t order by 1 limit 1",
        "select count(*) from t where (a = null) is null",
    ];
    for round in 0..3 {
        first.query("begin");
        assert_eq!(first.value("select public.hide()"), "hidden");
        for (nth, sql) in texts.iter().enumerate() {
            let name = format!("{round}_{nth}");
            prepare(&mut first, &name, sql);
            answer(&mut first, &name, if nth == 0 { &["1"] } else { &[] });
        }
        first.query("commit");
        assert_eq!(run(&mut second, "known", &[]), "known");
        for (nth, sql) in texts.iter().enumerate() {
            let name = format!("{round}_{nth}");
            prepare(&mut second, &name, sql);
            assert_eq!(run(&mut second, &name, if nth == 0 { &["1"] } else { &[] }), "1", "{sql}");
        }
    }
}

/// Code that frees pgferry's own statements, or makes others, costs no client an error, and no connection each time.
#[test]
fn code_that_prepares_and_frees_statements_costs_nobody_anything() {
    let postgres = Postgres::start_with(&[]);
    for (nth, does) in ["deallocate all", "prepare made as select 1"].into_iter().enumerate() {
        postgres.sql(&format!(
            "create function code_{nth}() returns text language plpgsql as $$ begin execute '{does}'; return 'done'; end $$"
        ));
        let ferry = ferry(&postgres);
        let mut clients = [ferry.session(), ferry.session()];
        for client in &mut clients {
            prepare(client, "kept", "select 'kept'");
            assert_eq!(run(client, "kept", &[]), "kept");
        }
        let [first, second] = &mut clients;
        for _ in 0..10 {
            assert_eq!(first.value(&format!("select code_{nth}()")), "done");
            assert_eq!(run(second, "kept", &[]), "kept", "{does}");
            assert_eq!(second.value("select count(*) from pg_prepared_statements where from_sql"), "0", "{does}");
        }
        assert!(ferry.report().get("upstream_opened") <= 2, "{does}");
    }
}

/// A statement of the client's is not prepared anew for it at the price of waiting for a lock that it does not need.
#[test]
fn a_table_that_is_locked_holds_up_no_client_that_does_not_use_it() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table locked (a int)");
    let ferry = ferry(&postgres);
    let mut clients = [ferry.session(), ferry.session()];
    for client in &mut clients {
        client.query("begin");
        client.value("select 1");
        // Behind another statement: it would be prepared anew for the next client.
        prepare(client, "of_locked", "select a from locked");
        answer(client, "of_locked", &[]);
        client.query("commit");
    }
    let mut holder = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    holder.query("begin; lock table locked");
    // While it is held: a client that waited for the lock would get no answer.
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.value("select 'served'"), "served");
        }
    }
    assert_eq!(postgres.sql("select count(*) from pg_locks where not granted"), "0", "nothing waits for the lock");
    holder.query("rollback; drop table locked");
    for client in &mut clients {
        assert_eq!(client.value("select 'served'"), "served");
    }
    assert!(ferry.report().get("upstream_opened") <= 3);
}

/// Settings that decide what a text means when the server looks at it, and a text of which they do.
const DECIDING: [(&str, &str, &str); 4] = [
    ("transform_null_equals = on", "select count(*) from d where a = null", "0"),
    ("datestyle = 'sql, dmy'", "select count(*) from d where a = '01/02/2020'", "0"),
    ("timezone = 'Asia/Tokyo'", "select extract(epoch from '2020-01-01 00:00'::timestamptz)::int from d", "1577836800"),
    ("intervalstyle = sql_standard", "select extract(epoch from '-1 2:00'::interval)::int from d", "-79200"),
];

/// Changes something that has the server look at texts anew, as an `ANALYZE` by autovacuum does.
fn invalidate(postgres: &Postgres) {
    postgres.sql("alter table d set (fillfactor = 90)");
}

/// Has each client prepare `sql` as `name`, and run it.
fn prepare_by_all(clients: [&mut ProtocolClient; 2], name: &str, sql: &str, expected: &str) {
    for client in clients {
        prepare(client, name, sql);
        assert_eq!(run(client, name, &[]), expected, "{sql}");
    }
}

#[test]
fn texts_that_are_looked_at_anew_under_settings_that_code_made_are_looked_at_again() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create table d (a date); insert into d values ('2020-02-01'); \
         create function leave(what text) returns void language plpgsql as 'begin execute what; end'",
    );
    for reset in ["auto", "always"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
        let (mut first, mut second) = (ferry.session(), ferry.session());
        for (nth, (setting, sql, expected)) in DECIDING.iter().enumerate() {
            let name = format!("s{nth}");
            prepare_by_all([&mut first, &mut second], &name, sql, expected);
            first.query("begin");
            first.query(&format!("select leave('set {}')", setting.replace('\'', "''")));
            invalidate(&postgres);
            run(&mut first, &name, &[]);
            first.query("commit");
            for client in [&mut second, &mut first] {
                assert_eq!(run(client, &name, &[]), *expected, "{reset}: {setting}");
            }
        }
        assert_eq!(ferry.report().get("upstream_opened"), 1);
    }
}

#[test]
fn a_statement_that_clients_share_has_no_constants_of_one_clients_settings() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table d (a date); insert into d values ('2020-02-01')");
    for (begins, ends) in [("set", "reset all"), ("begin; set local", "commit"), ("begin; set", "rollback")] {
        for together in [true, false] {
            let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
            let (mut first, mut second) = (ferry.session(), ferry.session());
            for (nth, (setting, sql, expected)) in DECIDING.iter().enumerate() {
                let name = format!("s{nth}");
                prepare_by_all([&mut first, &mut second], &name, sql, expected);
                let sets = format!("{begins} {setting}");
                if together {
                    first.query(&sets);
                } else {
                    sets.split("; ").for_each(|sql| drop(first.query(sql)));
                }
                invalidate(&postgres);
                run(&mut first, &name, &[]);
                first.query(ends);
                assert_eq!(run(&mut second, &name, &[]), *expected, "{sets}");
                assert_eq!(run(&mut first, &name, &[]), *expected, "{sets}");
            }
        }
    }
}
