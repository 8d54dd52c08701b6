//! With `reset = "auto"`, the default, what code inside the database leaves in a session never reaches the next client, and sessions
//! are left alone in a database without such code.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::protocol_client::{bind, execute, parse, sync};
use crate::harness::{Pgferry, Postgres, ProtocolClient, eventually};

/// A way in which code leaves something in a session.
struct Way {
    name: &'static str,
    /// What the database holds before anybody comes through pgferry.
    setup: &'static str,
    /// What a client says, one after another.
    leaves: &'static [&'static str],
    /// What makes the database as it was before the client came.
    undo: &'static str,
}

const fn way(name: &'static str, setup: &'static str, leaves: &'static [&'static str]) -> Way {
    Way { name, setup, leaves, undo: "" }
}

/// One in which the client makes the code itself.
const fn made(name: &'static str, setup: &'static str, leaves: &'static [&'static str], undo: &'static str) -> Way {
    Way { name, setup, leaves, undo }
}

/// A function `leave()` in PL/pgSQL with this body.
macro_rules! plpgsql {
    ($($body:literal),+) => {
        concat!("create function leave() returns void language plpgsql as $body$ begin ", $($body,)+ "; end $body$")
    };
}

/// A function `leave()` in SQL with this body.
macro_rules! sql {
    ($body:literal) => {
        concat!("create function leave() returns void language sql as $body$ ", $body, " $body$")
    };
}

/// A function `leaves(int)` that leaves something and returns its argument; it is said to be immutable, which nothing checks.
macro_rules! returns {
    ($then:literal) => {
        concat!(
            "create function leaves(a int) returns int immutable language plpgsql as $body$ \
             begin perform set_config('work_mem', '77MB', false); return a; end $body$; ",
            $then
        )
    };
}

/// A trigger function `leaves()`.
macro_rules! trigger {
    ($then:literal) => {
        concat!(
            "create table t (a int); create table u (a int); insert into t values (1); \
             create function leaves() returns trigger language plpgsql as $body$ \
             begin set work_mem = '77MB'; return new; end $body$; ",
            $then
        )
    };
}

const CALL: &[&str] = &["select leave()"];

