//! With `reset = "auto"`, the default, what code inside the database leaves in a session never reaches the next client, and sessions
//! are left alone in a database without such code.

mod places;
mod ways;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::protocol_client::{bind, execute, parse, sync, tags};
use ways::{
    BY_LANGUAGES_AND_EXTENSIONS, BY_ODD_MEANS, BY_OTHER_OBJECTS, BY_PASSING_DEFINITIONS, BY_STATEMENTS, IN_FUNCTIONS,
    Way,
};

use crate::harness::pgferry::command;
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually};

/// What a session has that a new one has not.
const STATE: &str = "select concat_ws('|', current_setting('work_mem'), current_setting('search_path'), current_user, session_user, \
    nullif(current_setting('app.tenant', true), ''), nullif(nullif(current_setting('pg_trgm.similarity_threshold', true), ''), '0.3'), \
    (select count(*) from pg_class where relnamespace = pg_my_temp_schema() and relname = 'leftover'), \
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
    (select count(*) from pg_listening_channels()), (select count(*) from pg_prepared_statements where from_sql), \
    (select count(*) from pg_cursors where is_holdable))";

fn log_in(client: ProtocolClient, database: &str) -> ProtocolClient {
    client.logged_in("trust_user", database)
}

/// Says it all, and what the session has then.
fn say(client: &mut ProtocolClient, way: &Way) -> String {
    for sql in way.leaves {
        let answer = client.query(sql);
        assert!(answer.iter().all(|message| message.tag != b'E'), "{}: {sql}: {answer:?}", way.name);
    }
    client.value(STATE)
}

fn run(postgres: &Postgres, database: &str, sql: &str) {
    let mut direct = log_in(ProtocolClient::tcp(postgres.port), database);
    let answer = direct.query(&sql.replace(":db", database));
    assert!(answer.iter().all(|message| message.tag != b'E'), "{sql}: {answer:?}");
}

/// Says it in the one protocol or the other: several statements in one text are possible in the simple one only.
fn ferry_says(client: &mut ProtocolClient, ferry: &Pgferry, sql: &str) -> Vec<Message> {
    if ferry.log().contains("transaction mode") {
        return client.query(sql);
    }
    client.send(&[parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat());
    let answer = client.until_ready();
    let is_of_several =
        answer.iter().any(|message| message.tag == b'E' && message.field(b'M').contains("multiple commands"));
    if is_of_several { client.query(sql) } else { answer }
}

/// Goes each way, directly and through each of `ferries`, in a database of its own.
fn go(postgres: &Postgres, ferries: &[Pgferry], way: &Way, database: &str) {
    run(postgres, "postgres", &format!("create database {database}"));
    run(postgres, database, way.setup);
    let direct = || log_in(ProtocolClient::tcp(postgres.port), database);
    let clean = direct().value(STATE);
    assert_ne!(say(&mut direct(), way), clean, "{} leaves nothing", way.name);
    for ferry in ferries {
        run(postgres, database, way.undo);
        // A look has been taken before the client comes.
        log_in(ferry.raw(), database).query("select 1");
        let mut former = log_in(ferry.raw(), database);
        for sql in way.leaves {
            let answer = ferry_says(&mut former, ferry, sql);
            assert!(answer.iter().all(|message| message.tag != b'E'), "{}: {sql}: {answer:?}", way.name);
        }
        drop(former);
        let seen = log_in(ferry.raw(), database).value(STATE);
        assert_eq!(seen, clean, "{}, {database}: {}", way.name, ferry.log());
    }
}

/// What PostgreSQL has from version 14 on: bodies in SQL's own form, statistics on expressions.
const FROM_14: [&str; 3] = ["begin atomic", "returns text return ", "create statistics s on (leaves"];

/// A server, and pgferry in front of it with the default of `reset`, in transaction mode and in session mode.
fn start() -> (Postgres, Vec<Pgferry>) {
    let postgres = Postgres::start_with(&["max_connections=300", "max_prepared_transactions=5"]);
    let args = [["--pool-size", "1", "--pool-mode", "transaction"], ["--pool-size", "1", "--pool-mode", "session"]];
    let ferries = args.iter().map(|args| Pgferry::start(&postgres, args)).collect();
    (postgres, ferries)
}

fn go_all(ways: &[Way], prefix: &str) {
    let (postgres, ferries) = start();
    let available = postgres.sql("select string_agg(name, ' ') from pg_available_extensions");
    let available: HashSet<_> = available.split(' ').collect();
    let version = postgres.version();
    let is_possible = |way: &Way| {
        if version < 14 && FROM_14.iter().any(|form| way.setup.contains(form)) {
            return false;
        }
        let named = way.setup.split("create extension ").nth(1);
        let extension = named.and_then(|rest| rest.split([';', ' ']).next());
        // What it is made of may not be there.
        extension.is_none_or(|extension| {
            let can_be_made = || {
                let mut direct = log_in(ProtocolClient::tcp(postgres.port), "template1");
                let answer = direct.query(&format!("begin; create extension {extension} cascade"));
                answer.iter().all(|message| message.tag != b'E')
            };
            available.contains(extension) && can_be_made()
        })
    };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(way) = ways.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if is_possible(way) {
                        let nth = ways.iter().position(|other| std::ptr::eq(other, way)).unwrap_or_default();
                        go(&postgres, &ferries, way, &format!("{prefix}_{nth}"));
                    }
                }
            });
        }
    });
}

