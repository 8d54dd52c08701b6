"""psycopg 3 as people use it; the connection comes from libpq's environment variables."""

import asyncio

import psycopg


def synchronous():
    for _ in range(20):
        with psycopg.connect() as conn:
            with conn.cursor() as cur:
                cur.execute("select %s::int + 1", (41,))
                assert cur.fetchone() == (42,)
    with psycopg.connect() as conn:
        conn.execute("create temp table t (id int, name text)")
        conn.commit()
        with conn.cursor() as cur:
            cur.executemany("insert into t values (%s, %s)", [(n, f"name {n}") for n in range(100)])
            # Prepared automatically from the fifth time on.
            for n in range(20):
                cur.execute("select name from t where id = %s", (n,))
                assert cur.fetchone() == (f"name {n}",)
            with cur.copy("copy t from stdin") as copy:
                for n in range(100, 200):
                    copy.write_row((n, f"name {n}"))
            with cur.copy("copy t to stdout") as copy:
                assert sum(1 for _ in copy.rows()) == 200
        try:
            with conn.transaction():
                conn.execute("insert into t values (1000, 'never')")
                conn.execute("select 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        with conn.cursor("server_side") as cur:
            cur.execute("select id from t order by id")
            assert [row[0] for row in cur.fetchmany(3)] == [0, 1, 2]
            assert len(cur.fetchall()) == 197
        with conn.pipeline():
            cursors = [conn.execute("select %s::int", (n,)) for n in range(50)]
        assert [cur.fetchone()[0] for cur in cursors] == list(range(50))
        conn.commit()
    with psycopg.connect(autocommit=True, options="-c statement_timeout=200ms", application_name="it's me") as conn:
        assert conn.execute("show application_name").fetchone() == ("it's me",)
        assert conn.info.parameter_status("application_name") == "it's me"
        try:
            conn.execute("select pg_sleep(10)")
            raise AssertionError("the startup option is in force")
        except psycopg.errors.QueryCanceled:
            pass
        heard = []
        conn.add_notify_handler(heard.append)
        conn.execute("listen news")
        conn.execute("notify news, 'hello'")
        conn.execute("select 1")
        assert [notification.payload for notification in heard] == ["hello"]
    try:
        psycopg.connect(password="wrong")
        raise AssertionError("a wrong password is refused")
    except psycopg.OperationalError as error:
        assert "password authentication failed" in str(error), error


async def asynchronous():
    async def one(n):
        async with await psycopg.AsyncConnection.connect() as conn:
            cur = await conn.execute("select %s::int", (n,))
            assert await cur.fetchone() == (n,)

    await asyncio.gather(*(one(n) for n in range(30)))


synchronous()
asyncio.run(asynchronous())
print("all good")
