"""The pgferry of a round: started, reloaded, replaced, asked, ended."""
import os
import signal
import subprocess

import psycopg

from server import eventually


class Ferry:
    """The pgferry processes of one round: the one that clients come to, and those that it has replaced."""

    def __init__(self, program, work, port, settings):
        self.program, self.work, self.port = program, work, port
        self.settings = settings
        self.config = work / "pgferry.toml"
        self.processes = []
        self.logs = []
        self.write()
        self.spawn()

    def write(self):
        self.config.write_text("".join(f"{key} = {toml(value)}\n" for key, value in self.settings.items()))

    def spawn(self, *flags):
        """Starts a process, and waits until it serves."""
        log = self.work / f"pgferry-{len(self.logs)}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
            name: value for name, value in os.environ.items() if name == "PGFERRY_LOG_LEVEL"}
        process = subprocess.Popen([self.program, "-c", str(self.config), *flags], stderr=log.open("w"), env=environment)
        self.processes.append(process)
        self.logs.append(log)
        if not eventually(lambda: "ready: " in log.read_text() or process.poll() is not None) or process.poll() is not None:
            raise SystemExit(log.read_text())

    def reload(self, **settings):
        self.settings |= settings
        self.write()
        self.processes[-1].send_signal(signal.SIGHUP)

    def replace(self):
        self.spawn("--replace")

    def command(self, text):
        """Runs a command at the console; returns its rows as dicts."""
        with psycopg.connect(host=str(self.work), port=self.port, user="postgres", dbname="pgferry", autocommit=True) as conn:
            cursor = psycopg.ClientCursor(conn)
            cursor.execute(text)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row)) for row in cursor.fetchall()] if names else []

    def show(self, table):
        return self.command(f"show {table}")

    def clients(self):
        """How many clients pgferry counts, by its list and by its pools."""
        counts = {row["list"]: int(row["items"]) for row in self.show("lists")}
        pools = [row for row in self.show("pools") if row["database"] != "pgferry"]
        keys = [key for key in (pools[0] if pools else {}) if key.startswith("cl_") or key == "sv_active"]
        # One of them asks.
        return counts["used_clients"] - 1 + sum(int(row[key]) for row in pools for key in keys)

    def end(self):
        """Ends what runs; returns what is wrong with how it ends, or with what was logged."""
        wrong = []
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                status = process.wait(60)
            except subprocess.TimeoutExpired:
                status = "nothing: it does not end"
                process.kill()
                process.wait()
            if status != 0:
                wrong.append(f"pgferry exits with {status}")
        for log in self.logs:
            wrong += [f"pgferry's log: {line}" for line in log.read_text().splitlines() if "panic" in line]
        return wrong


def toml(value):
    """A value as TOML has it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
