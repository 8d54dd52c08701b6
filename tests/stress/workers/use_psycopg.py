"""The worker for psycopg 3: a thread per client, pipelines, statements that it prepares by itself."""
import contextlib
import os
import threading
import time
from decimal import Decimal

import psycopg
from psycopg import errors

from report import LOST, Arguments, Client, say

CODES = {"1/0": errors.DivisionByZero, "nothing": errors.UndefinedTable, "'a'::int": errors.InvalidTextRepresentation}
VALUES = ((7, "smallint"), (70_000, "integer"), (7_000_000_000, "bigint"), (1.5, "double precision"), (Decimal("1.5"), "numeric"),
          (True, "boolean"), ([1, 2], "smallint[]"))
SLEEP = "select pg_sleep(20)"


class Left(Exception):
    """The client has closed its connection."""


class Psycopg(Client):
    """One client; its methods that are named in `WORK` are what it does."""

    def run(self):
        while not self.arguments.over():
            self.come()
            self.conn = None
            try:
                self.conn = self.connect()
                for _ in range(self.random.randint(1, self.arguments.session)):
                    if self.arguments.over():
                        break
                    self.work()
            except Left:
                pass
            except psycopg.Error as error:
                self.error(error)
                time.sleep(self.random.uniform(0, 0.3))
            finally:
                self.leave()

    def connect(self):
        options = f"-csearch_path={self.start_path}" if self.start_path else None
        told = self.arguments
        conn = psycopg.connect(
            host=told.host, port=told.port, user=told.user, password=told.password or None, dbname=self.database,
            application_name=self.title, options=options, sslmode="disable", autocommit=True,
            prepare_threshold=self.random.choice((None, 0, 1, 5)) if self.arguments.leaves else None)
        conn.prepared_max = self.random.choice((2, 100))
        return conn

    def work(self):
        work = self.random.choices(*self.arguments.work)[0]
        self.doing = work.__name__
        work(self)
        self.operations += 1

    def leave(self):
        if self.conn is None or self.conn.closed:
            return
        if self.random.random() < 0.1:
            self.vanish()
        self.conn.close()

    def vanish(self):
        """Takes the socket away: the other side sees an end without Terminate."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, self.conn.fileno())
        os.close(null)

    def value(self, sql, *values):
        return self.conn.execute(sql, values or None).fetchone()

    @contextlib.contextmanager
    def token(self, rows=1, ends=None):
        """A token, of which is told what became of it; `ends` is what it is to be if nothing goes wrong.

        The body sets `sent` as soon as the commit may have been sent."""
        token = Token(self.next(), sent=True)
        try:
            yield token
            token.outcome = ends or "acked"
        except psycopg.Error as error:
            if token.sent and error.sqlstate in LOST:
                token.outcome = "unknown"
            raise
        finally:
            say(f"{token.outcome} {token.name} {rows}")

    # Selects that name themselves.

    def literal(self):
        name = self.next()
        row = self.conn.execute(f"""select '{name}' as "{name}" """)
        self.same("column", row.description[0].name, name)
        self.same("literal", row.fetchone(), (name,))

    def shared(self):
        which, value = self.random.randrange(30), self.next()
        got = self.value(f"select 'text {which}' as which, %s::text as value", value)
        self.same("shared text", got, (f"text {which}", value))

    def typed(self):
        value, kind = self.random.choice(VALUES)
        self.same("typed", self.value("select pg_typeof(%s)::text", value), (kind,))

    def thing(self):
        number = self.random.randint(1, 100)
        cursor = self.conn.execute("select * from public.thing where id = %s", (number,))
        row = dict(zip((column.name for column in cursor.description), cursor.fetchone()))
        self.same("thing", (row["id"], row["place"]), (number, f"{self.database}-{number}"))

    def shifting(self):
        number = self.random.randint(1, 100)
        with contextlib.suppress(errors.FeatureNotSupported):
            self.same("shifting", str(self.value("select value from public.shifting where id = %s", number)[0]), str(number))

    def large(self):
        piece, times = self.next() + ".", self.random.choice((1000, 20_000))
        self.same("large", self.value("select repeat(%s, %s)", piece, times)[0], piece * times)

    def wrong_statement(self):
        text, kind = self.random.choice(list(CODES.items()))
        with self.fails(kind):
            self.value(f"select {text}" if text != "nothing" else "select * from nothing")

    # Inserts.

    def insert(self):
        with self.token() as token:
            if self.random.random() < 0.5:
                self.conn.execute("insert into public.token values (%s)", (token.name,))
            else:
                row = self.value(f"insert into public.token values ('{token.name}') returning token")
                self.same("returning", row, (token.name,))

    def several(self):
        ends = self.random.choice(("acked", "failed"))
        with self.token(2, ends) as token:
            insert = f"insert into public.token values ('{token.name}')"
            last = "select 1/0" if ends == "failed" else f"select '{token.name}'"
            with self.fails(errors.DivisionByZero) if ends == "failed" else contextlib.nullcontext():
                cursor = self.conn.execute(f"{insert}; {insert}; {last}", prepare=False)
                cursor.nextset()
                cursor.nextset()
                self.same("several", cursor.fetchone(), (token.name,))

    def transaction(self):
        ends, rows = self.random.choice(("acked", "acked", "failed")), self.random.randint(1, 4)
        with self.token(rows, ends) as token:
            token.sent = False
            self.conn.execute("begin")
            for n in range(rows):
                self.conn.execute("insert into public.token values (%s)", (token.name,))
                self.same("own rows", self.value("select count(*) from public.token where token = %s", token.name), (n + 1,))
                if self.random.random() < 0.3:
                    self.savepoint(token)
            token.sent = ends == "acked"
            self.same("end", self.conn.execute("commit" if token.sent else "rollback").statusmessage,
                      "COMMIT" if token.sent else "ROLLBACK")

    def savepoint(self, token):
        self.conn.execute("savepoint one")
        with self.fails(errors.DivisionByZero):
            self.conn.execute(f"insert into public.token values ('{token.name}'); select 1/0", prepare=False)
        self.conn.execute("rollback to one")

    def failed_transaction(self):
        with self.token(1, "failed") as token:
            token.sent = False
            self.conn.execute("begin")
            self.conn.execute("insert into public.token values (%s)", (token.name,))
            with self.fails(errors.DivisionByZero):
                self.value("select 1/0")
            with self.fails(errors.InFailedSqlTransaction):
                self.literal()
            self.same("commit of a failed transaction", self.conn.execute("commit").statusmessage, "ROLLBACK")

    def abandoned(self):
        with self.token(1, "failed") as token:
            token.sent = False
            self.conn.execute("begin")
            self.conn.execute("insert into public.token values (%s)", (token.name,))
            self.vanish()
            self.conn.close()
        raise Left

    def abandoned_at_work(self):
        with self.token(1, "unknown") as token:
            text = f"insert into public.token select '{token.name}' from pg_sleep(0.3)"
            self.conn.pgconn.send_query(text.encode())
            self.vanish()
            self.conn.close()
        raise Left

    def pipeline(self):
        rows = self.random.randint(1, 5)
        with self.token(rows) as token, self.conn.pipeline():
            cursors = []
            for n in range(rows):
                self.conn.execute("insert into public.token values (%s)", (token.name,))
                cursors.append(self.conn.execute("select %s::int, %s::text", (n, token.name)))
            for n, cursor in enumerate(cursors):
                self.same("pipelined", cursor.fetchone(), (n, token.name))

    def pipelined_error(self):
        with self.token(1, "failed") as token, self.fails(errors.DivisionByZero), self.conn.pipeline() as pipeline:
            self.conn.execute("insert into public.token values (%s)", (token.name,))
            self.conn.execute("select 1/%s::int", (0,))
            # Not prepared: the driver would take it for prepared although the server discards it.
            self.conn.execute("insert into public.token values (%s)", (token.name,), prepare=False)
            pipeline.sync()
        self.literal()

    def pipelined_syncs(self):
        with self.token() as token, self.token(1, "failed") as other, self.fails(errors.DivisionByZero), \
                self.conn.pipeline() as pipeline:
            self.conn.execute("insert into public.token values (%s)", (token.name,))
            pipeline.sync()
            self.conn.execute("insert into public.token values (%s)", (other.name,))
            self.conn.execute("select 1/%s::int", (0,))
            pipeline.sync()

    # COPY.

    def copy_in(self):
        rows = self.random.randint(1, 500)
        with self.token(rows) as token, self.conn.cursor().copy("copy public.token from stdin") as copy:
            for _ in range(rows):
                copy.write_row((token.name,))

    def copy_bad(self):
        kind = self.random.choice((errors.BadCopyFileFormat, ZeroDivisionError))
        with self.token(1, "failed") as token, self.fails(kind):
            with self.conn.cursor().copy("copy public.token from stdin") as copy:
                copy.write(f"{token.name}\n")
                copy.write("a\tb\tc\n" if kind is errors.BadCopyFileFormat else str(1 // 0))

    def copy_out(self):
        name, rows = self.next(), self.random.randint(0, 2000)
        with self.conn.cursor().copy(f"copy (select '{name}', n from generate_series(1, {rows}) n) to stdout") as copy:
            lines = b"".join(copy).decode().splitlines()
        self.same("copied", lines, [f"{name}\t{n}" for n in range(1, rows + 1)])

    # The session.

    def setting(self):
        act = self.random.choice((self.set_path, self.set_title, self.reset_path, self.reset_all, self.set_locally))
        act()
        self.settings()

    def settings(self):
        name, path = self.found_path()
        shown = "current_setting('search_path'), current_setting('application_name')"
        got = self.value(f"select name, {shown} from spot where 1 = %s", 1)
        self.same("settings", got, (name, path, self.title))

    def free(self, text):
        """Runs what may free the driver's statements, which it learns from a text that it has not seen before only."""
        self.conn.execute(f"{text} -- {self.next()}", prepare=False)

    def set_path(self):
        path = self.random.choice(("north", "south"))
        if self.random.random() < 0.3:
            self.conn.execute("begin")
            self.conn.execute(f"set search_path to {path}")
            self.conn.execute("rollback")
            return
        self.conn.execute(f"set search_path to {path}")
        self.path = path

    def set_title(self):
        title = self.next()
        self.conn.execute("set application_name = '%s'; select 1" % title, prepare=False)
        self.title = title

    def set_locally(self):
        self.conn.execute("begin")
        self.conn.execute("set local search_path = south")
        self.same("set local", self.value("select name from spot"), ("south",))
        self.conn.execute("commit")

    def reset_path(self):
        self.conn.execute("reset search_path")
        self.path = self.start_path

    def reset_all(self):
        self.free(self.random.choice(("reset all", "discard all")))
        self.path, self.title = self.start_path, self.name

    def temporary(self):
        name = self.next()
        self.conn.execute(f"create temporary table own as select '{name}'::text as name")
        for _ in range(3):
            self.same("temporary table", self.value("select name from own"), (name,))
        if self.random.random() < 0.3:
            # The session ends with it, and nobody else finds it.
            self.conn.close()
            raise Left
        self.conn.execute("drop table own")

    def lock(self):
        number = self.random.randint(1, 5)
        self.value("select pg_advisory_lock(%s)", number)
        self.conn.execute("update public.holder set client = %s where lock = %s", (self.name, number))
        for _ in range(3):
            self.same("locked", self.value("select client from public.holder where lock = %s", number), (self.name,))
        self.same("unlock", self.value("select pg_advisory_unlock(%s)", number), (True,))

    def sequence(self):
        self.conn.execute("begin")
        drawn = self.value("select nextval('public.ticket')")
        self.same("currval", self.value("select currval('public.ticket')"), drawn)
        self.conn.execute("commit")

    def listen(self):
        heard, payload = [], self.next()
        self.conn.add_notify_handler(hear := lambda notification: heard.append((notification.pid, notification.payload)))
        self.conn.execute("listen stress")
        self.conn.execute("select pg_notify('stress', %s)", (payload,))
        self.value("select 1")
        own = [notification for notification in heard if notification[1] == payload]
        self.same("own notification", own, [(self.conn.info.backend_pid, payload)])
        self.conn.execute("unlisten *")
        self.conn.remove_notify_handler(hear)

    def cursor(self):
        name, rows = self.next(), self.random.randint(0, 50)
        hold = self.random.random() < 0.3
        if not hold:
            self.conn.execute("begin")
        with self.conn.cursor(name="c", withhold=hold) as cursor:
            cursor.itersize = 7
            cursor.execute("select %s::text, n from generate_series(1, %s) n", (name, rows))
            self.same("cursor", list(cursor), [(name, n) for n in range(1, rows + 1)])
        if not hold:
            self.conn.execute("commit")

    def sql_prepared(self):
        name = self.next()
        self.conn.execute(f"prepare own as select '{name}', $1::text", prepare=False)
        self.same("execute", self.conn.execute("execute own('x')").fetchone(), (name, "x"))
        self.free(self.random.choice(("deallocate own", "deallocate all", "select 1; deallocate own")))

    def cancel(self):
        """Cancels until it is heard: directly, too, one that comes before its statement does nothing."""
        ended = threading.Event()
        canceller = threading.Thread(target=self.keep_cancelling, args=(ended,))
        canceller.start()
        try:
            with self.fails(errors.QueryCanceled):
                self.value(SLEEP)
        finally:
            ended.set()
            canceller.join()
        # A signal that was sent when the statement had ended.
        with contextlib.suppress(errors.QueryCanceled):
            self.value("select 1")

    def keep_cancelling(self, ended):
        with contextlib.suppress(psycopg.Error):
            while not ended.wait(0.05):
                self.conn.cancel_safe(timeout=30)


