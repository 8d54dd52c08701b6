"""Forty connections of one pool, all held at once: POOL HOST PORT. Each says what its pool says when it hands connections out and takes
them back, and some work; what it was told is printed."""
import asyncio
import concurrent.futures
import sys
import threading

POOL, HOST, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
CLIENTS, ROUNDS = 40, 3
TABLE = f"pool_{POOL}"
MAKE = f"drop table if exists {TABLE}; create table {TABLE} (client int, turn int)"


def at_once(work):
    """Runs `work` for each client in a thread of its own, and prints what they return."""
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        for said in threads.map(work, range(CLIENTS)):
            print(said)


async def asyncpg_pool():
    import asyncpg

    async def configure(conn):
        await conn.set_type_codec("json", encoder=str, decoder=str, schema="pg_catalog")
        await conn.execute("set statement_timeout = '30s'")

    pool = await asyncpg.create_pool(
        host=HOST, port=PORT, user="postgres", database="postgres", min_size=CLIENTS, max_size=CLIENTS,
        init=configure, server_settings={"application_name": "pool", "jit": "off"},
    )
    async with pool.acquire() as conn:
        await conn.execute(MAKE)

    async def client(number):
        said = []
        for turn in range(ROUNDS):
            async with pool.acquire() as conn:
                await barrier.wait()
                await conn.execute(f"set timezone = '{-(number % 5)}'")
                async with conn.transaction(isolation="serializable", readonly=True):
                    said.append(await conn.fetchval("show transaction_isolation"))
                async with conn.transaction():
                    await conn.execute(f"insert into {TABLE} values ($1, $2)", number, turn)
                said.append(await conn.fetchval(f"select count(*) from {TABLE} where client = $1", number))
                said.append(await conn.fetchval("select current_setting('timezone') || current_setting('jit')"))
                said.append(await conn.fetchval("select $1::json", "[1]"))
                try:
                    await conn.fetchval("select 1 / $1::int", 0)
                except asyncpg.DivisionByZeroError as error:
                    said.append(type(error).__name__)
            async with pool.acquire() as conn:
                await barrier.wait()
                said.append(await conn.fetchval("select current_setting('application_name') || current_setting('jit')"))
        return said

    barrier = asyncio.Barrier(CLIENTS)
    for said in await asyncio.gather(*map(client, range(CLIENTS))):
        print(said)
    await pool.close()


def sqlalchemy():
    from sqlalchemy import create_engine, exc, text

    url = f"postgresql+psycopg://postgres@/postgres?host={HOST}&port={PORT}"
    engine = create_engine(url, pool_size=CLIENTS, max_overflow=0, pool_pre_ping=True)
    serial = engine.execution_options(isolation_level="SERIALIZABLE")
    auto = engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.begin() as conn:
        conn.execute(text(MAKE))
    barrier = threading.Barrier(CLIENTS)

    def client(number):
        said = []
        for turn in range(ROUNDS):
            with engine.begin() as conn:
                conn.execute(text(f"insert into {TABLE} values (:client, :turn)"), {"client": number, "turn": turn})
                said.append(conn.scalar(text(f"select count(*) from {TABLE} where client = :client"), {"client": number}))
            with serial.connect() as conn:
                said.append(conn.scalar(text("show transaction_isolation")))
            barrier.wait()
            with auto.connect() as conn:
                try:
                    conn.scalar(text("select 1 / cast(:zero as int)"), {"zero": 0})
                except exc.SQLAlchemyError as error:
                    said.append(type(error).__name__)
                said.append(conn.scalar(text("show transaction_isolation")))
        return said

    at_once(client)
    engine.dispose()


