"""asyncpg as it comes: it prepares every query and keeps the statements."""
import asyncio
import sys

import asyncpg

HOST, PORT = sys.argv[1], int(sys.argv[2])


async def client(number):
    said = []
    conn = await asyncpg.connect(host=HOST, port=PORT, user="postgres", database="postgres")
    await conn.execute(f"set application_name = 'client {number}'")
    for turn in range(30):
        said.append(await conn.fetchval("select $1::int + $2", turn, number))
        async with conn.transaction():
            await conn.execute("insert into asyncpg_things values ($1, $2)", number, turn)
            said.append(await conn.fetchval("select count(*) from asyncpg_things where client = $1", number))
        try:
            async with conn.transaction():
                await conn.execute("insert into asyncpg_things values ($1, $2)", number, turn)
                await conn.fetchval("select 1 / ($1::int - $1::int)", turn)
        except asyncpg.DivisionByZeroError as error:
            said.append(type(error).__name__)
        said.append(await conn.fetchval("show application_name"))
        async with conn.transaction():
            said.extend([row["n"] async for row in conn.cursor("select n from generate_series(1, $1::int) n", 5)])
    statement = await conn.prepare("select $1::text || '!'")
    said.append([await statement.fetchval(str(n)) for n in range(10)])
    await conn.execute("reset all")
    said.append(await conn.fetchval("show application_name"))
    await conn.copy_records_to_table("asyncpg_things", records=[(number, n) for n in range(100, 110)])
    said.append(await conn.fetchval("select sum(turn) from asyncpg_things where client = $1", number))
    await conn.close()
    return said


async def main():
    conn = await asyncpg.connect(host=HOST, port=PORT, user="postgres", database="postgres")
    await conn.execute("drop table if exists asyncpg_things; create table asyncpg_things (client int, turn int)")
    for said in await asyncio.gather(*(client(number) for number in range(6))):
        print(said)
    # The table changes under a statement that is kept.
    print(await conn.fetch("select * from asyncpg_things where client = 0 order by turn limit 1"))
    await conn.execute("alter table asyncpg_things add column note text default 'new'")
    print(await conn.fetch("select * from asyncpg_things where client = 0 order by turn limit 1"))
    heard = []
    await conn.add_listener("news", lambda *said: heard.append(said[2:]))
    other = await asyncpg.connect(host=HOST, port=PORT, user="postgres", database="postgres")
    for news in range(3):
        await other.execute(f"notify news, '{news}'")
    while len(heard) < 3:
        await asyncio.sleep(0.01)
    print(heard)
    await conn.close()
    await other.close()


asyncio.run(main())
