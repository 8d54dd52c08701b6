"""Leaves TIME_WAITs toward an address of this host: opens connections and closes them first until there are COUNT, and then
runs a command. Whoever else connects is closed upon the first thing that they say."""
import errno
import socket
import subprocess
import sys
import threading

ADDRESS, COUNT, COMMAND = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
listener = socket.create_server((ADDRESS, 5432), backlog=1024)


def end(client):
    client.recv(4096)
    client.close()


def serve():
    while True:
        threading.Thread(target=end, args=(listener.accept()[0],), daemon=True).start()


def waiting():
    """Connections that both ends have closed: TIME_WAIT."""
    with open("/proc/net/tcp") as table:
        return sum(row.split()[3] == "06" for row in table)


threading.Thread(target=serve, daemon=True).start()
while waiting() < COUNT:
    try:
        with socket.create_connection((ADDRESS, 5432)) as client:
            client.shutdown(socket.SHUT_WR)
            client.recv(1)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        # There are no more than that.
        break
sys.exit(subprocess.run(COMMAND).returncode)
