"""800 short clients at once, each of which connects, asks and goes: SOCKET-DIRECTORY PORT."""
import asyncio
import sys

import asyncpg
from server import Server

CLIENTS, POOL_SIZE = 800, 20


async def one(number):
    where = {"host": sys.argv[1], "port": 5432, "user": "app", "database": "at_once", "ssl": False}
    conn = await asyncpg.connect(**where, timeout=300)
    said = await conn.fetchval("select $1::int + 1", number, timeout=300)
    await conn.close()
    return said == number + 1


async def main():
    return await asyncio.gather(*(one(number) for number in range(CLIENTS)), return_exceptions=True)


server = Server(sys.argv[2])
server.run("do $$ begin if to_regrole('app') is null then create role app login; end if; end $$")
server.run("drop database if exists at_once with (force)")
server.run("create database at_once owner app")
outcomes = asyncio.run(main())
served = sum(outcome is True for outcome in outcomes)
opened = server.sessions("at_once")
for wrong in {str(outcome) for outcome in outcomes if outcome is not True}:
    print(wrong)
print(f"{served} of {CLIENTS} served, over {opened} connections")
sys.exit(served != CLIENTS or not 0 < opened <= POOL_SIZE)
