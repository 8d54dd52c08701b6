#!/usr/bin/env python3
"""Tells programs apart that differ by a few percent: all of them run side by side, and pgbench visits them in short bursts,
in another order each time, so that whatever the machine does otherwise meets all of them alike.

    tests/bench/bursts.py --case short old=/tmp/pgferry.old new=target/pgo/pgferry pgbouncer

Each is NAME=PROGRAM for a build of pgferry, or the name of a folder under peers/. The last is what the others are compared
with.
"""

import argparse
import contextlib
import os
import random
import re
import sys
import time
from pathlib import Path
from statistics import median, stdev

import peers as peers_module
from bench import ROOT, newest_postgres
from cases import CASES
from lab import Lab


def main():
    options = arguments()
    lab = Lab(options.postgres)
    function, variant, title, _ = CASES[options.case]
    load = [*function.load(lab), "-n", "-t", str(options.transactions)]
    clients = int(load[load.index("-c") + 1])
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(start(lab, name, program, variant)) for name, program in options.programs}
        figures = {name: [] for name in running}
        for at in running.values():
            visit(lab, at, load, function.user, clients * options.transactions)
        for _ in range(options.rounds):
            for name in random.sample(list(running), len(running)):
                figures[name].append(visit(lab, running[name], load, function.user, clients * options.transactions))
    print(f"{title}: {options.rounds} bursts of {clients} x {options.transactions} transactions")
    report(figures)
    return 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    can = [name for name, (function, *_) in CASES.items() if hasattr(function, "load")]
    parser.add_argument("--case", choices=can, default="short", help="what pgbench does [short]")
    parser.add_argument("--rounds", type=int, default=40, help="how often each is visited [40]")
    parser.add_argument("--transactions", type=int, default=100, help="how many each client makes in a burst [100]")
    parser.add_argument("--postgres", default=os.environ.get("PGFERRY_TEST_PG_BIN") or newest_postgres())
    parser.add_argument("programs", nargs="+", type=lambda text: text.partition("=")[::2], metavar="NAME[=PROGRAM]")
    return parser.parse_args()


def start(lab, name, program, variant):
    folder = "pgferry" if program else name
    # What is found by a path is not looked for in PATH.
    pgferry = Path(program or ROOT / "target" / "pgo" / "pgferry").resolve()
    places = {"pgferry": str(pgferry), "pgbouncer": os.environ.get("PGBOUNCER") or "pgbouncer"}
    found = [peer for peer in peers_module.all_peers(places) if peer.key == folder]
    if not found or not found[0].command:
        raise SystemExit(f"bursts: there is no program {name} here")
    # Its folder and its log are its own.
    found[0].key = name
    return peers_module.Running(lab, found[0], variant)


def visit(lab, at, load, user, transactions):
    """CPU time and transactions per second of one burst."""
    before, began = cpu_ns(at.pid), time.monotonic()
    status, said = lab.pgbench(*at.address(), *load, user=user)
    took = time.monotonic() - began
    done = re.search(r"actually processed: (\d+)", said)
    if status != 0 or not done or int(done.group(1)) != transactions:
        raise SystemExit(f"bursts: {said.strip()}")
    return (cpu_ns(at.pid) - before) / 1000 / transactions, transactions / took


def cpu_ns(pid):
    """What the scheduler has counted for all threads: finer than ticks."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def report(figures):
    base = list(figures.values())[-1]
    width = max(map(len, figures))
    for name, bursts in figures.items():
        cpu, tps = (median(burst[at] for burst in bursts) for at in (0, 1))
        ratios = [[burst[at] / other[at] for burst, other in zip(bursts, base)] for at in (0, 1)]
        error = stdev(ratios[0]) / len(bursts) ** 0.5 if len(bursts) > 1 else 0.0
        print(
            f"  {name:<{width}}  {cpu:6.1f} proxy µs/txn  {tps:7.0f} tps"
            f"   ratios: {median(ratios[0]):.3f} (±{error:.3f})  {median(ratios[1]):.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
