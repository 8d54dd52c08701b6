#!/usr/bin/env python3
"""Measures pgferry against its peers on this machine: ratios, each from medians of interleaved runs."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import peers as peers_module
import report
from cases import CASES, TRAINING, Failed, Size
from lab import Lab, run, wait_for

# What is counted where no cases are named.
COUNTED = ["short", "short-session", "long-simple", "long-extended", "long-prepared"]
HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def main():
    options = arguments()
    lab = Lab(options.postgres)
    places = {"pgferry": str(options.pgferry), "pgbouncer": options.pgbouncer}
    found = [peer for peer in peers_module.all_peers(places) if not options.peers or peer.key in options.peers]
    require_pgferry(found, options.cases)
    if options.count:
        return count(lab, found, options)
    names = {peer.key: peer.name for peer in found}
    results = measure(lab, found, options)
    if options.train:
        return 0
    about = caption(options, found)
    lines = [about, *report.table(results, CASES, names)]
    print("\n".join(lines))
    if options.json:
        versions = {peer.key: peer.version() for peer in found}
        run_as = {"machine": machine(), "runs": options.runs, "seconds": options.seconds, "versions": versions}
        Path(options.json).write_text(json.dumps({**run_as, "results": results}, indent=1) + "\n")
    if options.chart:
        Path(options.chart).write_text(report.chart(results, names, about))
    return 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often everything is measured [5]")
    parser.add_argument("--seconds", type=int, default=5, help="how long a pgbench run takes [5]")
    parser.add_argument("--cases", type=lambda text: text.split(","), help=", ".join(CASES))
    parser.add_argument("--peers", type=lambda text: text.split(","), help="folders under peers/ [all that are here]")
    parser.add_argument("--smoke", action="store_true", help="once, and as little as shows that all of it works")
    parser.add_argument("--train", action="store_true", help="once, and other work than is measured: see TRAINING in cases.py")
    parser.add_argument("--json", help="where the figures of every run go")
    parser.add_argument("--chart", help="where an SVG goes")
    parser.add_argument("--count", choices=["syscalls", "instructions"], help="count these per transaction instead")
    parser.add_argument("--pgferry", type=Path, default=ROOT / "target" / "pgo" / "pgferry")
    parser.add_argument("--pgbouncer", default=os.environ.get("PGBOUNCER") or "pgbouncer", help="[$PGBOUNCER]")
    parser.add_argument("--postgres", default=os.environ.get("PGFERRY_TEST_PG_BIN") or newest_postgres())
    options = parser.parse_args()
    known = TRAINING if options.train else CASES
    options.cases = options.cases or (COUNTED if options.count else list(known))
    unknown = [case for case in options.cases if case not in known]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
    uncounted = [case for case in options.cases if options.count and not hasattr(known[case][0], "load")]
    if uncounted:
        parser.error(f"these have no transactions to count per: {', '.join(uncounted)}")
    if options.smoke or options.train:
        options.runs = 1
    return options


def newest_postgres():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else "/usr/bin"


def require_pgferry(found, cases):
    """A case that is named is one in which pgferry is measured: if it can't be, that is an error and no empty table."""
    ours = [peer for peer in found if peer.key == "pgferry"]
    if not ours:
        raise SystemExit("bench: pgferry is not here, or not among --peers")
    missing = [case for case in cases if not ours[0].serves(case, {**CASES, **TRAINING}[case][1])]
    if missing:
        raise SystemExit(f"bench: pgferry does not serve {', '.join(missing)}")


def measure(lab, found, options):
    """The figures of every run, by case and peer."""
    size = Size(options.smoke, options.train, options.seconds)
    known = TRAINING if options.train else CASES
    results = {}
    for number in range(options.runs):
        for case in options.cases:
            function, variant, _, others = known[case]
            for peer in found:
                wanted = peer.key in ("pgferry", *others) or peer.key != "direct"
                if not wanted or not peer.serves(case, variant):
                    continue
                progress(f"run {number + 1} of {options.runs}: {case}, {peer.name}")
                try:
                    figures = function(lab, peer, variant, size)
                except Failed as failure:
                    if peer.key == "pgferry":
                        raise SystemExit(f"bench: {case}: {failure}") from None
                    print(f"{case}: {peer.name} can't: {failure}", file=sys.stderr)
                    continue
                results.setdefault(case, {}).setdefault(peer.key, []).append(figures)
    progress("")
    return results


def count(lab, found, options):
    """Syscalls (strace) or instructions (callgrind) per transaction: they don't depend on the machine's mood."""
    counter = syscalls if options.count == "syscalls" else instructions
    print(f"{options.count} per transaction")
    for case in options.cases:
        function, variant, title, _ = CASES[case]
        print(f"{title}")
        for peer in found:
            if not peer.command or not peer.serves(case, variant):
                continue
            try:
                with function.within(lab):
                    counted = counter(lab, peer, variant, function)
            except Failed as failure:
                print(f"  {peer.name:<12} can't: {failure}")
                continue
            print(f"  {peer.name:<12} {counted:>10.1f}", flush=True)
    return 0


def load(lab, at, function, rounds):
    """Has each client make so many transactions; returns how many they were."""
    status, said = lab.pgbench(*at.address(), "-n", *function.load(lab), "-t", str(rounds), user=function.user)
    done = re.search(r"actually processed: (\d+)", said)
    if status != 0 or not done:
        raise Failed(said.strip().splitlines()[-1])
    return int(done.group(1))


def syscalls(lab, peer, variant, function):
    with peers_module.Running(lab, peer, variant) as at:
        load(lab, at, function, 20)
        out = lab.dir / "strace.out"
        tracer = subprocess.Popen(
            ["strace", "-f", "-c", "-p", str(at.pid), "-o", str(out)], stderr=subprocess.PIPE, text=True
        )
        tracer.stderr.readline()
        done = load(lab, at, function, 100)
        tracer.send_signal(2)
        tracer.wait()
        total = re.search(r"^100\.00\s+\S+\s+\S+\s+(\d+)", out.read_text(), re.M)
        return int(total.group(1)) / done


def instructions(lab, peer, variant, function):
    """From when the peer is warm to its end: what starting costs depends on how long it takes to gather randomness."""
    out = lab.dir / "callgrind.out"
    out.write_text("")
    out.chmod(0o666)
    program = peer.program
    command = peer.command
    peer.program = "valgrind"
    callgrind = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    peer.command = ["valgrind", *callgrind, program, *command[1:]]
    try:
        with peers_module.Running(lab, peer, variant) as at:
            load(lab, at, function, 40)
            run(*lab.owner, "callgrind_control", "-i", "on", str(at.pid))
            done = load(lab, at, function, 100)
    finally:
        peer.program, peer.command = program, command
    wait_for(lambda: out.stat().st_size > 0, "callgrind's file")
    totals = re.findall(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)
    return int(totals[0]) / done


def machine():
    return f"{os.cpu_count()} cores, Linux {'.'.join(platform.release().split('.')[:2])}"


def caption(options, found):
    version = re.search(r"\d+(\.\d+)?", run(Path(options.postgres) / "postgres", "--version")).group(0)
    others = ", ".join(peer.version() for peer in found if peer.version() and peer.key != "pgferry")
    length = f"medians of {options.runs} interleaved runs of {options.seconds} s"
    return f"{machine()}; PostgreSQL {version}; {others}; {length}"


def progress(text):
    if sys.stderr.isatty() or not text:
        print(f"\r{text:<70}\r" if not text else f"\r{text:<70}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