#[test]
fn what_functions_leave_never_reaches_the_next_client() {
    go_all(IN_FUNCTIONS, "functions");
}

#[test]
fn what_other_objects_leave_never_reaches_the_next_client() {
    go_all(BY_OTHER_OBJECTS, "objects");
}

#[test]
fn what_languages_and_extensions_leave_never_reaches_the_next_client() {
    go_all(BY_LANGUAGES_AND_EXTENSIONS, "languages");
}

#[test]
fn what_code_leaves_by_odd_means_never_reaches_the_next_client() {
    go_all(BY_ODD_MEANS, "odd");
}

#[test]
fn what_clients_make_and_run_never_reaches_the_next_client() {
    go_all(BY_STATEMENTS, "statements");
}

#[test]
fn what_passing_definitions_leave_never_reaches_the_next_client() {
    go_all(BY_PASSING_DEFINITIONS, "passing");
}

/// The number of resets that the server has seen.
fn resets(postgres: &Postgres) -> usize {
    postgres.log().matches("DISCARD ALL").count()
}

/// A server that logs each statement.
fn talkative() -> Postgres {
    Postgres::start_with(&["log_statement=all", "log_min_messages=warning"])
}

const TABLES: &str = "create extension pg_trgm; create extension citext; create extension hstore; create extension pgcrypto; \
    create table account (id serial primary key, name citext, balance int default 0 check (balance >= 0), changed timestamptz); \
    create index on account using gin (name gin_trgm_ops); \
    create view rich as select * from account where balance > 1000; \
    create function touch() returns trigger language plpgsql as 'begin new.changed = now(); return new; end'; \
    create trigger touched before update on account for each row execute function touch(); \
    create function total() returns bigint stable language sql as 'select sum(balance) from account'";

/// Lets ten clients work, one after another and then two at once.
fn work(ferry: &Pgferry) {
    for _ in 0..10 {
        let mut client = ferry.session();
        client.query("insert into account (name) values ('x')");
        client.query("update account set balance = balance + 1 where id = 1");
        client.send(&[parse("", "select total(), * from rich"), bind("", "", &[]), execute("", 0), sync()].concat());
        client.until_ready();
    }
    let (mut one, mut other) = (ferry.session(), ferry.session());
    for _ in 0..10 {
        one.query("begin");
        other.query("begin");
        one.query("update account set balance = 5 where id = 1");
        other.query("update account set balance = 5 where id = 2");
        other.query("commit");
        one.query("commit");
    }
}

