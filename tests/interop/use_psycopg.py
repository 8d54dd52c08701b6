"""psycopg 3 as it comes: it prepares what it has seen five times, and sends DEALLOCATE for what it lets go."""
import sys

import psycopg

from clients import run_at_once

DSN = f"host={sys.argv[1]} port={sys.argv[2]} user=postgres dbname=postgres"


def client(number, said):
    with psycopg.connect(DSN, autocommit=True) as conn:
        conn.prepared_max = 4
        for turn in range(40):
            said.append(conn.execute("select %s + %s", (turn, number)).fetchone())
            said.append(conn.execute(f"select %s, {turn % 7}", (number,)).fetchone())
            with conn.transaction():
                conn.execute("insert into psycopg_things values (%s, %s)", (number, turn))
            try:
                with conn.transaction():
                    conn.execute("insert into psycopg_things values (%s, %s)", (number, turn))
                    conn.execute("select 1 / (%s - %s)", (turn, turn))
            except psycopg.errors.DivisionByZero as error:
                said.append(error.sqlstate)
        with conn.pipeline():
            cursors = [conn.execute("select %s * 2", (n,)) for n in range(20)]
        said.append([cursor.fetchone() for cursor in cursors])
        said.append(conn.execute("select count(*) from psycopg_things where client = %s", (number,)).fetchone())
        with conn.transaction(), conn.cursor(name="named") as cursor:
            cursor.execute("select n from generate_series(1, 25) n")
            cursor.itersize = 10
            said.append([row[0] for row in cursor])
        with conn.cursor().copy("copy psycopg_things (client, turn) from stdin") as copy:
            for turn in range(100):
                copy.write_row((number, turn))
        said.append(conn.execute("select count(*) from psycopg_things where client = %s", (number,)).fetchone())


with psycopg.connect(DSN, autocommit=True) as conn:
    conn.execute("drop table if exists psycopg_things")
    conn.execute("create table psycopg_things (client int, turn int)")
run_at_once(6, client)
