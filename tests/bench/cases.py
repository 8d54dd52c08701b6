"""What is measured. A case is a function from a lab, a peer and a size to figures by name."""

import contextlib
import re
import resource
import time

import clients
from lab import cpu_us, family_cpu_us, rss_kb
from peers import Running


class Failed(Exception):
    """A peer can't do what is measured."""


class Size:
    """How much of everything: enough for figures that mean something, just enough to see that it works (smoke), or so
    much of it that no case weighs more than the others (train)."""

    def __init__(self, smoke, train, seconds):
        self.seconds = 1 if smoke or train else seconds
        self.rounds = 50 if smoke else 500
        self.idle = 50 if smoke else 5000
        self.many = 100_000 if not smoke else 200
        self.rows = 1_000 if smoke else 100_000 if train else 1_000_000
        self.megabytes = 2 if smoke else 20 if train else 200


def pgbench(lab, peer, variant, size, *arguments, user="app"):
    """Figures of one pgbench run."""
    with Running(lab, peer, variant) as at:
        lab.pgbench(*at.address(), "-n", *arguments, "-T", "1", user=user)
        before = measure(lab, at)
        status, said = lab.pgbench(*at.address(), "-n", *arguments, "-T", str(size.seconds), user=user)
        after = measure(lab, at)
        done = int(re.search(r"actually processed: (\d+)", said).group(1))
        failed = re.search(r"failed transactions: (\d+)", said)
        if done == 0 or (status != 0 and "ERROR" in said):
            # PgBouncer before 1.21 can't do prepared statements in transaction mode.
            raise Failed(said.strip().splitlines()[-1])
        figures = {
            "tps": float(re.search(r"^tps = ([0-9.]+)", said, re.M).group(1)),
            "failed": int(failed.group(1)) if failed else int(status != 0),
            "db_us": (after["db"] - before["db"]) / done,
            "client_us": (after["client"] - before["client"]) / done,
            "connects": after["connects"] - before["connects"],
            "time_wait": max(0, after["time_wait"] - before["time_wait"]),
        }
        if at.pid:
            figures["cpu_us"] = (after["cpu"] - before["cpu"]) / done
            figures["rss_kb"] = rss_kb(at.pid)
        return figures


def measure(lab, at):
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu": cpu_us(at.pid) if at.pid else 0.0,
        "db": family_cpu_us(lab.postgres.pid),
        "client": (children.ru_utime + children.ru_stime) * 1e6,
        "connects": lab.upstream_connects(),
        "time_wait": lab.time_waits(),
    }


def of_pgbench(load, user="app"):
    """A case that is a pgbench run; what it runs is there for others as well."""

    def case(lab, peer, variant, size):
        return pgbench(lab, peer, variant, size, *load(lab), user=user)

    case.load, case.user = load, user
    case.within = lambda lab: contextlib.nullcontext()
    return case


def short(*extra, user="app"):
    clients = extra or ("-c", "50", "-j", "2")
    return of_pgbench(lambda lab: ("-C", "-M", "simple", *clients, "-f", lab.select_1), user)


def long(protocol):
    return of_pgbench(lambda lab: ("-S", "-M", protocol, "-c", "50", "-j", "2"))


def short_extended():
    return of_pgbench(lambda lab: ("-C", "-M", "extended", "-c", "50", "-j", "2", "-f", lab.select_1))


def over_tls(case):
    """The same with a PostgreSQL that offers TLS, which both proxies use by default, and libpq for a direct connection."""

    def encrypted(lab, peer, variant, size):
        with encrypted.within(lab):
            return case(lab, peer, variant, size)

    encrypted.load, encrypted.user = case.load, case.user
    encrypted.within = lambda lab: lab.encrypted()
    return encrypted


def training(protocol, *arguments, user="app"):
    """Work that is not measured: transactions of an application's kinds, and one of pgbench's own."""
    scripts = lambda lab: (f"-f{lab.reads}@4", f"-f{lab.writes}@2") + (("-bsimple-update@1",) if user == "app" else ())
    return of_pgbench(lambda lab: ("-M", protocol, *arguments, *scripts(lab)), user)


