#!/usr/bin/env python3
"""Drivers at work while what is behind them breaks: rounds of half a minute, each of a seed.

    stress.py --pgferry PROGRAM --bin DIR --work DIR --seconds N --seed N --direct 0|1 --worker NAME=COMMAND…

A seed decides the mode, the reset, the sizes, the drivers and what breaks when, not how the processes interleave. A round is
"gentle", where pgferry is reloaded and replaced and no client may notice, or "rough", where backends are killed, PostgreSQL
restarts and the network is cut, and a client may be told so. With --direct 1 the workers connect to PostgreSQL itself.

A worker is a program with the arguments DRIVER HOST PORT USER PASSWORD CLIENTS SECONDS SESSION LEAVES SEED: its clients
work for so many seconds, with at most SESSION operations on a connection, and end. With LEAVES 0 they leave nothing in their
sessions, not even prepared statements. Its standard output has lines:

    acked TOKEN ROWS    so many rows of the token were committed
    unknown TOKEN ROWS  that, or none at all
    failed TOKEN ROWS   nothing of it was committed
    error: CODE TEXT    the SQLSTATE (or -) and text of an error that the client did not provoke
    wrong: TEXT         something that PostgreSQL would not do
    done N              at the end: how many operations were carried out
"""
import argparse
import contextlib
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ferry import Ferry
from server import DATABASES, ROLES, Server, eventually, free_port
from verdict import Verdict

ROUND = 35
# How long clients may take to end when nothing breaks any more, in seconds: for a machine as slow as can be.
PATIENCE = 150
RESETS = ("always", "on_change", "never")


