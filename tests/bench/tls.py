#!/usr/bin/env python3
"""Measures what TLS with the certificate that pgferry makes itself costs clients over loopback TCP: the same load in clear text
and encrypted, in turns, on one pgferry.

    tests/bench/tls.py --pgferry target/release/pgferry
"""

import argparse
import os
import re
import resource
import socket
import ssl
import struct
import sys
from pathlib import Path
from statistics import median

from bench import ROOT, newest_postgres
from clients import startup, until_ready
from lab import Lab, cpu_us, rss_kb, wait_for

LOADS = {
    "short connections": ("-C", "-M", "simple", "-c", "10", "-j", "2"),
    "long-lived clients": ("-S", "-M", "simple", "-c", "10", "-j", "2"),
}


def main():
    options = arguments()
    lab = Lab(options.postgres)
    pgferry, port = start(lab, options.pgferry)
    print("| | | tps | proxy µs/txn | client µs/txn |\n|---|---|---|---|---|")
    for name, load in LOADS.items():
        load = (*load, *(("-f", lab.select_1) if "-C" in load else ()))
        figures = {"disable": [], "prefer": []}
        for _ in range(options.runs):
            for mode, runs in figures.items():
                runs.append(pgbench(lab, pgferry, port, mode, load, options.seconds))
        for mode, what in [("disable", "clear text"), ("prefer", "TLS")]:
            tps, proxy, client = (median(values) for values in zip(*figures[mode]))
            print(f"| {name} | {what} | {tps:.0f} | {proxy:.0f} | {client:.0f} |")
    for what, connect in [("clear text", plain), ("TLS", encrypted)]:
        print(f"| an idle client | {what} | {idle(pgferry, port, connect, options.idle):.0f} bytes | | |")
    return 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="how often each load is run [7]")
    parser.add_argument("--seconds", type=int, default=2, help="how long a run takes [2]")
    parser.add_argument("--idle", type=int, default=400, help="how many idle clients there are [400]")
    parser.add_argument("--pgferry", type=Path, default=ROOT / "target" / "release" / "pgferry")
    parser.add_argument("--postgres", default=os.environ.get("PGFERRY_TEST_PG_BIN") or newest_postgres())
    return parser.parse_args()


def start(lab, program):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program.resolve(), "-u", f"postgres://{lab.host}:{lab.port}", "-l", f"127.0.0.1:{port}"]
    child = lab.start(command, "pgferry")
    log = lab.dir / "pgferry.log"
    wait_for(lambda: "ready: " in log.read_text(errors="replace"), "pgferry", log)
    return child.pid, port


def pgbench(lab, pgferry, port, mode, load, seconds):
    """Transactions per second, and the microseconds of the proxy and the client that one takes."""
    os.environ["PGSSLMODE"] = mode
    at = ("-h", "127.0.0.1", "-p", str(port), "-n")
    before = cpu_us(pgferry), children_us()
    status, said = lab.pgbench(*at, *load, "-T", str(seconds))
    after = cpu_us(pgferry), children_us()
    done = re.search(r"actually processed: (\d+)", said)
    if status != 0 or not done:
        raise SystemExit(f"tls: {said.strip()}")
    done = int(done.group(1))
    tps = float(re.search(r"^tps = ([0-9.]+)", said, re.M).group(1))
    return tps, (after[0] - before[0]) / done, (after[1] - before[1]) / done


def children_us():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e6


def plain(port):
    return socket.create_connection(("127.0.0.1", port))


def encrypted(port):
    client = plain(port)
    client.sendall(struct.pack(">ii", 8, 80877103))
    if client.recv(1) != b"S":
        raise SystemExit("tls: TLS is not offered")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(client)


def idle(pgferry, port, connect, number):
    """Bytes of the proxy's memory per client that is logged in and does nothing."""
    waiting = []
    # The first ones warm it up.
    for count in (20, number):
        before = rss_kb(pgferry)
        for _ in range(count):
            client = connect(port)
            client.sendall(startup())
            until_ready(client)
            waiting.append(client)
    used = (rss_kb(pgferry) - before) * 1024 / number
    for client in waiting:
        client.close()
    return used


sys.exit(main())
