//! Ways in which code leaves something in a session.

/// A way in which code leaves something in a session.
pub struct Way {
    pub name: &'static str,
    /// What the database holds before anybody comes through pgferry.
    pub setup: &'static str,
    /// What a client says, one after another.
    pub leaves: &'static [&'static str],
    /// What makes the database as it was before the client came.
    pub undo: &'static str,
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

pub const IN_FUNCTIONS: &[Way] = &[
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

pub const BY_OTHER_OBJECTS: &[Way] = &[
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

pub const BY_LANGUAGES_AND_EXTENSIONS: &[Way] = &[
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

pub const BY_STATEMENTS: &[Way] = &[
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

pub const BY_ODD_MEANS: &[Way] = &[
    way("a label by the name of a statement", plpgsql!("<<update>> begin set work_mem = '77MB'; end"), CALL),
    way("a loop's label", plpgsql!("<<update>> for update in 1..1 loop set work_mem = '77MB'; end loop"), CALL),
    way(
        "a variable by the name of a statement",
        "create function leave() returns void language plpgsql as $$ declare update bool := true; begin case update when true then set work_mem = '77MB'; end case; end $$",
        CALL,
    ),
    way(
        "a string on two lines that hides the rest",
        "create function leave() returns void language plpgsql as $$ declare a text; begin a := E'x'\n'\\''; set work_mem = 78848; a := 'y'; end $$",
        CALL,
    ),
    way(
        "two kinds of strings that hide the rest",
        "create function leave() returns void language plpgsql as $$ declare a text; begin a := 'x\\'; a := E'x' -- '\n '\\''; set work_mem = 78848; a := 'y'; end $$",
        CALL,
    ),
    way(
        "a string on two lines in a client's text",
        "",
        &["select E'x'\n'\\''; declare leftover cursor with hold for select 1; select 'y'"],
    ),
    way("nested comments", plpgsql!("/* /* */ ' */ set work_mem = 78848; /* ' */ perform 1"), CALL),
    way(
        "a comment that ends with a carriage return",
        "create function leave() returns void language plpgsql as E'begin -- x\\r set work_mem = 78848; end'",
        CALL,
    ),
    way("a dollar quote inside", plpgsql!("perform $x$ ' $x$; set work_mem = 78848; perform ' $x$ '"), CALL),
    way(
        "an identifier with dollars",
        plpgsql!("declare a$b$ int; begin a$b$ := 1; set work_mem = 78848; a$b$ := 2; end"),
        CALL,
    ),
    way("arguments by name", plpgsql!("perform pg_advisory_lock(42::bigint)"), CALL),
    way(
        "a function called through a composite type",
        "create type pair as (a int); create function leaves(pair) returns text language plpgsql as $$ begin perform pg_advisory_lock(42); return 'x'; end $$",
        &["select (row(1)::pair).leaves"],
    ),
    way(
        "a function in FROM",
        "create function leave() returns setof int language sql as 'select 1 from pg_advisory_lock(42)'",
        &["select * from leave() with ordinality"],
    ),
    way(
        "a function with a variable number of arguments",
        "create function leaves(variadic int[]) returns void language plpgsql as $$ begin perform pg_advisory_lock(a) from unnest($1) a; end $$",
        &["select leaves(1, 2, 3)"],
    ),
    way(
        "a polymorphic function",
        "create function leaves(anyelement) returns anyelement language plpgsql as $$ begin perform pg_advisory_lock(42); return $1; end $$",
        &["select leaves('x'::text)"],
    ),
    way(
        "a function behind a recursive query",
        "create function leaves(int) returns int language sql as 'select $1 + 1 from pg_advisory_lock(42)'; create view v as with recursive r(a) as (select 1 union all select leaves(a) from r where a < 3) select * from r",
        &["select * from v"],
    ),
    way(
        "a function as a table's sampling argument",
        "create table t (a int); create function leaves() returns real language plpgsql as $$ begin perform pg_advisory_lock(42); return 50; end $$",
        &["select * from t tablesample bernoulli (leaves())"],
    ),
    way(
        "a function in a LIMIT",
        "create function leaves() returns bigint language plpgsql as $$ begin perform pg_advisory_lock(42); return 1; end $$",
        &["select 1 limit leaves()"],
    ),
    way(
        "a function as a window",
        "create function leaves(int) returns int language plpgsql as $$ begin perform pg_advisory_lock(42); return 1; end $$; create aggregate summed(int) (sfunc = int4pl, stype = int, msfunc = int4pl, minvfunc = int4mi, mstype = int, mfinalfunc = leaves)",
        &["select summed(1) over (rows between 1 preceding and current row)"],
    ),
    way(
        "a range's difference",
        "create function leaves(float8, float8) returns float8 immutable language plpgsql as $$ begin perform pg_advisory_lock(42); return $1 - $2; end $$; create type span as range (subtype = float8, subtype_diff = leaves); create table t (s span); create index on t using gist (s)",
        &["insert into t select span(a, a + 1) from generate_series(1, 500) a"],
    ),
    way(
        "an operator class",
        "create function leaves(int, int) returns int immutable language plpgsql as $$ begin perform pg_advisory_lock(42); return btint4cmp($1, $2); end $$; create operator class odd for type int using btree as operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 leaves(int, int); create table t (a int); create index on t (a odd)",
        &["insert into t values (1)", "insert into t values (2)"],
    ),
    way(
        "a type's cast in an assignment",
        "create type pair as (a int); create function leaves(pair) returns int language plpgsql as $$ begin perform pg_advisory_lock(42); return 1; end $$; create cast (pair as int) with function leaves(pair) as assignment; create table t (a int)",
        &["insert into t values (row(1)::pair)"],
    ),
    way(
        "a foreign key's action that runs a trigger",
        "create table t (a int primary key); create table u (a int references t on delete cascade); insert into t values (1); insert into u values (1); create function leaves() returns trigger language plpgsql as $$ begin perform pg_advisory_lock(42); return old; end $$; create trigger x after delete on u for each row execute function leaves()",
        &["delete from t", "insert into t values (1)", "insert into u values (1)"],
    ),
    way(
        "a trigger for columns",
        "create table t (a int, b int); insert into t values (1, 1); create function leaves() returns trigger language plpgsql as $$ begin perform pg_advisory_lock(42); return new; end $$; create trigger x before update of b on t for each row when (old.b > 0) execute function leaves()",
        &["update t set b = 2"],
    ),
    way(
        "an expression in a publication's place: a rule that only notifies and sets",
        "create table t (a int); create rule r as on update to t do instead select pg_advisory_lock(42); insert into t values (1)",
        &["update t set a = 2"],
    ),
    way(
        "a conflict's condition",
        "create table t (a int primary key); insert into t values (1); create function leaves(int) returns bool language plpgsql as $$ begin perform pg_advisory_lock(42); return true; end $$",
        &["insert into t values (1) on conflict (a) do update set a = 1 where leaves(t.a)"],
    ),
    way(
        "copy",
        "create table t (a int); create function leaves() returns trigger language plpgsql as $$ begin perform pg_advisory_lock(42); return new; end $$; create trigger x before insert on t for each row execute function leaves()",
        &["copy t from program 'echo 1'"],
    ),
    way(
        "explain",
        "create function leave() returns void language plpgsql as $$ begin perform pg_advisory_lock(42); end $$",
        &["explain analyze select leave()"],
    ),
    way(
        "constant folding",
        "create function leave() returns int immutable language plpgsql as $$ begin perform pg_advisory_lock(42); return 1; end $$",
        &["explain select 1 where leave() = 2"],
    ),
    way(
        "statistics of an operator",
        "create function leaves(int, int) returns bool immutable language plpgsql as $$ begin perform pg_advisory_lock(42); return true; end $$; create operator === (leftarg = int, rightarg = int, function = leaves, restrict = eqsel); create table t as select 1 as a from generate_series(1, 100); analyze t",
        &["explain select * from t where a === 5"],
    ),
    way(
        "a function renamed",
        "create function a() returns void language plpgsql as 'begin perform pg_advisory_lock(42); end'; alter function a() rename to leave",
        CALL,
    ),
    way(
        "set_config renamed",
        "alter function pg_catalog.set_config(text, text, boolean) rename to harmless",
        &["select harmless('work_mem', '77MB', false)"],
    ),
    way(
        "set_config elsewhere",
        "alter function pg_catalog.set_config(text, text, boolean) set schema public; create view v as select public.set_config('work_mem', '77MB', false)",
        &["select * from v"],
    ),
    way(
        "a procedure with a transaction's end",
        "create procedure leave() language plpgsql as $$ begin commit; perform pg_advisory_lock(42); commit; end $$",
        &["call leave()"],
    ),
    way(
        "set_config until the end of a transaction that is not the last",
        "create procedure leave() language plpgsql as $$ begin perform set_config('work_mem', '7MB', true); commit; perform set_config('work_mem', '77MB', not true); end $$",
        &["call leave()"],
    ),
    way("notify and listen by a name", plpgsql!("execute $x$ listen leftover $x$"), CALL),
    way(
        "a session's characteristics",
        plpgsql!("set session characteristics as transaction read only; set app.tenant = 7"),
        &["select leave()"],
    ),
    way("a time zone", plpgsql!("set time zone 'Asia/Tokyo'; set app.tenant = 7"), CALL),
    way("discard", plpgsql!("perform pg_advisory_lock(1); execute 'discard plans'"), CALL),
    way(
        "a catalog that is written",
        "create function leave() returns void language plpgsql as 'begin null; end'",
        &[
            "set allow_system_table_mods = on",
            "update pg_proc set prosrc = 'begin perform pg_advisory_lock' || '(42); end' where proname = 'leave'",
            "reset allow_system_table_mods",
            "select leave()",
        ],
    ),
];

/// Definitions of the session's own, or such as are there for a moment.
pub const BY_PASSING_DEFINITIONS: &[Way] = &[
    way(
        "a temporary view of a lock",
        "",
        &["create temp view v as select pg_try_advisory_lock(42)", "select * from v", "drop view v"],
    ),
    way(
        "a temporary view that sets",
        "",
        &["create temp view v as select set_config('work_mem', '77MB', false)", "select * from v", "drop view v"],
    ),
    way(
        "a temporary view of settings",
        "",
        &[
            "create temp view v as select * from pg_settings",
            "update v set setting = '78848' where name = 'work_mem'",
            "drop view v",
        ],
    ),
    way(
        "a temporary table's default",
        "",
        &[
            "create temp table t (a int, b bool default pg_try_advisory_lock(42))",
            "insert into t (a) values (1)",
            "drop table t",
        ],
    ),
    way(
        "a temporary table's default, all in one transaction",
        "",
        &[
            "begin",
            "create temp table t (a int, b text default set_config('work_mem', '77MB', false)) on commit drop",
            "insert into t (a) values (1)",
            "commit",
        ],
    ),
    way(
        "a temporary table's check",
        "",
        &[
            "create temp table t (a text check (set_config('work_mem', a, false) is not null))",
            "insert into t values ('77MB')",
            "drop table t",
        ],
    ),
    way(
        "a temporary domain",
        "",
        &[
            "create domain pg_temp.d as text check (set_config('work_mem', value, false) is not null)",
            "select '77MB'::pg_temp.d",
            "drop domain pg_temp.d",
        ],
    ),
    way(
        "a statement prepared by SQL that sets",
        "",
        &["prepare p as select set_config('work_mem', '77MB', false)", "execute p", "deallocate p"],
    ),
    way(
        "a statement prepared by SQL that locks",
        "",
        &["prepare p as select pg_try_advisory_lock(42)", "execute p", "deallocate p"],
    ),
    way(
        "a statement prepared by SQL that updates settings",
        "",
        &["prepare p as update pg_settings set setting = '78848' where name = 'work_mem'", "execute p", "deallocate p"],
    ),
    way(
        "a statement prepared by SQL that makes a table",
        "",
        &[
            "prepare p as select set_config('work_mem', '77MB', false)",
            "create table made as execute p",
            "drop table made",
            "deallocate p",
        ],
    ),
    way(
        "a statement prepared by SQL that is explained",
        "",
        &["prepare p as select pg_try_advisory_lock(42)", "explain analyze execute p", "deallocate p"],
    ),
    way(
        "a cursor that is read later",
        "",
        &["begin", "declare c cursor for select pg_try_advisory_lock(42)", "select 1", "fetch c", "commit"],
    ),
    way(
        "a table that is made by explaining",
        "",
        &["set search_path = pg_temp", "explain analyze create table leftover as select 1 as a", "reset all"],
    ),
    way(
        "a table that is made by explaining, by the database's search_path",
        "alter database :db set search_path = pg_temp",
        &["explain analyze create table leftover as select 1 as a"],
    ),
    way(
        "a view of the information schema that was replaced",
        "create or replace view information_schema.information_schema_catalog_name as \
         select current_database()::information_schema.sql_identifier as catalog_name where set_config('work_mem', '77MB', false) is not null",
        &["select * from information_schema.information_schema_catalog_name"],
    ),
    way(
        "a view of the system's that was replaced",
        "set allow_system_table_mods = on; create or replace view pg_catalog.pg_group as \
         select rolname as groname, oid as grosysid, array(select member from pg_auth_members where roleid = oid) as grolist \
         from pg_authid where pg_try_advisory_lock(oid::bigint)",
        &["select * from pg_group"],
    ),
    way(
        "a text in another encoding that hides a lock",
        "",
        &["set client_encoding = sjis", "select E'\u{83}\\'; select pg_try_advisory_lock(42), E'\u{83}\\'"],
    ),
];
