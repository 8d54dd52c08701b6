"""Clients that say exactly what is measured: byte-level, on sockets."""

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


def burst(host, port, count):
    """Seconds until all of `count` clients who come at once have a row."""
    began = time.perf_counter()
    selector = selectors.DefaultSelector()
    for _ in range(count):
        client = connect(host, port)
        client.sendall(startup())
        selector.register(client, selectors.EVENT_READ, [b"", 2])
    left = count
    while left:
        for key, _ in selector.select(30):
            state = key.data
            state[0] += key.fileobj.recv(65536)
            if state[0].endswith(READY):
                state[0] = b""
                state[1] -= 1
                if state[1] == 0:
                    selector.unregister(key.fileobj)
                    left -= 1
                    key.fileobj.close()
                else:
                    key.fileobj.sendall(query("select 1"))
    return time.perf_counter() - began