class Token:
    def __init__(self, name, sent):
        self.name, self.sent, self.outcome = name, sent, "failed"


# How often each is done, and whether it leaves something in the session, if only for as long as the client is there.
STATELESS = {
    Psycopg.literal: 10, Psycopg.shared: 10, Psycopg.typed: 5, Psycopg.thing: 8, Psycopg.shifting: 4, Psycopg.large: 2,
    Psycopg.wrong_statement: 5, Psycopg.insert: 8, Psycopg.several: 4, Psycopg.transaction: 8, Psycopg.failed_transaction: 3,
    Psycopg.abandoned: 1, Psycopg.abandoned_at_work: 1, Psycopg.pipeline: 6, Psycopg.pipelined_error: 3, Psycopg.pipelined_syncs: 3,
    Psycopg.copy_in: 3, Psycopg.copy_bad: 2, Psycopg.copy_out: 2, Psycopg.sequence: 2, Psycopg.cancel: 1,
}
STATEFUL = {
    Psycopg.setting: 8, Psycopg.settings: 8, Psycopg.temporary: 2, Psycopg.lock: 2, Psycopg.listen: 2, Psycopg.cursor: 3,
    Psycopg.sql_prepared: 2,
}


def main():
    arguments = Arguments(STATELESS, STATEFUL)
    clients = [Psycopg(arguments, number) for number in range(arguments.clients)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(f"done {sum(client.operations for client in clients)}")


main()