#[test]
fn a_database_without_such_code_sees_no_reset() {
    for mode in ["transaction", "session"] {
        let postgres = talkative();
        postgres.sql(TABLES);
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        work(&ferry);
        assert_eq!(resets(&postgres), 0, "{mode}: {}", ferry.log());
        ferry.logs("its code leaves nothing in a session");
        // It is not for want of seeing them.
        ferry.session().query("listen x");
        eventually("a session that listens is reset", || resets(&postgres) > 0);
    }
}

#[test]
fn code_that_is_made_elsewhere_is_noticed() {
    for mode in ["transaction", "session"] {
        let postgres = talkative();
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "1"]);
        let client = |sql: &str| ferry.session().query(sql);
        client("select 1");
        client("select 1");
        assert_eq!(resets(&postgres), 0);
        postgres.sql("create function leave() returns void language plpgsql as $$ begin set work_mem = '77MB'; end $$");
        eventually("the function is noticed", || {
            client("select leave()");
            ferry.log().contains("function public.leave() (it says \"set\")")
        });
        // From then on no client sees anything, though one that the connection was given before has left it.
        assert_eq!(ferry.session().value("show work_mem"), "4MB");
        client("select leave()");
        assert_eq!(ferry.session().value("show work_mem"), "4MB");
        // What was made and is gone again was there.
        postgres.sql("drop function leave()");
        eventually("it is noticed that it is gone", || {
            client("select 1");
            ferry.log().matches("its code leaves nothing in a session").count() > 1
        });
        client("select 1");
        let before = resets(&postgres);
        client("select 1");
        client("select 1");
        assert_eq!(resets(&postgres), before, "{mode}");
    }
}

#[test]
fn pools_of_the_same_database_share_what_is_known_of_its_code() {
    let postgres = talkative();
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let client = |user: &str| ferry.raw().logged_in(user, "postgres");
    client("trust_user").query("select 1");
    client("limited").query("select 1");
    assert_eq!(postgres.log().matches("'digest'").count(), 1, "the second pool knows already");
    client("trust_user").query(
        "create function leave() returns void language plpgsql as 'begin execute ''set work_mem = 78848''; end'",
    );
    client("limited").query("select public.leave()");
    assert_eq!(client("limited").value("show work_mem"), "4MB");
}

#[test]
fn connections_without_rest_are_looked_at_nevertheless() {
    let postgres = talkative();
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    ferry.session().query("select 1");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = ferry.session();
                while !stop.load(Ordering::Relaxed) {
                    client.query("select pg_sleep(0.01)");
                }
            });
        }
        postgres.sql("create function leave() returns void language plpgsql as $$ begin set work_mem = '77MB'; end $$");
        eventually("the function is noticed", || ferry.log().contains("function public.leave()"));
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_sequences_have_given_inside_code_is_forgotten() {
    let postgres = talkative();
    postgres.sql(
        "create sequence s; create table log (id serial, what text); create table t (a int); insert into t values (1); \
         create function leaves() returns trigger language plpgsql as $$ begin insert into log (what) values ('x'); return new; end $$; \
         create trigger x before update on t for each row execute function leaves(); create view v as select nextval('s')",
    );
    let ferry = Pgferry::start(&postgres, &["--pool-size", "1"]);
    for sql in
        ["update t set a = 2", "select * from v", "insert into log (what) values ('y')", "update log set id = default"]
    {
        ferry.session().query(sql);
        assert_eq!(ferry.session().error("select lastval()").field(b'C'), "55000", "{sql}");
    }
    ferry.logs("its code leaves no more than what sequences have given");
}

#[test]
fn a_body_of_sqls_own_form_may_have_sequences_give_values() {
    if Postgres::shared().version() < 14 {
        // There are no such bodies.
        return;
    }
    for body in [
        "insert into log default values",
        "update log set id = default",
        "with x as (insert into log default values returning id) select",
    ] {
        let postgres = talkative();
        postgres.sql(&format!(
            "create table log (id serial); insert into log default values; \
             create function leave() returns void begin atomic {body}; end"
        ));
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
        let (mut one, mut other) = (ferry.session(), ferry.session());
        one.query("select 1");
        let left = other.query("select leave()");
        assert!(left.iter().all(|message| message.tag != b'E'), "{left:?}");
        assert_eq!(one.error("select lastval()").field(b'C'), "55000", "{body}");
    }
}

