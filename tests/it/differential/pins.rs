//! Scripts for what keeps a client on its connection.

use super::protocol::{Script, each, one_by_one, run, with_probes};
use crate::harness::protocol_client::{parse, query, sync};

#[expect(clippy::too_many_lines, reason = "a table of scripts")]
pub fn pins() -> Vec<Script> {
    with_probes(vec![
        (
            "temporary tables",
            one_by_one(&[
                "create temp table tt (a int)",
                "insert into tt values (1)",
                "select a + 0 from tt",
                "drop table tt",
                "select 1",
                "select * from tt",
            ]),
        ),
        (
            "on commit drop",
            one_by_one(&[
                "begin; create temp table tt (a int) on commit drop",
                "insert into tt values (1)",
                "commit",
                "drop table if exists tt",
                "select 1",
            ]),
        ),
        (
            "a temporary table hides another",
            each(&[
                [parse("a", "select v from hidden"), sync()].concat(),
                run("a", &[]),
                query("create temp table hidden as select 'here' as v"),
                [parse("b", "select v from hidden"), sync()].concat(),
                run("b", &[]),
                query("drop table pg_temp.hidden"),
                run("a", &[]),
                run("b", &[]),
            ]),
        ),
        (
            "temporary views and functions",
            one_by_one(&[
                "create temp view tv as select 7",
                "select * from tv",
                "create function pg_temp.f() returns int language sql as 'select 8'",
                "select pg_temp.f()",
                "drop view tv",
                "select pg_temp.f()",
                "drop function pg_temp.f()",
                "select 1",
            ]),
        ),
        (
            "listening",
            one_by_one(&[
                "listen a",
                "listen b",
                "unlisten a",
                "notify b, 'x'",
                "unlisten *",
                "notify b, 'y'",
                "select 1",
            ]),
        ),
        (
            "listening, rolled back",
            one_by_one(&["begin; listen a", "rollback", "notify a", "unlisten *", "notify a", "select 1"]),
        ),
        (
            "sql's prepare",
            one_by_one(&[
                "prepare a as select 1",
                "prepare b as select 2",
                "execute a",
                "deallocate a",
                "execute b",
                "deallocate b",
                "execute b",
            ]),
        ),
        (
            "cursors with hold",
            one_by_one(&[
                "begin; declare c cursor with hold for select n from numbers order by n limit 3",
                "fetch 1 from c",
                "commit",
                "fetch 1 from c",
                "close c",
                "fetch 1 from c",
            ]),
        ),
        (
            "cursors without",
            one_by_one(&[
                "begin; declare c cursor for select n from numbers order by n limit 3",
                "fetch 1 from c",
                "commit",
                "fetch 1 from c",
            ]),
        ),
        (
            "session locks",
            one_by_one(&[
                "select pg_advisory_lock(77)",
                "select pg_advisory_lock(77)",
                "select pg_advisory_unlock(77)",
                "select 1",
                "select pg_advisory_unlock(77)",
                "select pg_advisory_unlock(77)",
            ]),
        ),
        (
            "locks by a prepared statement",
            each(&[
                [parse("lock", "select pg_advisory_lock($1)"), sync()].concat(),
                query("select 1"),
                run("lock", &["78"]),
                query("select pg_advisory_unlock(78)"),
                query("select pg_advisory_unlock_all()"),
            ]),
        ),
        (
            "roles",
            one_by_one(&[
                "set role limited",
                "select current_user, session_user",
                "select 1",
                "reset role",
                "select current_user",
                "set session authorization limited",
                "select current_user, session_user",
                "reset session authorization",
                "select 1",
            ]),
        ),
        (
            "local roles",
            one_by_one(&["begin; set local role limited", "select current_user", "commit", "select current_user"]),
        ),
        (
            "sequences in a transaction",
            one_by_one(&[
                "begin",
                "select nextval('in_a_transaction') > 0",
                "select currval('in_a_transaction') = lastval()",
                "commit",
                "select lastval() > 0",
            ]),
        ),
        (
            "do blocks",
            one_by_one(&[
                "do $$ begin perform set_config('a.b', 'x', false); end $$",
                "select coalesce(current_setting('a.b', true), '')",
            ]),
        ),
    ])
}