class Plan:
    """What a seed makes of a round."""

    def __init__(self, seed, drivers, direct):
        self.random = random.Random(seed)
        pick = self.random.choice
        self.seed, self.direct = seed, direct
        # In turn, so that a few rounds have them all.
        self.mode, self.reset = ("session", "transaction")[seed % 2], RESETS[seed // 2 % 3]
        self.gentle = self.random.random() < 0.3
        self.workers, self.pool_size, self.clients = pick((1, 2)), pick((1, 2, 3, 4, 5)), pick((2, 8, 25, 60, 200))
        # Without a reserve a client that stays keeps others out in session mode, so none stays for long.
        self.reserve = pick((0, "auto"))
        # Nothing is cleared away there, by design.
        self.leaves = int(direct or (self.mode, self.reset) != ("session", "never"))
        waits = self.mode == "session" and self.reserve == 0
        self.session = pick((1, 2, 5)) if waits else pick((1, 5, 50, 1000))
        self.statements, self.buffer = pick((3, 20, 200)), pick(("4kB", "32kB"))
        self.role, self.password = pick(ROLES)
        self.tcp = pick((False, True))
        chosen = self.random.sample(drivers, min(len(drivers), self.clients))
        self.shares = {driver: self.clients // len(chosen) + (n < self.clients % len(chosen))
                       for n, driver in enumerate(chosen)}

    def __str__(self):
        how = "direct" if self.direct else (
            f"{self.mode} mode, reset {self.reset}, pool_size {self.pool_size} with reserve {self.reserve}, "
            f"{self.workers} workers, {self.statements} statements, buffers of {self.buffer}")
        over = "TCP" if self.tcp or self.direct else "unix socket"
        return (f"seed {self.seed}, {'gentle' if self.gentle else 'rough'}: {how}; {self.clients} clients of {self.role} over "
                f"{over}, {self.session} operations per session: {', '.join(self.shares)}")

    def settings(self, upstream, work, port):
        """pgferry's settings. Its limits on time are beyond what a slow machine needs."""
        return {
            "upstream": f"postgres://127.0.0.1:{upstream}", "listen": [str(work), f"127.0.0.1:{port}"], "port": port,
            "pool_mode": self.mode, "reset": self.reset, "pool_size": self.pool_size, "reserve_pool_size": self.reserve,
            "workers": self.workers, "max_prepared_statements": self.statements, "buffer_size": self.buffer,
            "query_wait_timeout": "300s", "client_login_timeout": "300s", "cleanup_timeout": "60s",
            "drain_timeout": "600s" if self.gentle else "3s",
        }


class Round:
    """One round: the workers, what breaks meanwhile, and what is left behind."""

    def __init__(self, options, plan, server, work, seconds):
        self.options, self.plan, self.server, self.work, self.seconds = options, plan, server, work, seconds
        self.random = plan.random
        self.verdict = Verdict(away=not plan.gentle, direct=plan.direct)
        self.relay = self.ferry = None
        self.relay_port = free_port()
        self.processes, self.readers = {}, []

    def run(self):
        self.server.clear()
        try:
            self._start_relay()
            if not self.plan.direct:
                port = free_port()
                settings = self.plan.settings(self.relay_port, self.work, port)
                self.ferry = Ferry(self.options.pgferry, self.work, port, settings)
            self._start_workers()
            self._work()
        finally:
            self._end()
        if not eventually(lambda: not self.server.backends()):
            self.verdict.wrong.append(f"connections stay at the server: {self.server.backends()}")
        self.verdict.judge(self.server.tokens())
        return self.verdict

    def _start_relay(self):
        command = [sys.executable, Path(__file__).parent / "relay.py", self.relay_port, self.server.port, self.plan.seed]
        self.relay = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.relay.stdout.readline()

    def _end(self):
        """Ends all that the round has started: what hangs, too."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.verdict.wrong += self.ferry.end() if self.ferry else []
        if self.relay:
            self.relay.kill()
            self.relay.wait()

    def _work(self):
        started = eventually(lambda: self.verdict.lines > 0)
        end = time.monotonic() + self.seconds
        while started and time.monotonic() < end and any(process.poll() is None for process in self.processes.values()):
            self._disturb()
            time.sleep(self.random.uniform(0.2, 2))
        if self._await_workers() and self.ferry:
            self._counted_out()

    def _start_workers(self):
        for number, (driver, clients) in enumerate(self.plan.shares.items()):
            over_tcp = self.plan.tcp or self.plan.direct or driver == "pgjdbc"
            port = self.ferry.port if self.ferry else self.relay_port
            arguments = [driver, "127.0.0.1" if over_tcp else str(self.work), port, self.plan.role, self.plan.password,
                         clients, self.seconds, self.plan.session, self.plan.leaves, self.plan.seed * 10 + number]
            command = [*shlex.split(self.options.workers[driver]), *map(str, arguments)]
            errors = (self.work / f"{driver}.err").open("w")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True)
            reader = threading.Thread(target=self._read, args=(driver, process), daemon=True)
            reader.start()
            self.processes[driver] = process
            self.readers.append(reader)

    def _read(self, driver, process):
        for line in process.stdout:
            self.verdict.take(driver, line.rstrip("\n"))

    # What breaks.

    def _disturb(self):
        gentle = {self._alter: 3}
        if self.ferry:
            gentle |= {self._reload: 2, self._replace: 1, self._reconnect: 1}
        rough = {self._terminate: 5, self._relay: 6, self._kill: 0.4, self._restart: 0.6}
        kinds = gentle if self.plan.gentle else gentle | rough
        self.random.choices(list(kinds), list(kinds.values()))[0]()

    def _alter(self):
        kind = self.random.choice(("int", "bigint", "text"))
        for database in DATABASES:
            # Clients in a transaction may use the table for as long as they like.
            with contextlib.suppress(Exception):
                self.server.query(f"set lock_timeout = '1s'; alter table shifting alter value type {kind} using value::{kind}",
                                  database)

    def _reload(self):
        self.ferry.reload(pool_size=self.random.choice((1, 2, 3, 4, 5)), max_prepared_statements=self.random.choice((3, 20, 200)))

    def _replace(self):
        self.verdict.replaced = True
        self.ferry.replace()

    def _reconnect(self):
        self.ferry.command("reconnect")

    def _terminate(self):
        share = self.random.choice((0.1, 0.5, 1))
        with contextlib.suppress(Exception):
            self.server.query("select pg_terminate_backend(pid) from pg_stat_activity"
                              f" where usename like 'stress%' and random() < {share}")

    def _kill(self):
        """PostgreSQL ends every connection when a backend dies."""
        for pid, *_ in self.server.backends()[:1]:
            subprocess.run(["kill", "-KILL", str(pid)], check=False)
        time.sleep(0.5)
        self.server.wait_ready()

    def _restart(self):
        self.server.stop(self.random.choice(("fast", "immediate")))
        time.sleep(self.random.choice((0, 1, 3)))
        self.server.start()

    def _relay(self):
        share = self.random.choice((0.1, 0.5, 1))
        command = self.random.choice((
            f"reset {share}", f"stall {share} {self.random.uniform(0.1, 3):.1f}",
            f"swallow {share} {self.random.uniform(0.05, 2):.2f} {self.random.choice(('to-server', 'to-client'))}"))
        self.relay.stdin.write(command + "\n")
        self.relay.stdin.flush()

    # What is left when nothing breaks any more.

    def _await_workers(self):
        ended = eventually(lambda: all(process.poll() is not None for process in self.processes.values()), PATIENCE)
        for driver, process in self.processes.items():
            if process.poll() is None:
                self.verdict.wrong.append(f"{driver}: it hangs, and does not end in {PATIENCE} s")
            elif process.returncode != 0:
                said = (self.work / f"{driver}.err").read_text()[-1000:]
                self.verdict.wrong.append(f"{driver}: it exits with {process.returncode}: {said}")
        if not ended:
            self._picture()
            return False
        for reader in self.readers:
            reader.join()
        self.verdict.wrong += [f"{driver}: it ends without a word" for driver in set(self.processes) - self.verdict.done]
        return True

    def _picture(self):
        """What there is to see of clients that hang."""
        print("\n".join(f"  backend {row}" for row in self.server.backends()))
        for table in ("clients", "servers", "pools") if self.ferry else ():
            print("\n".join(f"  {table}: {row}" for row in self.ferry.show(table)))

    def _counted_out(self):
        """pgferry's counters are back at no client, what it keeps is clean, and is no more than the pools may have."""
        former = self.ferry.processes[:-1]
        if not eventually(lambda: all(process.poll() is not None for process in former)):
            self.verdict.wrong.append("a replaced pgferry does not end though its clients have")
        if not eventually(lambda: self.ferry.clients() == 0):
            self.verdict.wrong.append(f"clients are counted that are gone: {self.ferry.show('pools')}")
        cap = self.ferry.settings["pool_size"] * len(DATABASES)
        if not eventually(lambda: len(self.server.backends()) <= cap):
            self.verdict.wrong.append(f"more than {cap} connections stay: {self.server.backends()}")
        if not eventually(lambda: not self.server.backends("state <> 'idle'")):
            self.verdict.wrong.append(f"connections of no client are at work: {self.server.backends()}")
        if not eventually(lambda: not self.server.query("select * from pg_locks where locktype = 'advisory'")):
            self.verdict.wrong.append(f"locks of no client are held: {self.server.backends()}")


def alike(lines):
    """One of each kind of line, and how many there are of it."""
    kinds = {}
    for line in lines:
        kinds.setdefault(re.sub(r"\d+", "0", line)[:120], []).append(line)
    return [(kind[0], len(kind)) for kind in kinds.values()]


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("pgferry", "bin", "work"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    for name in ("seconds", "seed", "direct"):
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--worker", action="append", required=True)
    options = parser.parse_args()
    options.workers = dict(worker.split("=", 1) for worker in options.worker)
    return options


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    server = Server(options.bin, options.work)
    failures, seed, end = 0, options.seed, time.monotonic() + options.seconds
    try:
        while seed == options.seed or time.monotonic() < end - 5:
            plan = Plan(seed, list(options.workers), bool(options.direct))
            print(plan, flush=True)
            work = options.work / str(seed)
            work.mkdir()
            verdict = Round(options, plan, server, work, min(ROUND, max(5, int(end - time.monotonic())))).run()
            print(f"{'WRONG' if verdict.wrong else 'ok'}: {verdict.summary()}")
            for line, count in alike(verdict.wrong):
                print(f"  {line}" + (f" (and {count - 1} like it)" if count > 1 else ""))
            failures += bool(verdict.wrong)
            seed += 1
    finally:
        server.stop("immediate")
    print(f"{seed - options.seed} rounds, {failures} with something wrong"
          + (f"; STRESS_SEED={options.seed} makes them again" if failures else ""))
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