#[test]
fn a_catalog_that_cant_be_read_has_every_session_reset() {
    let postgres = talkative();
    postgres.sql("revoke select on pg_language from public");
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let client = || ferry.raw().logged_in("limited", "postgres");
    client().query("select 1");
    ferry.logs("its code could not be looked at, so every session is reset between two clients: permission denied for table pg_language");
    client().query("select 1");
    client().query("select 1");
    eventually("sessions are reset", || resets(&postgres) >= 2);
}

/// A look that ends the connection on which it is taken keeps no client out.
#[test]
fn a_look_that_the_server_does_not_let_end_is_done_without() {
    let postgres = talkative();
    let mut holder = log_in(ProtocolClient::tcp(postgres.port), "postgres");
    holder.query("begin");
    assert_eq!(tags(&holder.query("lock table pg_catalog.pg_aggregate in access exclusive mode")), "CZ");
    let ferry = Pgferry::start_with(&postgres.url(), &[], &[("PGFERRY_SERVER_CONNECT_TIMEOUT", "1s")]);
    assert_eq!(log_in(ferry.raw(), "postgres").value("select 1"), "1");
    ferry.logs("its code could not be looked at, so every session is reset between two clients");
}

/// PostgreSQL 17 ends connections with transactions that take longer than their role allows.
#[test]
fn a_look_may_take_longer_than_the_roles_transactions() {
    let postgres = talkative();
    if postgres.version() < 17 {
        return;
    }
    postgres.sql("create role hasty login");
    postgres.sql("alter role hasty set transaction_timeout = '30ms'");
    postgres.sql(
        "do $$ begin for nth in 1..400 loop execute format('create function f%s() returns int language plpgsql as \
         $f$ begin return %s; end $f$', nth, nth); end loop; end $$",
    );
    let ferry = Pgferry::start(&postgres, &[]);
    assert_eq!(ferry.raw().logged_in("hasty", "postgres").value("show transaction_timeout"), "30ms");
    ferry.logs("its code leaves nothing in a session");
}

