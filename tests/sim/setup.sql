-- The schemas, tables, sequences and functions of a database, as the model has them: see `Shared::create_database`.
do $$ begin
    if not exists (select from pg_roles where rolname = 'deputy') then create role deputy in role trust_user; end if;
end $$;
drop schema if exists public, one, two, code cascade;
create schema public;
create schema one;
create schema two;
create schema code;
grant all on schema public, one, two, code to public;
create text search configuration one.mine (copy = pg_catalog.simple);
create sequence code.seq;
create sequence code.seq0;
create sequence code.seq1;
create sequence code.seq2;
create sequence code.seq3;
create sequence code.numbers;
create table public.t (token text unique);
create table public.u (token text, n int);
create table public.numbered (id int8 default nextval('code.numbers'), token text);
create table one.v (a text);
create table two.v (a text, b int);
insert into one.v select 'one ' || current_database();
insert into two.v select 'two ' || current_database(), 42;
do $$ begin
    if current_database() = 'beta' then
        create table public.v (a int8, b text);
        insert into public.v values (42, 'public beta');
    else
        create table public.v (a int);
        insert into public.v values (42);
    end if;
end $$;
create function code.set(text, text) returns text volatile language plpgsql as
    $$ begin return pg_catalog.set_config($1, $2, false); end $$;
create function code.deallocate() returns text volatile language plpgsql as
    $$ begin execute 'deallocate all'; return 'done'; end $$;
create function code.temp() returns text volatile language plpgsql as
    $$ begin
        if to_regclass('pg_temp.hidden') is null then execute 'create temp table hidden (token text)'; end if;
        return 'done';
    end $$;
create function code.listen() returns text volatile language plpgsql as
    $$ begin execute 'listen hidden'; return 'done'; end $$;
create function code.lock(int8) returns text volatile language plpgsql as
    $$ begin perform pg_catalog.pg_advisory_lock($1); return 'done'; end $$;
create function code.next() returns int8 volatile language plpgsql as
    $$ begin return pg_catalog.nextval('code.seq'); end $$;
create function code.next(text) returns int8 volatile language plpgsql as
    $$ begin return pg_catalog.nextval($1::pg_catalog.regclass); end $$;
create function code.reset(text) returns text volatile language plpgsql as
    $$ begin execute 'reset ' || $1; return 'done'; end $$;
create function code.reset_all() returns text volatile language plpgsql as
    $$ begin execute 'reset all'; return 'done'; end $$;
create function code.insert(text) returns text volatile language plpgsql as
    $$ begin insert into public.t(token) values ($1); return $1; end $$;
create procedure code.finish() language plpgsql as $$ begin commit; end $$;
create procedure code.twice(text) language plpgsql as $$ begin
        insert into public.t(token) values ($1 || '_1');
        commit;
        insert into public.t(token) values ($1 || '_2');
    end $$;
create procedure code.undo() language plpgsql as $$ begin rollback; end $$;
create function code.note(text) returns text volatile language plpgsql as
    $$ begin raise notice '%', $1; return $1; end $$;
create function code.fail(text) returns text volatile language plpgsql as
    $$ begin raise exception '%', $1; end $$;
