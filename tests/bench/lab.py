"""Where things are measured: a PostgreSQL of its own, two network namespaces, and what processes cost."""

import atexit
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# What the profile-guided build is trained on: see TRAINING in cases.py.
READS = """\\set id random(1, 1000)
select c.relname, c.relkind, n.nspname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = :id limit 5;
SELECT id, kind FROM events WHERE id = :id ORDER BY at DESC LIMIT 3;
"""
WRITES = """\\set id random(1, 1000)
BEGIN;
INSERT INTO events (id, kind, at) VALUES (:id, 'click', now());
SELECT count(*) FROM events WHERE id = :id;
COMMIT;
delete from events where id = :id and kind <> 'none';
"""

TICK = 1e6 / os.sysconf("SC_CLK_TCK")


def run(*command, **options):
    """Runs a command that must succeed; returns what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


class Lab:
    """A database in one namespace, proxies and clients in another; loopback where namespaces can't be made."""

    def __init__(self, postgres_bin):
        self.bin = Path(postgres_bin)
        self.dir = Path(tempfile.mkdtemp(prefix="pgferry-bench."))
        self.dir.chmod(0o755)
        self.children = []
        self.owner = []
        self.namespaces = []
        self.enter_db = []
        self.host, self.port = "127.0.0.1", 0
        atexit.register(self.close)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: exit(128 + number))
        self.select_1 = self.dir / "select-1.sql"
        self.select_1.write_text("select 1;\n")
        self.reads, self.writes = self.dir / "reads.sql", self.dir / "writes.sql"
        self.reads.write_text(READS)
        self.writes.write_text(WRITES)
        self._unprivileged()
        self._namespaces()
        self._postgres()

    def _unprivileged(self):
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = names.get("postgres") or names["nobody"]
        shutil.chown(self.dir, user.pw_uid, user.pw_gid)
        self.owner = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def _namespaces(self):
        db, client = (f"pgferry-{os.getpid()}-{name}" for name in ("db", "app"))
        try:
            for name in (db, client):
                run("ip", "netns", "add", name)
                self.namespaces.append(name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            link = ("dev", "eth0")
            run("ip", "link", "add", "eth0", "netns", db, "type", "veth", "peer", "name", "eth0", "netns", client)
            run("ip", "-n", db, "addr", "add", "10.203.0.1/24", *link)
            run("ip", "-n", client, "addr", "add", "10.203.0.2/24", *link)
            for name in (db, client):
                run("ip", "-n", name, "link", "set", "eth0", "up")
        except (subprocess.CalledProcessError, FileNotFoundError):
            self._forget_namespaces()
            return
        self.enter_db = ["ip", "netns", "exec", db]
        # This process and all that it starts from here on, but for PostgreSQL.
        with open(f"/run/netns/{client}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
                raise SystemExit(f"bench: setns: {os.strerror(ctypes.get_errno())}")
        self.host = "10.203.0.1"

    def _postgres(self):
        data = self.dir / "data"
        run(*self.owner, self.bin / "initdb", "-D", data, "-U", "app", "-A", "trust", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with open(data / "postgresql.conf", "a") as conf:
            conf.write(
                f"port={self.port}\nlisten_addresses='*'\nunix_socket_directories=''\nfsync=off\n"
                "max_connections=200\npassword_encryption='scram-sha-256'\n"
            )
        hba = "host all secret all scram-sha-256\nhost all app all trust\n"
        (data / "pg_hba.conf").write_text(hba)
        self.postgres = self.start(self.owner + [self.bin / "postgres", "-D", data], "postgres", self.enter_db)
        wait_for(lambda: self.psql("SELECT 1", check=False) == "1", "PostgreSQL", self.dir / "postgres.log")
        self.psql("CREATE ROLE secret LOGIN PASSWORD 'hunter2'; CREATE TABLE events (id bigint, kind text, at timestamptz)")
        self.psql("GRANT ALL ON events TO secret")
        self.pgbench("-i", "-s", "1", "-q", "-h", self.host, "-p", str(self.port))

    @contextlib.contextmanager
    def encrypted(self):
        """PostgreSQL offers TLS for as long."""
        data = self.dir / "data"
        files = [data / "server.key", data / "server.crt"]
        if not files[0].exists():
            key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
            run(*self.owner, "openssl", "req", "-x509", "-nodes", *key, "-subj", "/CN=db", "-keyout", files[0], "-out", files[1])
            files[0].chmod(0o600)
        self._offer_tls("on")
        try:
            yield
        finally:
            self._offer_tls("off")

    def _offer_tls(self, ssl):
        self.psql(f"ALTER SYSTEM SET ssl = {ssl}")
        self.psql("SELECT pg_reload_conf()")
        wait_for(lambda: self.psql("SHOW ssl") == ssl, f"ssl = {ssl}", self.dir / "postgres.log")

    def psql(self, sql, check=True):
        """What PostgreSQL answers to `sql`."""
        command = [self.bin / "psql", "-X", "-q", "-A", "-t", "-h", self.host, "-p", str(self.port)]
        done = subprocess.run(
            [*command, "-U", "app", "-d", "postgres", "-c", sql], capture_output=True, text=True, check=check
        )
        return done.stdout.strip()

    def pgbench(self, *arguments, user="app"):
        """Runs pgbench, which may fail: returns its status and what it said."""
        environment = {**os.environ, "PGPASSWORD": "hunter2"}
        command = [self.bin / "pgbench", "-U", user, *arguments, "postgres"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr

    def start(self, command, name, enter=(), environment=None):
        """Starts a child whose output goes to a file of its name; wrappers exec it, so that its pid is the program's."""
        with open(self.dir / f"{name}.log", "ab") as log:
            environment = {**os.environ, **(environment or {})}
            command = list(map(str, [*enter, *command]))
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.children.append(child)
        return child

    def stop(self, child):
        """Ends a child, politely first."""
        self.children.remove(child)
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def time_waits(self):
        """Sockets in TIME_WAIT on the client's side."""
        for line in Path("/proc/thread-self/net/sockstat").read_text().splitlines():
            words = line.split()
            if words[0] == "TCP:":
                return int(words[words.index("tw") + 1])
        return 0

    def upstream_connects(self):
        """TCP connections that the client's side has opened so far."""
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])

    def close(self):
        for child in list(reversed(self.children)):
            self.stop(child)
        self._forget_namespaces()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _forget_namespaces(self):
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        self.namespaces = []


def wait_for(condition, what, log=None, seconds=20):
    """Waits until a condition holds; what it says in its log if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:] if log and log.exists() else ""
            raise SystemExit(f"bench: {what} did not come up within {seconds} s\n{said}")
        time.sleep(0.01)


def _stat(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Behind the name: state, ppid, …; utime is field 14 of the whole line.
    return int(fields[1]), [int(value) for value in fields[11:15]]


def cpu_us(pid):
    """User and system time of a process, all its threads."""
    stat = _stat(pid)
    return sum(stat[1][:2]) * TICK if stat else 0.0


def family_cpu_us(pid):
    """The same of a process and its children, those that have ended included."""
    own = _stat(pid)
    total = sum(own[1]) if own else 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _stat(entry)
            if stat and stat[0] == pid:
                total += sum(stat[1][:2])
    return total * TICK


def rss_kb(pid):
    """Resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
