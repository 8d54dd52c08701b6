"""What Python's workers share: their arguments, and what they say."""
import contextlib
import os
import random
import sys
import threading
import time

# A connection that ended: what was under way may have been carried out.
LOST = {None, "08003", "08006", "57P01", "57P02"}
_lock = threading.Lock()


def say(line):
    with _lock:
        sys.stdout.write(" ".join(line.split()) + "\n")
        sys.stdout.flush()


class Arguments:
    """The arguments, and what the clients do, with weights."""

    def __init__(self, stateless, stateful):
        self.driver, self.host, port, self.user, self.password, *numbers = sys.argv[1:]
        self.port = int(port)
        self.clients, self.seconds, self.session, self.leaves, self.seed = map(int, numbers)
        work = stateless | stateful if self.leaves else stateless
        # For whoever narrows a fault down.
        only = os.environ.get("STRESS_WORK", "").split()
        work = {one: weight for one, weight in work.items() if not only or one.__name__ in only}
        self.work = (list(work), list(work.values()))
        self.end = time.monotonic() + self.seconds

    def over(self):
        return time.monotonic() > self.end


class Client:
    """One client of a worker: its name, its database, and what it is to find in its session."""

    def __init__(self, arguments, number):
        self.arguments = arguments
        self.name = f"{arguments.driver}-{arguments.seed}-{number}"
        self.database = ("first", "second")[number % 2]
        self.random = random.Random(arguments.seed * 1000 + number)
        self.number = self.operations = 0
        self.doing = "connect"
        self.come()

    def come(self):
        """A new session: what its startup packet asks for."""
        self.doing = "connect"
        self.start_path = self.random.choice((None, None, "north", "south"))
        self.path = self.start_path
        self.title = self.name

    def next(self):
        """A name for a statement or a token that nothing else has."""
        self.number += 1
        return f"{self.name}-{self.number}"

    def same(self, what, got, expected):
        if got != expected:
            say(f"wrong: {self.name}: {self.doing}, {what}: {str(got)[:300]!r} instead of {str(expected)[:300]!r}")

    @contextlib.contextmanager
    def fails(self, kind):
        """What is to fail with an error of this kind."""
        try:
            yield
        except kind:
            return
        say(f"wrong: {self.name}: {self.doing}: no {kind.__name__}")

    def found_path(self):
        """What the session's search path leads to, and its own text."""
        return self.path or "public", self.path or '"$user", public'

    def error(self, error):
        say(f"error: {getattr(error, 'sqlstate', None) or '-'} {self.doing}: {type(error).__name__}: {error}")
