"""The search_paths of 200 tenants, each said by its client's startup packet, over 2,000 short connections: SOCKET-DIRECTORY PORT."""
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import psycopg
from server import Server

TENANTS, CONNECTIONS, POOL_SIZE = 200, 2000, 20
SQL = "select name from whose"


def by_libpq(tenant):
    """As options of libpq's, which psycopg2, Ruby's pg and psql have as well."""
    where = {"host": sys.argv[1], "port": 5432, "user": "app", "dbname": "tenants"}
    with psycopg.connect(**where, options=f"-c search_path=tenant_{tenant}") as conn:
        return conn.execute(SQL).fetchone()[0]


def by_asyncpg(tenant):
    """As a startup parameter of its own."""

    async def run():
        where = {"host": sys.argv[1], "port": 5432, "user": "app", "database": "tenants", "ssl": False}
        conn = await asyncpg.connect(**where, server_settings={"search_path": f"tenant_{tenant}"})
        said = await conn.fetchval(SQL)
        await conn.close()
        return said

    return asyncio.run(run())


def one(number):
    tenant = number % TENANTS
    said = (by_libpq, by_asyncpg)[number // TENANTS % 2](tenant)
    return said == f"tenant_{tenant}"


server = Server(sys.argv[2])
server.run("drop database if exists tenants with (force)")
server.run("do $$ begin if to_regrole('app') is null then create role app login; end if; end $$")
server.run("create database tenants owner app")
with psycopg.connect(host="127.0.0.1", port=sys.argv[2], user="app", dbname="tenants", autocommit=True) as conn:
    for tenant in range(TENANTS):
        conn.execute(f"create schema tenant_{tenant} create view whose as select 'tenant_{tenant}'::text as name")
before = server.sessions("tenants")
with ThreadPoolExecutor(16) as clients:
    served = sum(clients.map(one, range(CONNECTIONS)))
opened = server.sessions("tenants") - before
print(f"{served} of {CONNECTIONS} by their own schema, over {opened} connections")
sys.exit(served != CONNECTIONS or not 0 < opened <= POOL_SIZE)
