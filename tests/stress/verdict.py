"""What the workers say, held against what the database holds."""
import collections
import re
import threading

# What a client may be told while the server, or the network to it, is away: docs/troubleshooting.md has pgferry's, the
# rest is PostgreSQL's.
AWAY = {
    "08001",  # no connection to the server
    "08003",  # so asyncpg says that it broke
    "08006",  # the connection broke in the middle of work
    "57P01",  # the backend was terminated, or pgferry's process was replaced and is past its `drain_timeout`
    "57P02",  # another backend has crashed
    "57P03",  # the server is starting up or shutting down
}
# What drivers say, without a SQLSTATE, of a connection that ended.
BROKEN = re.compile("|".join((
    "closed the connection unexpectedly", "(connection|conn|socket) (is|was|has been)( already)? closed", "conn(ection)? closed",
    "connection already closed", "connection terminated", "the connection is lost", "connection_lost", "EOF", "end of file",
    "expected to read", "bad connection", "broken pipe", "EPIPE", "reset by peer", "ECONNRESET", "I/O error occurred",
    "consuming input failed", "use of closed network", "conn busy", "not queryable", "closed in the middle",
    "discarding connection", "released back to the pool", "This connection has been closed",
    # By drivers to which the end came while they did something else.
    "cannot exit pipeline mode while busy", "pipeline aborted", "cannot switch to state", "another operation is in progress",
    # The server's and pgferry's words where a driver drops the SQLSTATE of a failed login.
    "the database system is", "could not connect to the upstream server")), re.I)
# What a client of PostgreSQL itself is told when there is no PostgreSQL.
REFUSED = re.compile(r"refused|Connect call failed|timeout expired", re.I)

# A cancel request comes to the pgferry that has the listeners, which does not know the clients of the one before it.
UNHEARD = re.compile(r"cancel: (no (error|QueryCanceled|TimeoutError)|a statement that was cancelled has ended by itself)")

# asyncpg forgets the statements of all connections of its pool when one of them has an outdated plan, also of those that are
# at work with them.
FORGOTTEN = re.compile(r"asyncpg: - \w+: (InterfaceError: \w+: the prepared statement is closed|"
                       r"InternalClientError: .*cannot close prepared statement; refs)")


class Verdict:
    """The lines of all workers of a round."""

    def __init__(self, away, direct):
        self.away, self.direct = away, direct
        # Whether another pgferry has taken the listeners over.
        self.replaced = False
        self.tokens = {}
        self.wrong = []
        self.errors = collections.Counter()
        self.operations = 0
        self.done = set()
        # When a worker has said something, for those that wait for a sign of life.
        self.lines = 0
        self.lock = threading.Lock()

    def take(self, worker, line):
        """One line of a worker's output."""
        word, _, rest = line.partition(" ")
        with self.lock:
            self.lines += 1
            if word in ("acked", "unknown", "failed"):
                self._token(worker, word, rest)
            elif word == "error:":
                self._error(worker, rest)
            elif word == "done":
                self.operations += int(rest)
                self.done.add(worker)
            elif not (self.replaced and UNHEARD.search(line)):
                self.wrong.append(f"{worker}: {line}")

    def _token(self, worker, outcome, rest):
        token, rows = rest.split()
        if token in self.tokens:
            self.wrong.append(f"{worker}: the token {token} is told of twice")
        self.tokens[token] = (outcome, int(rows))

    def _error(self, worker, rest):
        code, _, text = rest.partition(" ")
        self.errors[f"{worker}: {rest[:160]}"] += 1
        if FORGOTTEN.match(f"{worker}: {rest}"):
            return
        known = code in AWAY or code == "-" and BROKEN.search(text)
        known = known or self.direct and code == "-" and REFUSED.search(text)
        if not (known and self.away):
            self.wrong.append(f"{worker}: an error that nothing explains: {rest}")

    def judge(self, found):
        """Holds the tokens against what was found: how many rows of each."""
        for token, (outcome, rows) in self.tokens.items():
            count = found.pop(token, 0)
            allowed = {"acked": {rows}, "unknown": {0, rows}, "failed": {0}}[outcome]
            if count not in allowed:
                self.wrong.append(f"token {token}: {outcome}, with {rows} rows, and {count} are there")
        self.wrong += [f"token {token}: nothing was told of it, and {count} are there" for token, count in found.items()]

    def summary(self):
        outcomes = collections.Counter(outcome for outcome, _ in self.tokens.values())
        said = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in ("acked", "unknown", "failed"))
        return f"{self.operations} operations, tokens: {said}; {sum(self.errors.values())} errors"
