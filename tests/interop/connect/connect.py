#!/usr/bin/env python3
"""Runs each connection in the tables of docs/connecting.md, with the driver it is for, through a pgferry in each mode:

    connect.py --pgferry PROGRAM --upstream HOST:PORT --work DIR --python PYTHON --node DIR --go PROGRAM --rust PROGRAM

`connect.py --read` prints what it finds on the page, and connects to nothing.
"""
import argparse
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent.parent.parent / "docs" / "connecting.md"
JARS = "/usr/share/java/postgresql.jar:/usr/share/java/junixsocket-common.jar"
ROW = re.compile(r"^\| ([^|]+) \| (unix socket|abstract socket|TCP)( with TLS)? \| `([^`]+)` \|$", re.M)
NOT_ABSTRACT = re.compile(r"^(.+) were tried and can't connect to abstract sockets\.")


def main():
    rows, not_abstract = read()
    if sys.argv[1:] == ["--read"]:
        known = commands(argparse.Namespace(python="python", node="", go="", rust=""))
        if unknown := {driver for driver, *_ in rows} - set(known):
            sys.exit(f"{DOCS}: nothing here runs {', '.join(sorted(unknown))}")
        print("\n".join(f"{driver}, {over}{' with TLS' if tls else ''}" for driver, over, tls, _ in rows))
        print("\n".join(f"{driver}, not by an abstract socket" for driver in sorted(not_abstract)))
        return 0
    options = arguments()
    runners = commands(options)
    failures = 0
    for mode in ("session", "transaction"):
        with Pgferry(options, mode) as pgferry:
            for driver, over, tls, form in rows:
                failures += not check(pgferry, runners[driver], driver, over, tls, form, mode)
            if mode == "session":
                failures += abstract_sockets(pgferry, runners, rows, not_abstract)
    return failures > 0


def read():
    """The rows of the page's tables, and the drivers of which it says that they do not know abstract sockets."""
    text = DOCS.read_text()
    rows = [(driver, over, bool(tls), form) for driver, over, tls, form in ROW.findall(text)]
    said = [match for part in text.split("\n\n") if (match := NOT_ABSTRACT.match(" ".join(part.split())))]
    if len(said) != 1:
        sys.exit(f"{DOCS}: {len(said)} paragraphs say which drivers can't connect to abstract sockets")
    not_abstract = {{"pgx": "pgx v4"}.get(name, name) for name in re.split(r", | and ", said[0].group(1))}
    if unknown := not_abstract - {driver for driver, *_ in rows}:
        sys.exit(f"{DOCS}: no row is for {', '.join(sorted(unknown))}")
    if both := not_abstract & {driver for driver, over, *_ in rows if over == "abstract socket"}:
        sys.exit(f"{DOCS}: abstract sockets are said to work and not to work for {', '.join(sorted(both))}")
    return rows, not_abstract


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("pgferry", "upstream", "work", "python", "node", "go", "rust"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


def commands(options):
    """What runs a driver, by its name in the tables."""
    python = [options.python, HERE / "connect_python.py"]
    node = ["env", f"NODE_PACKAGES={options.node}", "node", HERE / "connect.mjs"]
    php, ruby = ["php", HERE / "connect.php"], ["ruby", "-W0", HERE / "connect.rb"]
    of = {
        "psql": ["psql", "-X", "-At", "-c", "select current_user || ' ' || current_database()", "-d"],
        "pgjdbc": ["java", "-cp", JARS, HERE / "Connect.java"],
        "DBD::Pg": ["perl", HERE / "connect.pl"],
    }
    for runner, drivers in [
        (python, ("psycopg", "psycopg2", "asyncpg", "pg8000", "SQLAlchemy", "Django")),
        (node, ("node-postgres", "postgres.js")),
        ([options.go], ("lib/pq", "pgx v4")),
        ([options.rust], ("tokio-postgres", "sqlx")),
        (php, ("PHP PDO", "PHP pgsql")),
        (ruby, ("Ruby pg", "Rails")),
    ]:
        of |= {driver: [*runner, driver] for driver in drivers}
    return of


class Pgferry:
    """A pgferry as the page has it, with a directory, a name and a port of its own."""

    def __init__(self, options, mode):
        self.dir = Path(options.work) / mode
        self.dir.mkdir()
        self.name = f"@pgferry-{os.getpid()}-{mode}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = self.dir / "log"
        listen = [part for at in (self.dir, self.name, f"127.0.0.1:{self.port}") for part in ("--listen", str(at))]
        command = [options.pgferry, "--upstream", f"postgres://{options.upstream}", "--port", "5432", "--pool-mode", mode, *listen]
        environment = {**os.environ, "PGFERRY_LOG_CONNECTIONS": "true"}
        self.child = subprocess.Popen(command, stderr=self.log.open("w"), env=environment)
        while "ready: " not in self.log.read_text():
            if self.child.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()

    def form(self, form):
        """A form of the page's with this one's directory, name and port."""
        quoted = str(self.dir).replace("/", "%2F")
        form = form.replace("/run/pgferry", str(self.dir)).replace("%2Frun%2Fpgferry", quoted)
        return form.replace("@pgferry", self.name).replace("6432", str(self.port))

    def logins(self):
        """Of each login so far whether it was encrypted."""
        lines = self.log.read_text().splitlines()
        return ["tls=" in line for line in lines if "client logged in" in line]


def run(command, form):
    command = [*map(str, command), form]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "it does not end"
    said = done.stdout.strip()
    return said if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it fails"])[-1]


def check(pgferry, command, driver, over, tls, form, mode):
    before = len(pgferry.logins())
    said = run(command, pgferry.form(form))
    logins = []
    # The log comes by a queue.
    for _ in range(100):
        logins = pgferry.logins()[before:]
        if said != "app shop" or logins:
            break
        time.sleep(0.05)
    ok = said == "app shop" and logins != [] and logins[-1] == tls
    how = f"{driver}, {over}{' with TLS' if tls else ''}, {mode}"
    if ok:
        print(f"ok: {how}")
    else:
        print(f"WRONG: {how}: {pgferry.form(form)}\n  {said}; encrypted: {logins}")
    return ok


def abstract_sockets(pgferry, runners, rows, not_abstract):
    """The page says which drivers do not know abstract sockets: none of them has learnt it."""
    failures = 0
    for driver in sorted(not_abstract):
        forms = [form for of, over, tls, form in rows if of == driver and over == "unix socket"]
        for form in forms:
            other = form.replace("/run/pgferry/.s.PGSQL.5432", "@pgferry").replace("/run/pgferry", "@pgferry")
            other = other.replace("%2Frun%2Fpgferry", "%40pgferry")
            if run(runners[driver], pgferry.form(other).replace("%40pgferry", "%40" + pgferry.name[1:])) == "app shop":
                print(f"WRONG: {driver} knows abstract sockets: {other}")
                failures += 1
    return failures


sys.exit(main())