const IN_FUNCTIONS: &[Way] = &[
    way("set", plpgsql!("set work_mem = '77MB'"), CALL),
    way("set behind a comment", plpgsql!("/* update t */ SET -- update\n work_mem = '77MB'"), CALL),
    way(
        "set behind an update",
        plpgsql!("update pg_class set relname = relname where false; set work_mem = '77MB'"),
        CALL,
    ),
    way(
        "set in a branch",
        plpgsql!("if exists (select from pg_class for update) then set work_mem = '77MB'; end if"),
        CALL,
    ),
    way(
        "set to default",
        "alter database :db set work_mem = '9MB'; create function leave() returns void language plpgsql as 'begin set work_mem to default; set app.tenant = 1; end'",
        CALL,
    ),
    way("a custom setting named local", plpgsql!("set local.x = 1; set app.tenant = 5"), CALL),
    way("set_config", plpgsql!("perform set_config('work_mem', '77MB', false)"), CALL),
    way(
        "set_config in quotes, with blanks",
        plpgsql!("perform pg_catalog . /* x */ \"set_config\" ('work_mem', '77MB', false)"),
        CALL,
    ),
    way("set_config in Unicode", plpgsql!("perform U&\"set\\005fconfig\"('work_mem', '77MB', false)"), CALL),
    way(
        "set_config with a variable",
        plpgsql!("perform set_config('work_mem', '77MB', current_setting('jit') = 'never')"),
        CALL,
    ),
    way(
        "set_config in an expression",
        plpgsql!("if set_config('work_mem', '77MB', false) is null then return; end if"),
        CALL,
    ),
    way(
        "set_config in SQL",
        "create function leave() returns text language sql as $$ select set_config('work_mem', '77MB', false) $$",
        CALL,
    ),
    way(
        "set_config in a body of SQL's own form",
        "create function leave() returns text begin atomic select set_config('work_mem', '77MB', false); end",
        CALL,
    ),
    way(
        "set_config in a RETURN",
        "create function leave() returns text return set_config('work_mem', '77MB', false)",
        CALL,
    ),
    way(
        "set_config in an argument's default",
        "create function leave(a text default set_config('work_mem', '77MB', false)) returns text language sql as 'select a'",
        CALL,
    ),
    way("update pg_settings", plpgsql!("update pg_settings set setting = '78848' where name = 'work_mem'"), CALL),
    way("set in SQL", sql!("set work_mem = '77MB'; select null::void"), CALL),
    way("execute", plpgsql!("execute 'set work_mem = ''77MB'''"), CALL),
    way("execute with format", plpgsql!("execute format('s%s work_mem = %L', 'et', '77MB')"), CALL),
    way(
        "a loop over execute",
        plpgsql!(
            "declare r record; begin for r in execute 'select set_c'||'onfig(''work_mem'',''77MB'',false)' loop null; end loop; end"
        ),
        CALL,
    ),
    way(
        "a cursor for execute",
        plpgsql!(
            "declare c refcursor; r record; begin open c for execute 'select set_c'||'onfig(''work_mem'',''77MB'',false)'; fetch c into r; end"
        ),
        CALL,
    ),
    way(
        "return query execute",
        "create function leave() returns setof text language plpgsql as $$ begin return query execute 'select set_c'||'onfig(''work_mem'',''77MB'',false)'; end $$",
        CALL,
    ),
    way(
        "query_to_xml",
        plpgsql!("perform query_to_xml('select set_c'||'onfig(''work_mem'',''77MB'',false)', true, true, '')"),
        CALL,
    ),
    way("a temporary table", plpgsql!("create temp table leftover (a int)"), CALL),
    way("a temporary view in SQL", sql!("create temporary view leftover as select 1; select null::void"), CALL),
    way("a table by select into temp", sql!("select 1 as a into temp leftover; select null::void"), CALL),
    way(
        "a table by search_path",
        "create function leave() returns void language sql set search_path = pg_temp as 'create table leftover (a int); select null::void'",
        CALL,
    ),
    way(
        "a table by search_path and select into",
        "create function leave() returns void language sql set search_path = pg_temp as 'select 1 as a into leftover; select null::void'",
        CALL,
    ),
    way("a lock", plpgsql!("perform pg_advisory_lock(42)"), CALL),
    way(
        "a lock that is tried, in SQL",
        "create function leave() returns bool language sql as 'select pg_try_advisory_lock_shared(1, 2)'",
        CALL,
    ),
    way("listen in SQL", sql!("listen leftover; select null::void"), CALL),
    way("listen by execute", plpgsql!("execute 'listen leftover'"), CALL),
    way("prepare in SQL", sql!("prepare leftover as select 1; select null::void"), CALL),
    way("a cursor with hold", sql!("declare leftover cursor with hold for select 1; select null::void"), CALL),
    way("set role", plpgsql!("set role limited"), CALL),
    way("set session authorization", plpgsql!("set session authorization limited"), CALL),
    way(
        "security definer",
        "create function leave() returns void security definer language plpgsql as $$ begin set work_mem = '77MB'; end $$",
        CALL,
    ),
    way(
        "a function with settings of its own",
        "create function leave() returns void language plpgsql set jit = off as $$ begin set work_mem = '77MB'; end $$",
        CALL,
    ),
    way(
        "a function that calls another",
        "create function inner_one() returns void language plpgsql as $$ begin set work_mem = '77MB'; end $$; create function leave() returns void language sql as 'select inner_one()'",
        CALL,
    ),
    way(
        "a procedure",
        "create procedure leave() language plpgsql as $$ begin set work_mem = '77MB'; commit; end $$",
        &["call leave()"],
    ),
    way(
        "an exception's handler",
        plpgsql!("perform 1/0; exception when division_by_zero then set work_mem = '77MB'"),
        CALL,
    ),
    way(
        "a body with backslashes",
        "create function leave() returns void language plpgsql as $$ declare a text; begin a := 'x\\'; set work_mem = '77MB'; a := 'y'; end $$",
        CALL,
    ),
    way(
        "a body with backslashes that escape",
        "create function leave() returns void language plpgsql set standard_conforming_strings = off as $$ declare a text; begin a := 'x\\''; set work_mem = 78848; a := 'y'; end $$",
        CALL,
    ),
];