#[test]
fn the_console_and_the_doctor_name_the_code() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-size", "1"]);
    let shown = || {
        let rows = ferry.raw().logged_in("u", "pgferry").query("show code");
        let rows = rows.iter().filter(|row| row.tag == b'D').map(Message::columns);
        rows.into_iter().find(|row| row[1] == "postgres").map(|row| row[2..].join(": ")).unwrap_or_default()
    };
    let doctor = || {
        let url = format!("postgres://trust_user@127.0.0.1:{}/postgres", postgres.port);
        let output = command().args(["doctor", "-u", &url]).output().expect("pgferry");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    ferry.session().query("select 1");
    assert_eq!(shown(), "nothing: ");
    let said = doctor();
    assert!(said.contains("code in postgres") && said.contains("may leave nothing"), "{said}");
    let functions = (0..20).map(|nth| {
        format!("create function \"f\u{1b}[31m{nth}\"() returns void language plpgsql as 'begin listen x; end';")
    });
    postgres.sql(&functions.collect::<String>());
    eventually("it is named", || {
        ferry.session().query("select 1");
        shown().starts_with("anything: function public.\"f?[31m")
    });
    assert_eq!(shown().matches("it says \"listen\"").count(), 10, "not all of them");
    let said = doctor();
    assert!(said.contains("it says \"listen\"") && said.contains("SET LOCAL") && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn settings_that_a_client_has_left_keep_no_look_from_its_answer() {
    let postgres = talkative();
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let mut client = ferry.session();
    for sql in [
        "set statement_timeout = '15ms'",
        "set search_path = nowhere, pg_catalog",
        "set default_transaction_isolation = serializable",
        "set default_transaction_read_only = on",
        "set default_transaction_deferrable = on",
        "set client_encoding = latin1",
        "set standard_conforming_strings = off",
    ] {
        assert!(client.query(sql).iter().all(|message| message.tag != b'E'), "{sql}");
    }
    // It holds deferrable transactions up.
    let mut writer = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    writer.query("begin isolation level serializable");
    writer.query("insert into numbers values (1)");
    let before = postgres.log().matches("'digest'").count();
    eventually("the catalog is looked at twice", || postgres.log().matches("'digest'").count() >= before + 2);
    assert!(!ferry.log().contains("could not be looked at"), "{}", ferry.log());
    assert_eq!(client.value("show standard_conforming_strings"), "off");
}

/// Compiling what pgferry asks takes a server seconds, in which it hears neither a cancel request nor its end.
#[test]
fn no_question_of_pgferrys_is_compiled() {
    let settings = [
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_analyze=on",
        "auto_explain.log_nested_statements=off",
        "jit_above_cost=0",
    ];
    let postgres = Postgres::start_with(&settings);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let mut client = ferry.session();
    assert_eq!(tags(&client.query("set enable_seqscan = off")), "CZ");
    client.query("select 'compiled' from numbers");
    let asked = |words: &str| postgres.log().matches(words).count();
    let before = [asked("'digest'"), asked("pg_stat_get_activity(NULL)")];
    eventually("the server and its catalog are looked at", || {
        client.query("select 1");
        asked("'digest'") > before[0] && asked("pg_stat_get_activity(NULL)") > before[1]
    });
    let log = postgres.log();
    let plans = log.split("duration: ").filter(|plan| plan.contains("JIT:"));
    let of_pgferry: Vec<_> =
        plans.filter(|plan| plan.contains("'digest'") || plan.contains("pg_stat_get_activity")).collect();
    assert!(of_pgferry.is_empty(), "{}", of_pgferry[0]);
}

/// A look that takes too long is ended by the server itself, and costs no connection.
#[test]
fn a_look_that_takes_too_long_does_not_go_on_at_the_server() {
    let postgres = talkative();
    let ferry = Pgferry::start_with(
        &postgres.url(),
        &["--pool-mode", "transaction", "--pool-size", "1"],
        &[("PGFERRY_CLEANUP_TIMEOUT", "500ms")],
    );
    let mut client = ferry.session();
    let process = client.value("select pg_backend_pid()");
    ferry.logs("its code leaves nothing in a session");
    let mut holder = log_in(ProtocolClient::tcp(postgres.port), "postgres");
    holder.query("begin");
    assert_eq!(tags(&holder.query("lock table pg_catalog.pg_language in access exclusive mode")), "CZ");
    eventually("it is given up", || ferry.log().contains("did not answer in time (cleanup_timeout)"));
    assert_eq!(client.value("select pg_backend_pid()"), process);
    let waiting = "select count(*) from pg_stat_activity where query like '%digest%' and state = 'active' and pid <> pg_backend_pid()";
    assert_eq!(holder.value(waiting), "0");
}

#[test]
fn code_that_was_there_between_two_looks_is_noticed() {
    let postgres = talkative();
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    ferry.session().query("select 1");
    // A connection of its own for each statement: what it has counted is told as it ends.
    postgres.sql("create function leave() returns void language plpgsql as $$ begin set work_mem = '77MB'; end $$");
    ferry.session().query("select leave()");
    postgres.sql("drop function leave()");
    eventually("what was left is removed", || ferry.session().value("show work_mem") == "4MB");
}

#[test]
fn definitions_that_were_there_between_two_looks_are_noticed() {
    for (setup, makes, uses, undoes) in [
        (
            "create table t (a int, b bool)",
            "alter table t alter b set default pg_try_advisory_lock(42)",
            "insert into t (a) values (1)",
            "alter table t alter b drop default",
        ),
        (
            "select 1",
            "create cast (bigint as boolean) with function pg_try_advisory_lock(bigint)",
            "select 7::bigint::boolean",
            "drop cast (bigint as boolean)",
        ),
        (
            "create domain d as int; create table t (a int)",
            "alter domain d add check (pg_try_advisory_lock(value))",
            "select 7::d",
            "alter domain d drop constraint d_check",
        ),
    ] {
        let postgres = talkative();
        postgres.sql(setup);
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
        ferry.session().query("select 1");
        ferry.logs("its code leaves nothing in a session");
        postgres.sql(makes);
        let used = ferry.session().query(uses);
        assert!(used.iter().all(|message| message.tag != b'E'), "{uses}: {used:?}");
        postgres.sql(undoes);
        let locks = "select count(*) from pg_locks where locktype = 'advisory'";
        eventually("what was left is removed", || {
            ferry.session().query("select 1");
            postgres.sql(locks) == "0"
        });
    }
}

#[test]
fn another_database_by_the_same_name_is_looked_at() {
    let postgres = talkative();
    postgres.sql("create database shop");
    postgres.sql("create database odd");
    run(
        &postgres,
        "odd",
        "create function leave() returns void language plpgsql as $$ begin set work_mem = '77MB'; end $$",
    );
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    log_in(ferry.raw(), "shop").query("select 1");
    let mut admin = ferry.session();
    for sql in ["drop database shop", "alter database odd rename to shop"] {
        let answer = admin.query(sql);
        assert!(answer.iter().all(|message| message.tag != b'E'), "{sql}: {answer:?}");
    }
    log_in(ferry.raw(), "shop").query("select leave()");
    assert_eq!(log_in(ferry.raw(), "shop").value("show work_mem"), "4MB");
}

#[test]
fn a_client_that_goes_in_the_middle_of_making_code_is_followed_to_its_end() {
    let postgres = talkative();
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "2"]);
    let (mut one, mut other) = (ferry.session(), ferry.session());
    for client in [&mut one, &mut other] {
        client.query("select 1");
    }
    one.send(&crate::harness::protocol_client::query(
        "begin; create function leave() returns void language plpgsql as 'begin execute ''set work_mem = 78848''; end'; select pg_sleep(0.3); commit",
    ));
    eventually("it has begun", || {
        postgres.sql("select count(*) from pg_stat_activity where query like '%pg_sleep(0.3)%' and state = 'active' and pid <> pg_backend_pid()") == "1"
    });
    // It is told nothing more, and its work goes on to its end.
    one.end();
    eventually("the function is there", || {
        let answer = other.query("select leave()");
        answer.iter().all(|message| message.tag != b'E')
    });
    drop(other);
    for _ in 0..2 {
        assert_eq!(ferry.session().value("show work_mem"), "4MB");
    }
}

