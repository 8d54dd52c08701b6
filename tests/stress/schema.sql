-- What the workers work on. `:place` is the database's own name: the same text means something else in each of the two.
create table token (token text not null); -- not unique: what is there twice is to be seen
\if :first
create table thing (id int primary key, place text not null);
insert into thing select n, 'first-' || n from generate_series(1, 100) n;
\else
create table thing (place text not null, weight float8, id bigint primary key);
insert into thing select 'second-' || n, n / 3.0, n from generate_series(1, 100) n;
\endif

-- The same name along different search paths.
create schema north;
create schema south;
create table public.spot as select 'public' as name;
create table north.spot as select 'north' as name;
create table south.spot as select 'south' as name;

-- A column whose type changes while statements are prepared for it.
create table shifting (id int primary key, value int not null);
insert into shifting select n, n from generate_series(1, 100) n;

-- Held by the client that has the advisory lock of the same number.
create table holder (lock int primary key, client text not null);
insert into holder select n, '' from generate_series(1, 5) n;
create sequence ticket;

grant usage on schema north, south to public;
grant all on all tables in schema public, north, south to public;
grant all on all sequences in schema public to public;
