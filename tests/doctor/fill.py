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


def closing():
    """Connections whose other end has yet to close: FIN_WAIT_1 and FIN_WAIT_2."""
    with open("/proc/net/tcp") as table:
        return [row for row in table if row.split()[3] in ("04", "05")]


while closing():
    time.sleep(0.01)
sys.exit(subprocess.run(COMMAND).returncode)
