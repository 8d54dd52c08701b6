"""The PostgreSQL of a stress run: started, restarted, looked into."""
import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psycopg

HERE = Path(__file__).parent
DATABASES = ("first", "second")
# Role and password; the first is trusted.
ROLES = (("stress_trust", ""), ("stress_scram", "pa ss'w"))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def eventually(condition, seconds=60):
    """Whether a condition comes true within a time that is generous for any machine."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Server:
    """A PostgreSQL on loopback TCP, with the databases and roles of the workers."""

    def __init__(self, bin, work):
        self.bin, self.work, self.data = Path(bin), work, work / "data"
        self.port = free_port()
        self.owner = []
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            user = pwd.getpwnam("postgres")
            shutil.chown(work, user.pw_uid, user.pw_gid)
            self.owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
                       "fsync = off\nmax_connections = 400\nlog_line_prefix = '%m [%p] %a %d '\n"
                       "password_encryption = 'scram-sha-256'\n")
        hba = self.data / "pg_hba.conf"
        hba.write_text("host all stress_scram 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        self.start()
        self._fill()

    def _run(self, program, *arguments):
        command = [*self.owner, str(self.bin / program), *map(str, arguments)]
        with (self.work / f"{program}.log").open("a") as log:
            return subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL).returncode

    def _fill(self):
        for role, password in ROLES:
            self.query(f"create role {role} login password %s" if password else f"create role {role} login",
                       literals=[password] if password else [])
        for database in DATABASES:
            self.query(f"create database {database}")
            done = self._run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"first={database == 'first'}",
                             "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", "-d", database, "-f", HERE / "schema.sql")
            if done != 0:
                raise SystemExit((self.work / "psql.log").read_text())

    def start(self):
        """Starts PostgreSQL, and waits until it accepts connections."""
        self._run("pg_ctl", "-D", self.data, "-l", self.work / "server.log", "-w", "-t", 300, "start")
        self.wait_ready()

    def stop(self, how):
        """Stops PostgreSQL, `fast` or `immediate`, where it runs."""
        self._run("pg_ctl", "-D", self.data, "-w", "-t", 300, "-m", how, "stop")

    def wait_ready(self):
        """Waits until PostgreSQL accepts connections: after a crash it starts again by itself."""
        if not eventually(lambda: self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port) == 0, 300):
            raise SystemExit("PostgreSQL does not start")

    def query(self, sql, database="postgres", literals=()):
        """The rows of a statement by the superuser."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True) as conn:
            cursor = psycopg.ClientCursor(conn)
            cursor.execute(sql, literals or None)
            return cursor.fetchall() if cursor.description else []

    def backends(self, where="true"):
        """The workers' connections: process id, state and last statement."""
        return self.query("select pid, state, query from pg_stat_activity"
                          f" where usename like 'stress%' and backend_type = 'client backend' and {where}")

    def tokens(self):
        """How often each token is there."""
        rows = []
        for database in DATABASES:
            rows += self.query("select token, count(*) from token group by token", database)
        return dict(rows)

    def clear(self):
        """Makes the tables as they were."""
        for database in DATABASES:
            self.query("truncate token", database)