const BY_OTHER_OBJECTS: &[Way] = &[
    way(
        "a row's trigger",
        trigger!("create trigger x before insert on t for each row execute function leaves()"),
        &["insert into t values (2)"],
    ),
    way(
        "a statement's trigger",
        trigger!("create trigger x after delete on t execute function leaves()"),
        &["delete from t where a = 9"],
    ),
    way(
        "a trigger for truncate",
        trigger!("create trigger x after truncate on u execute function leaves()"),
        &["truncate u"],
    ),
    way(
        "a trigger in place of a view",
        trigger!(
            "create view v as select * from t; create trigger x instead of update on v for each row execute function leaves()"
        ),
        &["update v set a = 2"],
    ),
    way(
        "a trigger's condition",
        "create table t (a int); insert into t values (1); create trigger x before update on t for each row when (set_config('work_mem', '77MB', false) is not null) execute function suppress_redundant_updates_trigger()",
        &["update t set a = 2"],
    ),
    way(
        "a constraint's trigger",
        trigger!(
            "create constraint trigger x after insert on t deferrable initially deferred for each row execute function leaves()"
        ),
        &["insert into t values (2)"],
    ),
    way("a view", "create view v as select set_config('work_mem', '77MB', false)", &["select * from v"]),
    way(
        "a view of a lock",
        "create view v as select pg_try_advisory_lock(a) from generate_series(1, 3) a",
        &["select * from v"],
    ),
    way(
        "a view in a view",
        "create view w as select set_config('work_mem', '77MB', false); create view v as select * from w",
        &["select * from v"],
    ),
    way(
        "a view of settings",
        "create view v as select * from pg_settings",
        &["update v set setting = '78848' where name = 'work_mem'"],
    ),
    way(
        "a view of a view of settings",
        "create view w as select * from pg_settings; create view v as select * from w",
        &["update v set setting = '78848' where name = 'work_mem'"],
    ),
    way(
        "a materialized view",
        "create materialized view v as select pg_try_advisory_lock(42) with no data",
        &["refresh materialized view v"],
    ),
    way(
        "a rule",
        "create table t (a int); create rule r as on insert to t do also select set_config('work_mem', '77MB', false)",
        &["insert into t values (1)"],
    ),
    way(
        "a rule's condition",
        "create table t (a int); insert into t values (1); create rule r as on delete to t where set_config('work_mem', '77MB', false) is null do instead nothing",
        &["delete from t"],
    ),
    way(
        "a default",
        "create table t (a text default set_config('work_mem', '77MB', false))",
        &["insert into t default values"],
    ),
    way(
        "a default of a lock",
        "create table t (a int, b bool default pg_try_advisory_lock(7))",
        &["insert into t (a) values (1)"],
    ),
    way(
        "a check",
        "create table t (a text check (set_config('work_mem', a, false) is not null))",
        &["insert into t values ('77MB')"],
    ),
    way(
        "a domain's check",
        "create domain d as text check (set_config('work_mem', value, false) is not null)",
        &["select '77MB'::d"],
    ),
    way(
        "a domain's default",
        "create domain d as text default set_config('work_mem', '77MB', false); create table t (a int, b d)",
        &["insert into t (a) values (1)"],
    ),
    way(
        "a generated column",
        returns!("create table t (a int, b int generated always as (leaves(a)) stored)"),
        &["insert into t (a) values (1)"],
    ),
    way("an index", returns!("create table t (a int); create index on t (leaves(a))"), &["insert into t values (1)"]),
    way(
        "an index's condition",
        returns!("create table t (a int); create index on t (a) where leaves(a) > 0"),
        &["insert into t values (1)"],
    ),
    way(
        "an exclusion",
        returns!("create table t (a int); alter table t add exclude (leaves(a) with =)"),
        &["insert into t select count(*) from t"],
    ),
    way(
        "partitions",
        returns!(
            "create table t (a int) partition by range (leaves(a)); create table p partition of t for values from (0) to (9)"
        ),
        &["insert into t values (1)"],
    ),
    way(
        "statistics",
        "create function leaves(a int) returns int immutable language sql as 'select 1 from pg_advisory_lock(42)'; create table t (a int); insert into t select generate_series(1, 100); create statistics s on (leaves(a)), a from t",
        &["analyze t"],
    ),
    way(
        "a policy",
        "create table t (a int); insert into t values (1); alter table t enable row level security; create policy p on t using (set_config('work_mem', '77MB', false) is not null); grant select on t to limited; create function leave() returns bigint security definer language sql as 'select count(*) from t'; alter function leave() owner to limited",
        CALL,
    ),
    way(
        "a cast",
        "create type pair as (a int, b int); create function leaves(pair) returns text language plpgsql as $$ begin set work_mem = '77MB'; return 'x'; end $$; create cast (pair as text) with function leaves(pair)",
        &["select row(1, 2)::pair::text"],
    ),
    way(
        "a cast by the server's own function",
        "create cast (bigint as boolean) with function pg_try_advisory_lock(bigint)",
        &["select 7::bigint::boolean"],
    ),
    way(
        "an operator",
        "create operator @@@ (rightarg = bigint, function = pg_try_advisory_lock)",
        &["select @@@ 7::bigint"],
    ),
    way(
        "an operator with two arguments",
        "create operator <@@> (leftarg = int, rightarg = int, function = pg_advisory_lock)",
        &["select 1 <@@> 2"],
    ),
    way(
        "an aggregate",
        "create aggregate leaves(text, boolean) (sfunc = set_config, stype = text, initcond = 'work_mem')",
        &["select leaves('77MB', false)"],
    ),
    way(
        "an aggregate's last function",
        "create function finish(text) returns text language plpgsql as $$ begin set work_mem = '77MB'; return 'x'; end $$; create aggregate leaves(text) (sfunc = textcat, stype = text, finalfunc = finish)",
        &["select leaves('x')"],
    ),
    way(
        "another name of the server's own function",
        "create function harmless(bigint) returns void immutable language internal as 'pg_advisory_lock_int8'",
        &["select harmless(7)"],
    ),
    way(
        "another name of set_config",
        "create function harmless(text, text, boolean) returns text immutable language internal as 'set_config_by_name'",
        &["select harmless('work_mem', '77MB', false)"],
    ),
    // Those in C can't be: the server finds them by their numbers.
    way(
        "a function of the server's own that was replaced",
        "create or replace function pg_catalog.lpad(text, int) returns text immutable strict language plpgsql as $$ begin return set_config('work_mem', '77MB', false); end $$",
        &["select lpad('x', 5)"],
    ),
    way(
        "a function of the server's own that is another one now",
        "create or replace function pg_catalog.date_part(text, date) returns double precision immutable strict language sql as $$ select 1.0 from pg_advisory_lock(42) $$",
        &["select date_part('year', date '2020-01-01')"],
    ),
    way(
        "set_config that says it is stable",
        "alter function set_config(text, text, boolean) stable; create view v as select set_config('work_mem', '77MB', false)",
        &["select * from v"],
    ),
    way(
        "a function in front of the server's own",
        "create function public.now() returns text language plpgsql as $$ begin set work_mem = '77MB'; return 'x'; end $$",
        &["set search_path = public, pg_catalog", "select now()", "set search_path to default"],
    ),
    way(
        "an operator in front of the server's own",
        "create function public.plus(int, int) returns int language plpgsql as $$ begin set work_mem = '77MB'; return 1; end $$; create operator public.+ (leftarg = int, rightarg = int, function = public.plus)",
        &["set search_path = public, pg_catalog", "select 1 + 1", "set search_path to default"],
    ),
    way(
        "an event trigger",
        "create function leaves() returns event_trigger language plpgsql as $$ begin set work_mem = '77MB'; end $$; create event trigger x on ddl_command_end execute function leaves()",
        &["comment on schema public is 'x'"],
    ),
    way(
        "an event trigger for drop",
        "create table t (a int); create function leaves() returns event_trigger language plpgsql as $$ begin set work_mem = '77MB'; end $$; create event trigger x on sql_drop execute function leaves()",
        &["drop table if exists t", "create table if not exists t (a int)"],
    ),
];