#[test]
fn sessions_of_many_clients_stay_apart_while_code_comes_and_goes() {
    let postgres = talkative();
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "3"]);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(4);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut maker = ferry.session();
            while std::time::Instant::now() < until {
                maker.query("create function leave() returns void language plpgsql as 'begin execute ''set work_mem = 78848''; end'");
                maker.query("select leave()");
                maker.query("drop function leave()");
            }
        });
        for _ in 0..3 {
            scope.spawn(|| {
                while std::time::Instant::now() < until {
                    let mut client = ferry.session();
                    assert_eq!(client.value("show work_mem"), "4MB");
                    client.query("select leave()");
                }
            });
        }
    });
}

#[test]
fn a_sequences_state_is_what_it_would_be_without_others() {
    for setup in ["select 1", "create function leaves() returns void language sql as 'insert into log default values'"]
    {
        let postgres = talkative();
        postgres.sql(&format!("create table log (id serial); {setup}"));
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
        let (mut one, mut other) = (ferry.session(), ferry.session());
        for client in [&mut one, &mut other] {
            client.query("select 1");
        }
        for drawn in 1..4 {
            other.query("insert into log default values");
            let first = one.query("select lastval()");
            let refused = first.iter().find(|message| message.tag == b'E').map(|error| error.field(b'C'));
            assert_eq!(refused.as_deref(), Some("55000"), "{setup}: {first:?}");
            one.query("begin");
            one.query("insert into log default values");
            assert_eq!(one.value("select lastval()"), (2 * drawn).to_string(), "{setup}");
            one.query("commit");
            // Whoever has asked keeps the connection until then.
            one.query("discard all");
        }
    }
}
