#!/bin/sh
# Starts pgferry where no port is free toward its upstream, connects, and shows what it says of that.
set -eu
dir=$(mktemp -d)
"$1" --upstream postgres://10.77.0.1 --listen "$dir" 2>"$dir/log" &
ferry=$!
trap 'kill $ferry; wait $ferry || true; rm -rf "$dir"' EXIT
until grep -q 'ready: ' "$dir/log"; do sleep 0.01; done
python3 - "$dir/.s.PGSQL.5432" <<'PYTHON'
import socket, struct, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
body = struct.pack("!I", 3 << 16) + b"user\0me\0database\0d\0\0"
client.sendall(struct.pack("!I", len(body) + 4) + body)
client.settimeout(20)
print(client.recv(4096).decode(errors="replace"))
PYTHON
kill -USR1 $ferry
until grep -q 'served ' "$dir/log"; do sleep 0.01; done
cat "$dir/log"
