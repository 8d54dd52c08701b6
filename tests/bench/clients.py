"""Clients that say exactly what is measured: byte-level, on sockets."""

import base64
import hashlib
import hmac
import selectors
import socket
import struct
import time

READY = b"Z\0\0\0\5I"


def startup(user="app", database="postgres"):
    body = b"user\0" + user.encode() + b"\0database\0" + database.encode() + b"\0\0"
    return struct.pack(">ii", 8 + len(body), 3 << 16) + body


def query(sql):
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack(">i", 4 + len(body)) + body


def connect(host, port):
    if host.startswith("/"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{host}/.s.PGSQL.{port}")
    else:
        client = socket.create_connection((host, port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def until_ready(client, room=bytearray(1 << 18)):
    """Reads to the next ReadyForQuery outside a transaction; returns how many bytes came."""
    total, tail = 0, b""
    while not tail.endswith(READY):
        got = client.recv_into(room)
        if got == 0:
            raise ConnectionError("closed early: " + tail[-200:].decode(errors="replace"))
        total += got
        tail = (tail + room[max(0, got - 256) : got])[-256:]
    return total


def log_in(host, port):
    client = connect(host, port)
    client.sendall(startup())
    until_ready(client)
    return client


def first_rows(host, port, rounds):
    """Seconds from connect to first row, each on a connection of its own, one after another."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        client = log_in(host, port)
        client.sendall(query("select 1"))
        until_ready(client)
        times.append(time.perf_counter() - began)
        client.sendall(b"X\0\0\0\4")
        client.close()
    return sorted(times)


def copy_out(host, port, rows, width):
    """Megabytes per second of a COPY TO STDOUT."""
    client = log_in(host, port)
    sql = f"COPY (SELECT repeat('x', {width - 1}) FROM generate_series(1, {rows})) TO STDOUT"
    began = time.perf_counter()
    client.sendall(query(sql))
    total = until_ready(client)
    seconds = time.perf_counter() - began
    client.close()
    return total / seconds / 1e6


def copy_in(host, port, megabytes):
    """Megabytes per second of a COPY FROM STDIN into a table that is truncated first."""
    client = log_in(host, port)
    for sql in ("CREATE UNLOGGED TABLE IF NOT EXISTS bench_copy (a text)", "TRUNCATE bench_copy"):
        client.sendall(query(sql))
        until_ready(client)
    row = b"x" * 999 + b"\n"
    data = row * 64
    frame = b"d" + struct.pack(">i", 4 + len(data)) + data
    began = time.perf_counter()
    client.sendall(query("COPY bench_copy FROM STDIN"))
    for _ in range(megabytes * 1_000_000 // len(data)):
        client.sendall(frame)
    client.sendall(b"c\0\0\0\4")
    until_ready(client)
    seconds = time.perf_counter() - began
    client.close()
    return megabytes / seconds


def idle(host, port, count):
    """Connections that have logged in and run one query each."""
    clients = [log_in(host, port) for _ in range(count)]
    for client in clients:
        client.sendall(query("select 1"))
        until_ready(client)
    return clients


class Login:
    """A login with a password, in clear text or with SCRAM-SHA-256, as the other end asks."""

    def __init__(self, password):
        self.password = password.encode()
        self.nonce = b"fyko+d2lbbFgONRv9qkxdawL"

    def answer(self, kind, body):
        """What is sent in answer to an authentication request, if anything."""
        if kind == 3:
            return self.message(self.password + b"\0")
        if kind == 10:
            first = b"n,,n=,r=" + self.nonce
            return self.message(b"SCRAM-SHA-256\0" + struct.pack(">i", len(first)) + first)
        if kind == 11:
            return self.message(self.proof(body))
        return b""

    def proof(self, challenge):
        fields = dict(field.split(b"=", 1) for field in challenge.split(b","))
        salt, rounds = base64.b64decode(fields[b"s"]), int(fields[b"i"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password, salt, rounds)
        key = hmac.digest(salted, b"Client Key", "sha256")
        final = b"c=biws,r=" + fields[b"r"]
        signed = b",".join([b"n=,r=" + self.nonce, challenge, final])
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        return final + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(key, signature)))

    @staticmethod
    def message(body):
        return b"p" + struct.pack(">i", 4 + len(body)) + body


class Arrival:
    """One of many clients who come at once: logs in and asks for one row."""

    def __init__(self, host, port, user, password):
        self.socket = connect(host, port)
        self.socket.sendall(startup(user))
        self.login = Login(password)
        self.received = b""
        self.asked = False

    def step(self):
        """Takes what has come; says whether the row has."""
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("closed early: " + self.received[-200:].decode(errors="replace"))
        self.received += got
        while len(self.received) >= 5:
            size = 1 + struct.unpack_from(">i", self.received, 1)[0]
            if len(self.received) < size:
                break
            tag, body = self.received[:1], self.received[5:size]
            self.received = self.received[size:]
            if tag == b"R":
                self.socket.sendall(self.login.answer(struct.unpack_from(">i", body)[0], body[4:]))
            elif tag == b"E":
                raise ConnectionError(body.decode(errors="replace"))
            elif tag == b"Z" and self.asked:
                return True
            elif tag == b"Z":
                self.asked = True
                self.socket.sendall(query("select 1"))
        return False


def burst(host, port, count, user, password):
    """Seconds until all of `count` clients who come at once have a row."""
    began = time.perf_counter()
    selector = selectors.DefaultSelector()
    for _ in range(count):
        arrival = Arrival(host, port, user, password)
        selector.register(arrival.socket, selectors.EVENT_READ, arrival)
    left = count
    while left:
        for key, _ in selector.select(30):
            if key.data.step():
                selector.unregister(key.fileobj)
                key.fileobj.close()
                left -= 1
    return time.perf_counter() - began
