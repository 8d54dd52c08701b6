//! What no reset undoes: it never reaches the next client.

use super::script::{Findings, SESSION, Setup, TRANSACTION};
use crate::harness::protocol_client::{bind, execute, function_call, parse, query, sync, terminate};
use crate::harness::{Pgferry, Postgres, ProtocolClient, eventually};

const SETUPS: [Setup; 4] = [SESSION[0], SESSION[2], TRANSACTION[0], TRANSACTION[2]];

/// Runs `leaves` in a session that ends, and returns another one's view on the same pool.
fn next(ferry: &Pgferry, leaves: &[u8], shows: &str) -> String {
    let mut former = ferry.session();
    former.send(leaves);
    let answer = former.until_ready();
    assert!(answer.iter().all(|message| message.tag != b'E'), "{answer:?}");
    former.send(&terminate());
    former.read_to_end();
    let mut raw = ferry.session();
    let answer = raw.query(shows);
    let row = answer.iter().find(|message| message.tag == b'D');
    row.map_or_else(|| format!("{:?}", answer.first()), |row| row.columns().remove(0))
}

fn texts(sqls: &[&str]) -> Vec<(String, Vec<u8>)> {
    let simple = sqls.iter().map(|sql| ((*sql).to_owned(), query(sql)));
    let extended = sqls
        .iter()
        .filter(|sql| !sql.contains(';'))
        .map(|sql| (format!("{sql}, extended"), [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat()));
    simple.chain(extended).collect()
}

/// Runs each text under each setup; `leaked` says whether the next client's view is a leak.
fn check(postgres: &Postgres, leaves: &[(String, Vec<u8>)], shows: &str, leaked: impl Fn(&str) -> bool) {
    let mut findings = Findings::default();
    for setup in SETUPS {
        for (name, leaves) in leaves {
            let ferry = setup.start(postgres);
            let seen = next(&ferry, leaves, shows);
            if leaked(&seen) {
                findings.add(format!("{name}: the next client sees {seen} ({setup:?})"));
            }
            ferry.give_up();
        }
    }
    findings.report();
}

#[test]
fn seed_does_not_reach_the_next_client() {
    let postgres = Postgres::start_with(&[]);
    let mut direct = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    direct.query("select setseed(0.5)");
    let foretold = direct.value("select random()");
    let mut leaves = texts(&[
        "select setseed(0.5)",
        "SELECT SetSeed(0.5)",
        "select pg_catalog.setseed(0.5)",
        "select \"setseed\"(0.5)",
        "with s as (select setseed(0.5)) select * from s",
        "set seed = 0.5",
        "set session seed to 0.5",
        "set \"seed\" = 0.5",
        "select set_config('seed', '0.5', false)",
        "select pg_catalog.set_config('SEED', '0.5', false)",
        "select 1; select setseed(0.5)",
        "begin; select setseed(0.5); rollback",
        "begin; set local seed = 0.5; commit",
        "do $$ begin perform setseed(0.5); end $$",
        "update pg_settings set setting = '0.5' where name = 'seed'",
        "select setseed/**/(0.5)",
    ]);
    leaves.push((
        "a parameter".to_owned(),
        [parse("", "select setseed($1)"), bind("", "", &["0.5"]), execute("", 0), sync()].concat(),
    ));
    leaves.push((
        "the name of the setting is a parameter".to_owned(),
        [parse("", "select set_config($1, '0.5', false)"), bind("", "", &["seed"]), execute("", 0), sync()].concat(),
    ));
    leaves.push((
        "a text that is a parameter".to_owned(),
        [
            parse("", "select query_to_xml($1, true, true, '')"),
            bind("", "", &["select setseed(0.5)"]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    ));
    leaves.push(("setseed by its OID".to_owned(), function_call(1_599, &["0.5"])));
    leaves.push(("set_config by its OID".to_owned(), function_call(2_078, &["seed", "0.5", "f"])));
    check(&postgres, &leaves, "select random()", |seen| seen == foretold);
}

#[test]
fn dblink_connection_does_not_reach_the_next_client() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create extension dblink");
    let connection = format!("host=127.0.0.1 port={} user=trust_user dbname=other", postgres.port);
    let texts = texts(&[
        &format!("select dblink_connect('{connection}')"),
        &format!("select dblink_connect('named', '{connection}')"),
        &format!("select public.dblink_connect('named', '{connection}')"),
        &format!("select 1; select dblink_connect('named', '{connection}')"),
        &format!("do $$ begin perform dblink_connect('named', '{connection}'); end $$"),
        &format!("select \"dblink_connect\"('named', '{connection}')"),
        &format!("select dblink_connect_u('named', '{connection}')"),
    ]);
    check(&postgres, &texts, "select coalesce(dblink_get_connections()::text, 'none')", |seen| seen != "none");
    let unnamed =
        [(format!("dblink_connect('{connection}')"), query(&format!("select dblink_connect('{connection}')")))];
    check(&postgres, &unnamed, "select * from dblink('select current_database()::text') as t (d text)", |seen| {
        seen == "other"
    });
}

#[test]
fn weak_numbers_do_not_reach_the_next_client() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create extension isn");
    let texts = texts(&[
        "select isn_weak(true)",
        "select public.\"isn_weak\"(true)",
        "select 1; select Isn_Weak(true)",
        "do $$ begin perform isn_weak(true); end $$",
        "begin; select isn_weak(true); rollback",
    ]);
    check(&postgres, &texts, "select isn_weak()", |seen| seen != "f");
}

#[test]
fn temporary_replication_slot_does_not_stay() {
    let postgres = Postgres::start_with(&["wal_level=logical", "max_replication_slots=10"]);
    let leaves = texts(&[
        "select pg_create_physical_replication_slot('left_slot', false, true)",
        "select pg_create_physical_replication_slot('left_slot', temporary => true)",
        "select pg_create_logical_replication_slot('left_slot', 'pgoutput', true)",
        "select * from pg_catalog.pg_create_logical_replication_slot('left_slot', 'pgoutput', temporary := true)",
        "do $$ begin perform pg_create_physical_replication_slot('left_slot', false, true); end $$",
    ]);
    let mut findings = Findings::default();
    let mut aside = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    for setup in SETUPS {
        for (name, leaves) in &leaves {
            let ferry = setup.start(&postgres);
            next(&ferry, leaves, "select 1");
            // Directly it is gone with its session, at once.
            let deadline = std::time::Instant::now() + findings.patience();
            while aside.value("select count(*) from pg_replication_slots") != "0"
                && std::time::Instant::now() < deadline
            {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            if aside.value("select count(*) from pg_replication_slots") != "0" {
                findings.add(format!("{name}: the slot stays ({setup:?})"));
            }
            ferry.give_up();
            eventually("the slot is gone with pgferry", || {
                aside.value("select count(*) from pg_replication_slots") == "0"
            });
        }
    }
    findings.report();
}

#[test]
fn backup_that_was_begun_does_not_reach_the_next_client() {
    let postgres = Postgres::start_with(&["wal_level=replica"]);
    let start =
        if postgres.version() < 15 { "pg_start_backup('left', true, false)" } else { "pg_backup_start('left', true)" };
    let stop = if postgres.version() < 15 { "pg_stop_backup(false)" } else { "pg_backup_stop(false)" };
    let leaves = texts(&[
        &format!("select {start}"),
        &format!("select pg_catalog.{start}"),
        &format!("select 1; select {start}"),
        &format!("do $$ begin perform {start}; end $$"),
    ]);
    check(&postgres, &leaves, &format!("select 'stopped' from {stop}"), |seen| seen == "stopped");
}

#[test]
fn replication_origin_does_not_reach_the_next_client() {
    let postgres = Postgres::start_with(&["max_replication_slots=10"]);
    postgres.sql("select pg_replication_origin_create('left')");
    let leaves = texts(&[
        "select pg_replication_origin_session_setup('left')",
        "select pg_catalog.pg_replication_origin_session_setup('left')",
        "do $$ begin perform pg_replication_origin_session_setup('left'); end $$",
    ]);
    check(&postgres, &leaves, "select pg_replication_origin_session_is_setup()", |seen| seen != "f");
}

#[test]
fn advisory_locks_and_temporary_tables_do_not_reach_the_next_client() {
    let postgres = Postgres::start_with(&[]);
    let leaves = texts(&[
        "select pg_advisory_lock(7)",
        "select pg_try_advisory_lock_shared(7)",
        "do $$ begin perform pg_advisory_lock(7); end $$",
        "create temp table left_table (a int)",
        "select 1 as a into temp left_table",
        "create temporary view left_table as select 1",
        "declare left_cursor cursor with hold for select 1",
        "prepare left_statement as select 1",
        "load 'plpgsql'; create temp table left_table (a int)",
    ]);
    let shows = "select (select count(*) from pg_locks where locktype = 'advisory') + (select count(*) from pg_class where relname = 'left_table') \
        + (select count(*) from pg_cursors where name = 'left_cursor') + (select count(*) from pg_prepared_statements where name = 'left_statement')";
    check(&postgres, &leaves, shows, |seen| seen != "0");
}
