"""Leaves TIME_WAITs toward an address of this host: opens COUNT connections, closes each first, and then runs a command."""
import socket
import subprocess
import sys
import threading
import time

ADDRESS, COUNT, COMMAND = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
listener = socket.create_server((ADDRESS, 5432), backlog=1024)


def serve():
    while True:
        client, _ = listener.accept()
        threading.Thread(target=lambda: (client.recv(1), client.close())).start()


threading.Thread(target=serve, daemon=True).start()
for _ in range(COUNT):
    with socket.create_connection((ADDRESS, 5432)):
        pass


def waiting():
    """Connections that both ends have closed: TIME_WAIT."""
    with open("/proc/net/tcp") as table:
        return sum(row.split()[3] == "06" for row in table)


while waiting() < COUNT:
    time.sleep(0.01)
sys.exit(subprocess.run(COMMAND).returncode)