const BY_LANGUAGES_AND_EXTENSIONS: &[Way] = &[
    way(
        "PL/Perl",
        "create extension plperl; create function leave() returns void language plperl as $$ spi_exec_query(\"select set_c\".\"onfig('work_mem', '77MB', false)\"); $$",
        CALL,
    ),
    way(
        "untrusted PL/Perl",
        "create extension plperlu; create function leave() returns void language plperlu as $$ spi_exec_query('create temp table leftover (a int)'); $$",
        CALL,
    ),
    way(
        "PL/Python",
        "create extension plpython3u; create function leave() returns void language plpython3u as $$ plpy.execute('set work_mem = ' + \"'77MB'\") $$",
        CALL,
    ),
    way(
        "PL/Tcl",
        "create extension pltcl; create function leave() returns int language pltcl as $$ spi_exec \"select pg_advisory_lock(42)\"; return 1 $$",
        CALL,
    ),
    way(
        "a trigger in PL/Perl",
        "create extension plperl; create table t (a int); create function leaves() returns trigger language plperl as $$ spi_exec_query(\"set work_mem = '77MB'\"); return; $$; create trigger x before insert on t for each row execute function leaves()",
        &["insert into t values (1)"],
    ),
    way(
        "an event trigger in PL/Tcl",
        "create extension pltcl; create function leaves() returns event_trigger language pltcl as $$ spi_exec \"set work_mem = '77MB'\" $$; create event trigger x on ddl_command_end execute function leaves()",
        &["comment on schema public is 'x'"],
    ),
    way(
        "another language by the name of a known handler",
        "create extension plperl; create language fine handler plperl_call_handler; create function leave() returns void language fine as $$ spi_exec_query(\"set work_mem = '77MB'\"); $$",
        CALL,
    ),
    way(
        "tablefunc",
        "create extension tablefunc",
        &[
            "select * from crosstab('select set_c' || 'onfig(''work_mem'', ''77MB'', false), ''x'', ''y''') as c(a text, b text)",
        ],
    ),
    way(
        "xml2",
        "create extension xml2; create table x (a int, b text); insert into x values (1, '<a/>')",
        &[
            "select * from xpath_table('a', 'b', 'x', '/a', 'set_c' || 'onfig(''work_mem'', ''77MB'', false) is not null') as t(a int, b text)",
        ],
    ),
    way("pg_trgm's set_limit", "create extension pg_trgm", &["select set_limit(0.77)"]),
    way(
        "pg_trgm's set_limit in a function",
        "create extension pg_trgm; create function leave() returns real language sql as 'select set_limit(0.77)'",
        CALL,
    ),
    way(
        "pg_trgm's set_limit by another name",
        "create extension pg_trgm; create function harmless(real) returns real immutable language c as '$libdir/pg_trgm', 'set_limit'",
        &["select harmless(0.77)"],
    ),
    way(
        "a view of pg_trgm's set_limit",
        "create extension pg_trgm; create view v as select set_limit(0.77)",
        &["select * from v"],
    ),
    way(
        "autoinc, behind a text",
        "create extension autoinc; create sequence s; create table t (a int, b text default set_config('work_mem', '77MB', false)); create trigger x before insert on t for each row execute function autoinc(a, s)",
        &["insert into t (a) values (0)"],
    ),
];

