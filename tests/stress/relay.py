"""A network that can be cut: forwards TCP connections from LISTEN-PORT to PORT, and does what its standard input says.

    reset SHARE                 that share of the connections is reset
    stall SHARE SECONDS         nothing passes for a time
    swallow SHARE SECONDS WAY   what goes one way (to-server, to-client) is lost; then the connection is reset

What passes is not changed, though some of it comes in pieces: an orderly end stays one, a reset stays one, and a connection that has
lost a byte ends by a reset.
"""
import asyncio
import random
import socket
import struct
import sys

RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the relay. With `pieces` the beginning of whatever passes comes in small pieces."""

    def __init__(self, near, far, pieces):
        self.sides, self.pieces = (near, far), pieces
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.swallows = None

    async def run(self):
        (near_in, near_out), (far_in, far_out) = self.sides
        try:
            await asyncio.gather(self.pump(near_in, far_out, "to-server"), self.pump(far_in, near_out, "to-client"))
            for _, writer in self.sides:
                writer.close()
        except OSError:
            self.reset()

    async def pump(self, reader, writer, way):
        while True:
            data = await reader.read(65536)
            await self.flowing.wait()
            if self.swallows == way:
                if not data:
                    # An end behind lost bytes is not in order.
                    raise ConnectionResetError
                continue
            if not data:
                writer.write_eof()
                return
            for piece in cut(data) if self.pieces else (data,):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    def reset(self):
        for _, writer in self.sides:
            abort(writer)
        self.flowing.set()


def cut(data):
    """The same bytes, of which the first are apart: inside a message's header, or just behind one."""
    for size in (1, 4, 7):
        if len(data) > size:
            yield data[:size]
            data = data[size:]
    yield data


def abort(writer):
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


class Relay:
    """All connections, and what is done to them."""

    def __init__(self, port, seed):
        self.port, self.random = port, random.Random(seed)
        self.links = []

    async def accept(self, reader, writer):
        try:
            far = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            abort(writer)
            return
        link = Link((reader, writer), far, pieces=self.random.random() < 0.3)
        self.links.append(link)
        try:
            await link.run()
        finally:
            self.links.remove(link)

    async def obey(self, command, share, seconds="0", way=""):
        chosen = [link for link in self.links if self.random.random() < float(share)]
        for link in chosen:
            if command == "stall":
                link.flowing.clear()
            elif command == "swallow":
                link.swallows = way
        await asyncio.sleep(float(seconds))
        for link in chosen:
            if command == "stall":
                link.flowing.set()
            else:
                link.reset()


async def main(listen_port, port, seed):
    relay = Relay(int(port), seed)
    await asyncio.start_server(relay.accept, "127.0.0.1", int(listen_port), backlog=1024)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ready", flush=True)
    tasks = set()
    while line := await commands.readline():
        # Held, since the loop itself holds tasks weakly.
        task = asyncio.ensure_future(relay.obey(*line.decode().split()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
