"""The worker for asyncpg: a pool per database, which its clients share, with asyncpg's own reset between them."""
import asyncio
import contextlib

import asyncpg
from asyncpg import exceptions as errors

from report import LOST, Arguments, Client, say

# The internal one is what asyncpg says of a connection that ended under its hands.
CONNECTION_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, asyncio.TimeoutError)


class Left(Exception):
    """The client has closed its connection."""


class Asyncpg(Client):
    """One client; its methods that are named at the end are what it does."""

    def __init__(self, arguments, number, pools):
        super().__init__(arguments, number)
        self.pool = pools[self.database]

    async def run(self):
        while not self.arguments.over():
            self.doing = "connect"
            # The pool's connections come with their own name and search path, and are made so again.
            self.path, self.title = None, self.arguments.driver
            self.start_path, self.start_title = self.path, self.title
            try:
                self.conn = await self.pool.acquire()
                try:
                    await self.session()
                finally:
                    await self.release()
            except Left:
                pass
            except CONNECTION_ERRORS as error:
                self.error(error)
                await asyncio.sleep(self.random.uniform(0, 0.3))

    async def session(self):
        for _ in range(self.random.randint(1, self.arguments.session)):
            if self.arguments.over():
                break
            work = self.random.choices(*self.arguments.work)[0]
            self.doing = work.__name__
            await work(self)
            self.operations += 1

    async def release(self):
        if self.doing == "abandoned" or self.conn.is_closed():
            # The pool has noticed.
            pass
        else:
            if self.arguments.session <= 5:
                # Others wait for the server connection.
                await self.conn.close()
            elif self.random.random() < 0.1:
                self.conn.terminate()
                return
        await self.pool.release(self.conn)

    @contextlib.contextmanager
    def token(self, rows=1, ends=None):
        """As with psycopg: the body sets `sent` when the commit may have been sent."""
        token = Token(self.next())
        try:
            yield token
            token.outcome = ends or "acked"
        except CONNECTION_ERRORS as error:
            if token.sent and getattr(error, "sqlstate", None) in LOST:
                token.outcome = "unknown"
            raise
        finally:
            say(f"{token.outcome} {token.name} {rows}")

    # Selects that name themselves.

    async def literal(self):
        name = self.next()
        row = await self.conn.fetchrow(f"""select '{name}' as "{name}" """)
        self.same("literal", dict(row), {name: name})

    async def shared(self):
        which, value = self.random.randrange(30), self.next()
        row = await self.conn.fetchrow(f"select 'text {which}' as which, $1::text as value", value)
        self.same("shared text", tuple(row), (f"text {which}", value))

    async def thing(self):
        number = self.random.randint(1, 100)
        row = await self.conn.fetchrow("select * from public.thing where id = $1", number)
        self.same("thing", (row["id"], row["place"]), (number, f"{self.database}-{number}"))

    async def shifting(self):
        number = self.random.randint(1, 100)
        with contextlib.suppress(errors.FeatureNotSupportedError, errors.OutdatedSchemaCacheError):
            got = await self.conn.fetchval("select value from public.shifting where id = $1", number)
            self.same("shifting", str(got), str(number))

    async def large(self):
        piece, times = self.next() + ".", self.random.choice((1000, 20_000))
        self.same("large", await self.conn.fetchval("select repeat($1, $2)", piece, times), piece * times)

    async def many_rows(self):
        name, rows = self.next(), self.random.randint(0, 3000)
        got = await self.conn.fetch("select $1::text, n from generate_series(1, $2::int) n", name, rows)
        self.same("rows", [tuple(row) for row in got], [(name, n) for n in range(1, rows + 1)])

    async def wrong_statement(self):
        with self.fails(errors.DivisionByZeroError):
            await self.conn.fetchval("select 1/$1::int", 0)
        with self.fails(errors.UndefinedTableError):
            await self.conn.fetchval("select * from nothing")

    # Inserts.

    async def insert(self):
        with self.token() as token:
            await self.conn.execute("insert into public.token values ($1)", token.name)

    async def insert_many(self):
        rows = self.random.randint(1, 20)
        with self.token(rows) as token:
            await self.conn.executemany("insert into public.token values ($1)", [(token.name,)] * rows)

    async def insert_many_failing(self):
        with self.token(1, "failed") as token, self.fails(errors.DivisionByZeroError):
            texts = [(token.name, divisor) for divisor in (1, 2, 0, 3)]
            await self.conn.executemany("insert into public.token select $1 where 1/$2::int >= 0", texts)
        await self.literal()

    async def several(self):
        fails = self.random.random() < 0.5
        with self.token(2, "failed" if fails else "acked") as token:
            insert = f"insert into public.token values ('{token.name}')"
            with self.fails(errors.DivisionByZeroError) if fails else contextlib.nullcontext():
                await self.conn.execute(f"{insert}; {insert}; select 1/{int(not fails)}")

    async def transaction(self):
        rows, commits = self.random.randint(1, 4), self.random.random() < 0.7
        with self.token(rows, "acked" if commits else "failed") as token:
            token.sent = False
            transaction = self.conn.transaction()
            await transaction.start()
            for n in range(rows):
                await self.conn.execute("insert into public.token values ($1)", token.name)
                count = await self.conn.fetchval("select count(*) from public.token where token = $1", token.name)
                self.same("own rows", count, n + 1)
                if self.random.random() < 0.3:
                    with self.fails(errors.DivisionByZeroError):
                        async with self.conn.transaction():
                            await self.conn.execute("insert into public.token values ($1)", token.name)
                            await self.conn.execute("select 1/0")
            if commits:
                token.sent = True
                await transaction.commit()
            else:
                await transaction.rollback()

    async def abandoned(self):
        with self.token(1, "failed") as token:
            token.sent = False
            await self.conn.execute("begin")
            await self.conn.execute("insert into public.token values ($1)", token.name)
            self.conn.terminate()
        raise Left

    async def cursor(self):
        name, rows = self.next(), self.random.randint(0, 60)
        async with self.conn.transaction():
            query = self.conn.cursor("select $1::text, n from generate_series(1, $2::int) n", name, rows, prefetch=7)
            got = [tuple(row) async for row in query]
        self.same("cursor", got, [(name, n) for n in range(1, rows + 1)])

    async def prepared(self):
        name = self.next()
        statement = await self.conn.prepare(f"select '{name}', $1::int")
        for n in range(3):
            self.same("prepared", tuple(await statement.fetchrow(n)), (name, n))

    # COPY.

    async def copy_in(self):
        rows = self.random.randint(1, 500)
        with self.token(rows) as token:
            await self.conn.copy_records_to_table("token", schema_name="public", records=[(token.name,)] * rows)

    async def copy_bad(self):
        with self.token(1, "failed") as token, self.fails(ZeroDivisionError):
            records = ((token.name if n < 200 else str(1 // 0),) for n in range(300))
            await self.conn.copy_records_to_table("token", schema_name="public", records=records)

    async def copy_out(self):
        name, rows, got = self.next(), self.random.randint(0, 2000), bytearray()

        async def take(data):
            got.extend(data)

        await self.conn.copy_from_query(f"select '{name}', n from generate_series(1, {rows}) n", output=take)
        self.same("copied", got.decode().splitlines(), [f"{name}\t{n}" for n in range(1, rows + 1)])

    # The session.

    async def setting(self):
        act = self.random.randrange(4)
        if act == 0:
            self.path = self.random.choice(("north", "south"))
            await self.conn.execute(f"set search_path to {self.path}")
        elif act == 1:
            self.title = self.next()
            await self.conn.execute(f"set application_name = '{self.title}'")
        elif act == 2:
            await self.conn.execute("reset all")
            self.path, self.title = self.start_path, self.start_title
        else:
            async with self.conn.transaction():
                await self.conn.execute("set local search_path = south")
                self.same("set local", await self.conn.fetchval("select name from spot"), "south")
        await self.settings()

    async def settings(self):
        name, path = self.found_path()
        # A cached statement of this text has been planned for another path: directly, too, that is noticed.
        row = await self.conn.fetchrow(
            "select name, current_setting('search_path'), current_setting('application_name') from spot where 1 = $1::int", 1)
        self.same("settings", tuple(row), (name, path, self.title))

    async def temporary(self):
        name = self.next()
        await self.conn.execute(f"create temporary table own as select '{name}'::text as name")
        for _ in range(3):
            self.same("temporary table", await self.conn.fetchval("select min(name) from own"), name)
        await self.conn.execute("drop table own")

    async def lock(self):
        number = self.random.randint(1, 5)
        await self.conn.execute("select pg_advisory_lock($1)", number)
        await self.conn.execute("update public.holder set client = $1 where lock = $2", self.name, number)
        for _ in range(3):
            holder = await self.conn.fetchval("select client from public.holder where lock = $1", number)
            self.same("locked", holder, self.name)
        self.same("unlock", await self.conn.fetchval("select pg_advisory_unlock($1)", number), True)

    async def listen(self):
        heard, payload = [], self.next()

        def hear(_, pid, channel, text):
            heard.append((pid, channel, text))

        await self.conn.add_listener("stress", hear)
        await self.conn.execute("select pg_notify('stress', $1)", payload)
        await self.conn.fetchval("select 1")
        own = [notification for notification in heard if notification[2] == payload]
        self.same("own notification", own, [(self.conn.get_server_pid(), "stress", payload)])
        await self.conn.remove_listener("stress", hear)

    async def cancel(self):
        """By asyncpg's own timeout, which waits until the cancelled statement has ended."""
        with self.fails(asyncio.TimeoutError):
            await self.conn.fetchval("select pg_sleep(20)", timeout=0.3)
        with contextlib.suppress(errors.QueryCanceledError):
            await self.conn.fetchval("select 1")


class Token:
    def __init__(self, name):
        self.name, self.sent, self.outcome = name, True, "failed"


STATELESS = {
    Asyncpg.literal: 10, Asyncpg.shared: 10, Asyncpg.thing: 8, Asyncpg.shifting: 4, Asyncpg.large: 2, Asyncpg.many_rows: 2,
    Asyncpg.wrong_statement: 5, Asyncpg.insert: 8, Asyncpg.insert_many: 5, Asyncpg.insert_many_failing: 3, Asyncpg.several: 4,
    Asyncpg.transaction: 8, Asyncpg.abandoned: 1, Asyncpg.cursor: 3, Asyncpg.copy_in: 3, Asyncpg.copy_bad: 2, Asyncpg.copy_out: 2,
    Asyncpg.cancel: 1,
}
STATEFUL = {
    Asyncpg.setting: 8, Asyncpg.settings: 8, Asyncpg.prepared: 4, Asyncpg.temporary: 2, Asyncpg.lock: 2, Asyncpg.listen: 2,
}


async def main():
    arguments = Arguments(STATELESS, STATEFUL)
    clients = []
    async with contextlib.AsyncExitStack() as stack:
        pools = {}
        for number, database in enumerate(("first", "second")):
            # Fewer connections than clients, where connections stay.
            most = max(1, (arguments.clients + 1 - number) // 2)
            pools[database] = await stack.enter_async_context(asyncpg.create_pool(
                host=arguments.host, port=arguments.port, user=arguments.user, password=arguments.password or None,
                database=database, ssl="disable", timeout=400, min_size=0, max_size=most,
                statement_cache_size=100 if arguments.leaves else 0, server_settings={"application_name": arguments.driver}))
        clients = [Asyncpg(arguments, number, pools) for number in range(arguments.clients)]
        await asyncio.gather(*(client.run() for client in clients))
    say(f"done {sum(client.operations for client in clients)}")


asyncio.run(main())