const BY_STATEMENTS: &[Way] = &[
    way(
        "query_to_xml",
        "",
        &["select query_to_xml('select set_c' || 'onfig(''work_mem'', ''77MB'', false)', true, true, '')"],
    ),
    way(
        "query_to_xml_and_xmlschema",
        "",
        &[
            "select query_to_xml_and_xmlschema('select set_c' || 'onfig(''work_mem'', ''77MB'', false)', true, true, '')",
        ],
    ),
    way(
        "ts_stat",
        "",
        &["select * from ts_stat('select to_tsvector(set_c' || 'onfig(''work_mem'', ''77MB'', false))')"],
    ),
    way(
        "ts_rewrite",
        "",
        &[
            "select ts_rewrite('a & b'::tsquery, 'select ''a''::tsquery, to_tsquery(set_c' || 'onfig(''work_mem'', ''77MB'', false))')",
        ],
    ),
    way("do", "", &["do $$ begin execute 'set work_m' || 'em = ''77MB'''; end $$"]),
    made(
        "a function of one transaction",
        "",
        &[
            "begin",
            plpgsql!("execute 'set work_m' || 'em = ''77MB'''"),
            "select leave()",
            "drop function leave()",
            "commit",
        ],
        "",
    ),
    made(
        "a function that is rolled back",
        "",
        &["begin", plpgsql!("execute 'select pg_advis' || 'ory_lock(42)'"), "select leave()", "rollback"],
        "",
    ),
    made(
        "a function in one text",
        "",
        &[
            "create function leave() returns void language plpgsql as 'begin execute ''set work_m'' || ''em = ''''77MB''''''; end'; select leave(); drop function leave()",
        ],
        "",
    ),
    made(
        "a function that is there and gone",
        "",
        &[plpgsql!("execute 'set work_m' || 'em = ''77MB'''"), "select leave()", "drop function leave()"],
        "",
    ),
    made(
        "a function that stays",
        "",
        &[plpgsql!("execute 'set work_m' || 'em = ''77MB'''"), "select leave()"],
        "drop function if exists leave()",
    ),
    made(
        "a function that was harmless",
        plpgsql!("null"),
        &[
            "create or replace function leave() returns void language plpgsql as $$ begin execute 'set work_m' || 'em = ''77MB'''; end $$",
            "select leave()",
        ],
        "create or replace function leave() returns void language plpgsql as 'begin null; end'",
    ),
    made(
        "a default that is changed",
        "create table t (a int, b bool)",
        &["alter table t alter b set default pg_try_advisory_lock(42)", "insert into t (a) values (1)"],
        "alter table t alter b drop default",
    ),
    made(
        "a view",
        "",
        &["create view v as select pg_try_advisory_lock(42)", "select * from v"],
        "drop view if exists v",
    ),
    made(
        "a rule",
        "create table t (a int)",
        &[
            "create or replace rule r as on insert to t do also select pg_try_advisory_lock(42)",
            "insert into t values (1)",
        ],
        "drop rule if exists r on t",
    ),
    made(
        "a schema and what is in it",
        "",
        &["create schema s create view v as select pg_try_advisory_lock(42)", "select * from s.v"],
        "drop schema if exists s cascade",
    ),
    made(
        "a trigger on a function that is there",
        "create table t (a int); create function leaves() returns trigger language plpgsql as 'begin return null; end'",
        &[
            "create or replace function leaves() returns trigger language plpgsql as $$ begin execute 'set work_m' || 'em = ''77MB'''; return new; end $$",
            "create trigger x before insert on t for each row execute function leaves()",
            "insert into t values (1)",
        ],
        "drop trigger if exists x on t; create or replace function leaves() returns trigger language plpgsql as 'begin return null; end'",
    ),
    made(
        "an extension",
        "",
        &["create extension pg_trgm", "select \"set_limit\"(0.77)"],
        "drop extension if exists pg_trgm",
    ),
    made(
        "a prepared transaction",
        "",
        &[
            "begin",
            "create function leave() returns void language plpgsql as 'begin execute ''set work_m'' || ''em = ''''77MB''''''; end'",
            "prepare transaction 'x'",
            "commit prepared 'x'",
            "select leave()",
        ],
        "drop function if exists leave()",
    ),
    made("a table by search_path", "", &["set search_path = pg_temp", "select 1 as a into leftover"], ""),
    made(
        "a table by search_path, created",
        "",
        &["set search_path = pg_temp, public", "create table leftover as select 1 as a"],
        "",
    ),
    made(
        "an event trigger",
        "create function leaves() returns event_trigger language plpgsql as 'begin null; end'",
        &[
            "create or replace function leaves() returns event_trigger language plpgsql as $$ begin execute 'set work_m' || 'em = ''77MB'''; end $$",
            "create event trigger x on ddl_command_end execute function leaves()",
            "comment on schema public is 'x'",
        ],
        "drop event trigger if exists x; create or replace function leaves() returns event_trigger language plpgsql as 'begin null; end'",
    ),
];

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
            let answer = former.query(sql);
            assert!(answer.iter().all(|message| message.tag != b'E'), "{}: {sql}: {answer:?}", way.name);
        }
        drop(former);
        let seen = log_in(ferry.raw(), database).value(STATE);
        assert_eq!(seen, clean, "{}, {database}: {}", way.name, ferry.log());
    }
}

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
    let is_possible = |way: &Way| {
        let named = way.setup.split("create extension ").nth(1);
        named.and_then(|rest| rest.split([';', ' ']).next()).is_none_or(|extension| available.contains(extension))
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
fn what_clients_make_and_run_never_reaches_the_next_client() {
    go_all(BY_STATEMENTS, "statements");
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
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        eventually("the function is noticed", || {
            client("select leave()");
            ferry.log().contains("function public.leave() (it says \"set\")")
        });
        // From then on, or from the time on at which it must have been noticed, no client sees anything, though one that the
        // connection was given before has left it.
        assert_eq!(ferry.session().value("show work_mem"), "4MB");
        client("select leave()");
        assert_eq!(ferry.session().value("show work_mem"), "4MB");
        let late = std::time::Instant::now().saturating_duration_since(until);
        assert!(late.is_zero() || ferry.session().value("show work_mem") == "4MB");
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