def latency(lab, peer, variant, size):
    with Running(lab, peer, variant) as at:
        clients.first_rows(at.host, at.port, 20)
        times = clients.first_rows(at.host, at.port, size.rounds)
    return {"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[len(times) * 99 // 100] * 1e6}


def copy(move):
    def case(lab, peer, variant, size):
        with Running(lab, peer, variant) as at:
            clients.copy_out(at.host, at.port, 1000, 1000)
            before = cpu_us(at.pid) if at.pid else 0.0
            speed = move(at, size)
            figures = {"mb_s": speed}
            if at.pid:
                figures["cpu_ms"] = (cpu_us(at.pid) - before) / 1000
            return figures

    return case


def idle(lab, peer, variant, size):
    with Running(lab, peer, variant) as at:
        for client in clients.idle(at.host, at.port, 20):
            client.close()
        before = rss_kb(at.pid)
        waiting = clients.idle(at.host, at.port, size.idle)
        figures = {"bytes_per_client": (rss_kb(at.pid) - before) * 1024 / size.idle}
        worked = cpu_us(at.pid)
        time.sleep(size.seconds)
        figures["idle_cpu_us_per_s"] = (cpu_us(at.pid) - worked) / size.seconds
        for client in waiting:
            client.close()
        return figures


def burst(lab, peer, variant, size):
    with Running(lab, peer, variant) as at:
        return {"burst_ms": clients.burst(at.host, at.port, 50, "secret", "hunter2") * 1000}


def growth(lab, peer, variant, size):
    with Running(lab, peer, variant) as at:
        began = rss_kb(at.pid)
        each = size.many // 20
        load = (*at.address(), "-C", "-n", "-M", "simple", "-c", "10", "-j", "2", "-f", lab.select_1)
        lab.pgbench(*load, "-t", str(each // 10))
        warm = rss_kb(at.pid)
        for _ in range(19):
            lab.pgbench(*load, "-t", str(each // 10))
        return {"rss_start_kb": began, "rss_warm_kb": warm, "rss_end_kb": rss_kb(at.pid)}


def start(lab, peer, variant, size):
    began = time.perf_counter()
    with Running(lab, peer, variant):
        return {"start_ms": (time.perf_counter() - began) * 1000}


def many_rows(at, size):
    return clients.copy_out(at.host, at.port, size.rows, 1000)


def training_rows(at, size):
    return clients.copy_out(at.host, at.port, size.rows, 300)


def small_rows(at, size):
    return clients.copy_out(at.host, at.port, size.rows * 6, 50)


def rows_in(at, size):
    return clients.copy_in(at.host, at.port, size.megabytes)


# Name, variant, what it is, and the peers it makes sense for besides pgferry and PgBouncer. Both run with their defaults
# but for what the variant says; transaction mode is PgBouncer's usual one, and named to both.
CASES = {
    "short": (short(), "transaction", "short connections", ("direct",)),
    "short-never": (short(), "never", 'short connections, reset = "never"', ()),
    "short-always": (short(), "always", 'short connections, reset = "always"', ()),
    "short-session": (short(), "session", "short connections, session mode", ()),
    "short-session-always": (short(), "session-always", 'short connections, session mode, reset = "always"', ()),
    "short-password": (short(user="secret"), "scram", "short connections with a password, PgBouncer: scram-sha-256", ()),
    "short-password-plain": (short(user="secret"), "plain", "short connections with a password, PgBouncer: plain", ()),
    "short-800": (short("-c", "800", "-j", "80"), "transaction", "short connections, 800 clients at once", ()),
    "short-extended": (short_extended(), "transaction", "short connections, extended protocol", ("direct",)),
    "long-simple": (long("simple"), "transaction", "long-lived clients, simple protocol", ("direct",)),
    "long-extended": (long("extended"), "transaction", "long-lived clients, extended protocol", ("direct",)),
    "long-prepared": (long("prepared"), "transaction", "long-lived clients, prepared statements", ("direct",)),
    "long-simple-always": (long("simple"), "always", 'long-lived clients, simple protocol, reset = "always"', ()),
    "long-prepared-always": (long("prepared"), "always", 'long-lived clients, prepared statements, reset = "always"', ()),
    "long-workers": (long("simple"), "workers", "long-lived clients, two workers", ()),
    "short-tls": (over_tls(short()), "transaction", "short connections, TLS to PostgreSQL", ("direct",)),
    "long-simple-tls": (over_tls(long("simple")), "transaction", "long-lived clients, TLS to PostgreSQL", ("direct",)),
    "long-prepared-tls": (
        over_tls(long("prepared")),
        "transaction",
        "long-lived clients, prepared statements, TLS to PostgreSQL",
        ("direct",),
    ),
    "latency": (latency, "transaction", "connect to first row, one client", ("direct",)),
    "copy-out": (copy(many_rows), "transaction", "COPY out, rows of 1 kB", ("direct",)),
    "copy-out-small": (copy(small_rows), "transaction", "COPY out, rows of 50 B", ("direct",)),
    "copy-in": (copy(rows_in), "transaction", "COPY in", ("direct",)),
    "idle": (idle, "transaction", "idle clients", ()),
    "burst": (burst, "scram", "50 clients with passwords at once, cold pool", ("direct",)),
    "growth": (growth, "transaction", "memory over many short connections", ()),
    "start": (start, "transaction", "cold start to listening", ()),
}

# What the profile-guided build learns from: what an application does, and none of what is measured above. Transactions
# that read and write, their statements of other shapes and lengths, few clients and many.
TRAINING = {
    "short": (training("simple", "-C", "-c", "30", "-j", "2"), "transaction", "", ()),
    "short-extended": (training("extended", "-C", "-c", "10", "-j", "2"), "transaction", "", ()),
    "short-session": (training("simple", "-C", "-c", "30", "-j", "2"), "session", "", ()),
    "short-session-always": (training("simple", "-C", "-c", "10", "-j", "2"), "session-always", "", ()),
    "short-password": (training("simple", "-C", "-c", "30", "-j", "2", user="secret"), "scram", "", ()),
    "long-simple": (training("simple", "-c", "30", "-j", "2"), "transaction", "", ()),
    "long-extended": (training("extended", "-c", "40", "-j", "2"), "transaction", "", ()),
    "long-prepared": (training("prepared", "-c", "40", "-j", "2"), "transaction", "", ()),
    "long-always": (training("prepared", "-c", "30", "-j", "2"), "always", "", ()),
    "copy-out": (copy(training_rows), "transaction", "", ()),
    "copy-in": (copy(rows_in), "transaction", "", ()),
    "burst": (burst, "scram", "", ()),
}
