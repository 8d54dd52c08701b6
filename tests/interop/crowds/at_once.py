"""800 short clients at once, each of which connects, asks and goes: SOCKET-DIRECTORY PORT."""
import asyncio
import sys

import asyncpg
from server import Server

CLIENTS, POOL_SIZE = 800, 20


async def one(database, number):
    where = {"host": sys.argv[1], "port": 5432, "user": "app", "database": database, "ssl": False}
    conn = await asyncpg.connect(**where, timeout=300)
    said = await conn.fetchval("select $1::int + 1", number, timeout=300)
    await conn.close()
    return said == number + 1


async def all_at_once(database):
    return await asyncio.gather(*(one(database, number) for number in range(CLIENTS)), return_exceptions=True)


def crowd(server, database):
    """Number of connections that a crowd of clients took, all of which are served."""
    server.run(f"drop database if exists {database} with (force)")
    server.run(f"create database {database} owner app")
    outcomes = asyncio.run(all_at_once(database))
    served = sum(outcome is True for outcome in outcomes)
    for wrong in {str(outcome) for outcome in outcomes if outcome is not True}:
        print(wrong)
    if served != CLIENTS:
        sys.exit(f"{served} of {CLIENTS} served")
    return server.sessions(database)


server = Server(sys.argv[2])
server.run("do $$ begin if to_regrole('app') is null then create role app login; end if; end $$")
# Where this program gets no time for its clients they look like clients that stay, for which the pool grows.
taken = []
while len(taken) < 5 and not any(0 < opened <= POOL_SIZE for opened in taken):
    taken.append(crowd(server, f"at_once_{len(taken)}"))
print(f"all of {CLIENTS} served, over {', then '.join(map(str, taken))} connections")
sys.exit(not 0 < taken[-1] <= POOL_SIZE)