def django():
    from django.conf import settings

    settings.configure(
        DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": HOST, "PORT": PORT,
            "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True, "OPTIONS": {"isolation_level": 3},
        }},
        TIME_ZONE="Europe/Berlin", USE_TZ=True,
    )
    import django as package
    from django.db import DatabaseError, close_old_connections, connection, transaction

    package.setup()
    with connection.cursor() as cursor:
        cursor.execute(MAKE)
    barrier = threading.Barrier(CLIENTS)

    def client(number):
        said = []
        for turn in range(ROUNDS):
            # As at the beginning and the end of a request.
            close_old_connections()
            barrier.wait()
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute(f"insert into {TABLE} values (%s, %s)", [number, turn])
            try:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("select 1 / 0")
            except DatabaseError as error:
                said.append(type(error).__name__)
            with connection.cursor() as cursor:
                cursor.execute(f"select count(*), current_setting('timezone'), current_setting('transaction_isolation') from {TABLE} where client = %s", [number])
                said.append(cursor.fetchone())
            barrier.wait()
            close_old_connections()
        return said

    at_once(client)


def psycopg_pool():
    import psycopg
    from psycopg_pool import ConnectionPool

    def configure(conn):
        conn.execute("set statement_timeout = '30s'")
        conn.commit()

    def reset(conn):
        conn.execute("reset all")
        conn.commit()

    def check(conn):
        ConnectionPool.check_connection(conn)

    conninfo = f"host={HOST} port={PORT} user=postgres dbname=postgres"
    with ConnectionPool(conninfo, min_size=CLIENTS, max_size=CLIENTS, configure=configure, reset=reset, check=check) as pool:
        with pool.connection() as conn:
            conn.execute(MAKE)
        barrier = threading.Barrier(CLIENTS)

        def client(number):
            said = []
            for turn in range(ROUNDS):
                with pool.connection() as conn:
                    barrier.wait()
                    conn.prepare_threshold = 0
                    conn.execute(f"insert into {TABLE} values (%s, %s)", [number, turn])
                    said.append(conn.execute(f"select count(*) from {TABLE} where client = %s", [number]).fetchone())
                    conn.commit()
                    try:
                        with conn.transaction():
                            conn.execute("select 1 / %s", [0])
                    except psycopg.errors.DivisionByZero as error:
                        said.append(type(error).__name__)
                    with conn.pipeline():
                        conn.execute("set local work_mem = '5MB'")
                        said.append(conn.execute("show work_mem").fetchone())
                    conn.commit()
                    said.append(conn.execute("show work_mem").fetchone())
            return said

        at_once(client)


def odbc():
    import pyodbc

    where = f"Driver=PostgreSQL Unicode;Server={HOST};Port={PORT};Database=postgres;Uid=postgres"
    pyodbc.pooling = False
    first = pyodbc.connect(where, autocommit=True)
    first.execute(MAKE)
    barrier = threading.Barrier(CLIENTS)

    def client(number):
        said = []
        options = ["", ";UseServerSidePrepare=0", ";Protocol=7.4-2", ";UseDeclareFetch=1;Fetch=2", ";ConnSettings=set work_mem to '7MB'%3bset extra_float_digits to 1"]
        conn = pyodbc.connect(where + options[number % len(options)])
        for turn in range(ROUNDS):
            barrier.wait()
            cursor = conn.cursor()
            cursor.execute(f"insert into {TABLE} values (?, ?)", number, turn)
            said.append(cursor.execute(f"select count(*) from {TABLE} where client = ?", number).fetchval())
            conn.commit()
            try:
                cursor.execute("select 1 / cast(? as int)", 0).fetchval()
            except pyodbc.Error as error:
                said.append(error.args[0])
            conn.rollback()
            said.append(len(cursor.execute("select generate_series(1, 10)").fetchall()))
            said.append(len(list(cursor.tables(TABLE))))
            conn.commit()
            conn.autocommit = True
            said.append(cursor.execute("show work_mem").fetchval())
            conn.autocommit = False
        barrier.wait()
        conn.close()
        return said

    at_once(client)


if POOL == "asyncpg":
    asyncio.run(asyncpg_pool())
else:
    {"sqlalchemy": sqlalchemy, "django": django, "psycopg_pool": psycopg_pool, "odbc": odbc}[POOL]()
