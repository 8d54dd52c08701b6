//! lastval() and currval(): a client's own number, or an error, never another client's.

use super::script::{Findings, SESSION, Setup, TRANSACTION};
use crate::harness::protocol_client::tags;
use crate::harness::{Pgferry, Postgres, ProtocolClient, eventually};

const HARMLESS: [&str; 5] =
    ["select 1", "set a.b = 'c'", "begin; commit", "show work_mem", "create temp table t (a int); drop table t"];

const DRAWS: [&str; 5] = [
    "select nextval('drawn')",
    "insert into serials default values",
    "select setval('drawn', 77)",
    "insert into serials default values returning id",
    "select 1; insert into serials default values; select 2",
];

fn is_refused(raw: &mut ProtocolClient, sql: &str) -> bool {
    tags(&raw.query(sql)).contains('E')
}

fn foreign_numbers(setup: Setup, ferry: &Pgferry, findings: &mut Findings) {
    for draws in DRAWS {
        for harmless in HARMLESS {
            for looks in [
                "select lastval()",
                "select currval('drawn')",
                "select currval('serials_id_seq')",
                "select 1; select lastval()",
            ] {
                let (mut one, mut two) = (ferry.session(), ferry.session());
                one.query(draws);
                if setup.mode == "session" {
                    one.send(&crate::harness::protocol_client::terminate());
                    one.read_to_end();
                }
                two.query(harmless);
                if !is_refused(&mut two, looks) {
                    findings.add(format!("{draws}, then {harmless}, then {looks}: another client's number, {setup:?}"));
                }
            }
        }
    }
}

#[test]
fn sequence_numbers_of_another_client_are_out_of_reach() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create sequence drawn; create table serials (id serial)");
    let mut findings = Findings::default();
    for setup in [SESSION[0], SESSION[2], TRANSACTION[0], TRANSACTION[2], TRANSACTION[4]] {
        // A client that keeps the only connection is as good as a refusal.
        let ferry = setup.start_with(&postgres.url(), &[("PGFERRY_QUERY_WAIT_TIMEOUT", "100ms")]);
        foreign_numbers(setup, &ferry, &mut findings);
        ferry.give_up();
    }
    findings.report();
}

/// A number of one's own is right, or it is refused: pgferry says so where it can't know.
#[test]
fn sequence_numbers_of_ones_own_are_right_or_refused() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create sequence drawn; create table serials (id serial)");
    let mut findings = Findings::default();
    for setup in [SESSION[1], SESSION[3], TRANSACTION[1], TRANSACTION[3], TRANSACTION[5]] {
        let ferry = setup.start(&postgres);
        let (mut one, mut two) = (ferry.session(), ferry.session());
        for _ in 0..20 {
            for between in HARMLESS {
                let mine = one.value("insert into serials default values returning id");
                two.query("insert into serials default values");
                two.query(between);
                let answer = one.query("select lastval()");
                let row = answer.iter().find(|message| message.tag == b'D').map(|row| row.columns().remove(0));
                if row.is_some_and(|row| row != mine) {
                    findings.add(format!("another client's number, after {between}, {setup:?}"));
                }
                if setup.mode == "session" && tags(&answer).contains('E') {
                    findings.add(format!("refused in session mode, {setup:?}: {answer:?}"));
                }
                one.query("discard all");
            }
        }
        ferry.give_up();
    }
    findings.report();
}

/// What a sequence has given a connection in advance is not its next number any more once the client has set it elsewhere.
#[test]
fn numbers_that_were_given_in_advance_are_not_used_behind_work_elsewhere() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create sequence cached cache 10; create table rows (id int default nextval('cached')); \
        create function drawn() returns bigint language sql as $$ select nextval('cached') $$",
    );
    for reset in ["auto", "on_change", "always"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "2", "--reset", reset]);
        let draws = ["select nextval('cached')", "insert into rows values (default) returning id", "select drawn()"];
        for draw in draws.iter().take(if reset == "on_change" { 2 } else { 3 }) {
            let (mut one, mut other, mut third) = (ferry.session(), ferry.session(), ferry.session());
            let backend = |client: &mut ProtocolClient| client.value("select pg_backend_pid()");
            other.query("begin; select 1");
            one.value(draw);
            let first = backend(&mut one);
            other.query("commit");
            eventually("a transaction on the other connection", || backend(&mut one) != first);
            one.query("select setval('cached', 1000)");
            third.query("begin; select 1");
            assert_eq!(backend(&mut one), first, "{reset}");
            assert_eq!(one.value(draw), "1001", "{reset}: {draw}");
            third.query("commit");
        }
        ferry.give_up();
    }
}

/// A function with one argument can be called as if it were a field of that.
#[test]
fn functions_that_are_called_as_fields_leave_nothing_to_others() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create sequence drawn");
    for reset in ["auto", "on_change", "always"] {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
        let (mut one, mut other) = (ferry.session(), ferry.session());
        one.value("select ('drawn'::regclass).nextval");
        for asks in ["select lastval()", "select ('drawn'::regclass).currval"] {
            assert!(is_refused(&mut other, asks), "{reset}: {asks}");
        }
        one.query("select (7::bigint).pg_advisory_lock");
        drop(one);
        let locks = "select count(*) from pg_locks where locktype = 'advisory'";
        assert_eq!(other.value(locks), "0", "{reset}: a client's lock is gone with it");
    }
}
