//! Terminate and the end of what a client sends: all before it is carried out and answered, and nothing stays.

use super::script::{A, B, DEFAULTS, Script, compare, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::{
    bind, copy_data, copy_done, describe, execute, extended, flush, parse, query, sync, terminate,
};

/// Every connection to the server is idle or gone, and the table can be locked.
const NOTHING_STAYS: &str = "select count(*) from pg_stat_activity where backend_type = 'client backend' \
    and pid <> pg_backend_pid() and state <> 'idle'";

fn settled(script: Script) -> Script {
    script
        .eventually(NOTHING_STAYS, "0")
        .aside("begin; set local lock_timeout = '1s'; lock table left_rows; commit; select 'locked'")
        .aside("select count(*) from left_rows")
}

fn fresh(name: &str) -> Script {
    Script::new(name).aside("drop table if exists left_rows; create table left_rows (a int)")
}

#[test]
fn terminate_in_the_middle_of_copy_ends_the_session() {
    let postgres = Postgres::start_with(&[]);
    if postgres.sql("show server_version_num").parse::<u32>().expect("a number") < 140_000 {
        // There the session goes on.
        return;
    }
    let copy = || query("copy left_rows from stdin");
    let scripts = [
        fresh("without data").send(A, &[copy()]).until(A, b'G').leave(A),
        fresh("in one write").send(A, &[copy(), terminate()]).gone(A),
        fresh("behind data").send(A, &[copy(), copy_data(b"1\n")]).until(A, b'G').send(A, &[terminate()]).gone(A),
        fresh("behind much data")
            .send(A, &[copy(), copy_data(&b"1\n".repeat(50_000))])
            .until(A, b'G')
            .send(A, &[terminate()])
            .gone(A),
        fresh("in a transaction")
            .sql(A, "begin; insert into left_rows values (1)")
            .send(A, &[copy(), terminate()])
            .gone(A),
        fresh("extended").send(A, &[step("copy left_rows from stdin"), sync(), terminate()]).gone(A),
        fresh("extended with Flush").send(A, &[step("copy left_rows from stdin"), flush()]).until(A, b'G').leave(A),
        fresh("vanished").send(A, &[copy(), copy_data(b"1\n")]).until(A, b'G').vanish(A),
        fresh("half-closed").send(A, &[copy(), copy_data(b"1\n")]).until(A, b'G').half_close(A).gone(A),
        fresh("behind the end of the data").send(A, &[copy(), copy_data(b"1\n2\n"), copy_done(), terminate()]).end(A),
        fresh("in the middle of a row").send(A, &[copy(), copy_data(b"1\n2"), terminate()]).gone(A),
        fresh("COPY out")
            .send(A, &[query("copy (select generate_series(1, 300000)) to stdout")])
            .until(A, b'H')
            .vanish(A),
    ];
    compare(&postgres, &DEFAULTS, &scripts.map(settled));
}

#[test]
fn terminate_in_the_middle_of_copy_leaves_the_pool_to_others() {
    let postgres = Postgres::start_with(&[]);
    let gives_up = |script: Script| script.send(A, &[query("copy left_rows from stdin")]).until(A, b'G').leave(A);
    let script = settled(gives_up(gives_up(gives_up(fresh("three that give up")))).sql(B, "select 'served'"));
    compare(&postgres, &DEFAULTS, &[script]);
}

#[test]
fn terminate_behind_requests_in_one_write_leaves_their_answers() {
    let e = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let scripts = [
        Script::new("Flush").send(A, &[e("select 1"), flush(), terminate()]).end(A).vanish(A).again(30),
        Script::new("no Flush").send(A, &[e("select 1"), terminate()]).end(A).vanish(A).again(10),
        Script::new("Sync").send(A, &[e("select 1"), sync(), terminate()]).end(A).vanish(A).again(10),
        Script::new("a query").send(A, &[query("select 1"), terminate()]).end(A).vanish(A).again(10),
        Script::new("two queries")
            .send(A, &[query("select 1"), query("select 2"), terminate()])
            .end(A)
            .vanish(A)
            .again(10),
        Script::new("a query that fails").send(A, &[query("select 1/0"), terminate()]).end(A).vanish(A).again(10),
        Script::new("Describe and Flush")
            .send(A, &[parse("", "select 1"), describe(b'S', ""), flush(), terminate()])
            .end(A)
            .vanish(A)
            .again(10),
        Script::new("Flush behind an error")
            .send(A, &[e("select 1/0"), flush(), terminate()])
            .end(A)
            .vanish(A)
            .again(10),
        Script::new("Sync, and Flush")
            .send(A, &[e("select 1"), sync(), e("select 2"), flush(), terminate()])
            .end(A)
            .vanish(A)
            .again(10),
        Script::new("a setting")
            .send(A, &[query("set a.b = 'c'"), e("show a.b"), flush(), terminate()])
            .end(A)
            .vanish(A)
            .again(10),
    ]
    .map(|script| script.aside("select 'nothing else'"));
    compare(&Postgres::start_with(&[]), &DEFAULTS, &scripts);
}

#[test]
fn terminate_behind_flush_leaves_the_answers_of_every_client() {
    let mut script = fresh("many clients");
    for nth in 0..60 {
        let sql = format!("insert into left_rows values ({nth}) returning a");
        script = script.send(A, &[step(&sql), flush(), terminate()]).end(A).vanish(A);
    }
    compare(&Postgres::start_with(&[]), &DEFAULTS, &[settled(script)]);
}

#[test]
fn terminate_lets_what_is_before_it_be_carried_out() {
    let insert = || query("insert into left_rows values (1)");
    let scripts = [
        fresh("a query").send(A, &[insert(), terminate()]).end(A),
        fresh("many queries").send(A, &[insert().repeat(200), terminate()]).end(A),
        fresh("a transaction that is committed")
            .send(A, &[query("begin"), insert(), query("commit"), terminate()])
            .end(A),
        fresh("a transaction that is not").send(A, &[query("begin"), insert(), terminate()]).end(A),
        fresh("extended without Sync").send(A, &[step("insert into left_rows values (1)"), terminate()]).end(A),
        fresh("extended with Flush").send(A, &[step("insert into left_rows values (1)"), flush(), terminate()]).end(A),
        fresh("extended with Sync").send(A, &[step("insert into left_rows values (1)"), sync(), terminate()]).end(A),
        fresh("slow ones")
            .send(A, &[query("insert into left_rows select 1 from pg_sleep(0.3)"), insert(), terminate()])
            .end(A),
    ];
    compare(&Postgres::start_with(&[]), &DEFAULTS, &scripts.map(settled));
}

#[test]
fn half_closed_client_gets_its_answers() {
    let scripts = [
        fresh("a query").send(A, &[query("select 1")]).half_close(A).end(A),
        fresh("a slow query").send(A, &[query("select 1 from pg_sleep(0.3)")]).half_close(A).end(A),
        fresh("several")
            .send(A, &[query("select 1"), query("insert into left_rows values (1)"), query("select 3")])
            .half_close(A)
            .end(A),
        fresh("an extended query").send(A, &[extended("select 1", &[])]).half_close(A).end(A),
        fresh("Flush").send(A, &[step("select 1"), flush()]).half_close(A).end(A),
        fresh("much").send(A, &[query("select repeat('x', 100) from generate_series(1, 5000)")]).half_close(A).end(A),
        fresh("COPY with its data")
            .send(A, &[query("copy left_rows from stdin"), copy_data(b"1\n"), copy_done()])
            .half_close(A)
            .end(A),
        fresh("a transaction")
            .send(A, &[query("begin"), query("insert into left_rows values (1)")])
            .half_close(A)
            .end(A),
        fresh("a setting").send(A, &[query("set a.b = 'c'"), query("show a.b")]).half_close(A).end(A),
        fresh("idle").sql(A, "select 1").half_close(A).end(A),
        fresh("half a message").send(A, &[query("select 1"), query("select 2")[..7].to_vec()]).half_close(A).end(A),
        fresh("an error").send(A, &[query("select 1/0")]).half_close(A).end(A),
    ];
    compare(&Postgres::start_with(&[]), &DEFAULTS, &scripts.map(settled));
}

/// The server keeps answers back until a Sync or a Flush, but says at once what has failed.
#[test]
fn client_that_leaves_in_front_of_its_sync_gets_the_error_of_what_it_has_sent() {
    let fails = || step("select 1/0");
    let inserts = || step("insert into left_rows values (1)");
    let scripts = [
        fresh("a text with an error").send(A, &[parse("", "bogus"), terminate()]).end(A),
        fresh("half-closed").send(A, &[parse("", "bogus")]).half_close(A).end(A),
        fresh("behind something that works").send(A, &[inserts(), fails(), terminate()]).end(A),
        fresh("behind something that works, half-closed")
            .send(A, &[inserts(), fails(), inserts()])
            .half_close(A)
            .end(A),
        fresh("behind a Flush").send(A, &[step("select 1"), flush(), inserts(), fails()]).half_close(A).end(A),
        fresh("behind a query")
            .send(A, &[query("select 1"), parse("n", "select 1"), bind("", "no", &[])])
            .half_close(A)
            .end(A),
        fresh("no error").send(A, &[query("select 1"), inserts(), execute("", 0)]).half_close(A).end(A),
        fresh("half a row")
            .send(A, &[step("select repeat('x', 10000) from generate_series(1, 20)")])
            .half_close(A)
            .end(A),
        fresh("half a row, and Terminate")
            .send(A, &[step("select repeat('x', 10000) from generate_series(1, 20)"), terminate()])
            .end(A),
        fresh("a commit").send(A, &[query("begin"), inserts(), step("commit"), fails()]).half_close(A).end(A),
        fresh("a COPY")
            .send(A, &[step("copy left_rows from stdin"), copy_data(b"x\n"), copy_done()])
            .half_close(A)
            .end(A),
    ];
    compare(&Postgres::start_with(&[]), &DEFAULTS, &scripts.map(settled));
}
