# shellcheck shell=sh
# To be sourced, with `top` set: a folder to work in, and a PostgreSQL in it, which trusts everybody and ends with the script.
# It leaves `bin`, `pgferry`, `work`, `owner` (what a file of PostgreSQL's is made as), `port`, `children` (what else is to
# end) and `status` behind.
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
pgferry=${PGFERRY:-$top/target/release/pgferry}
[ -n "${PGFERRY:-}" ] || cargo build --release --locked --quiet --manifest-path "$top/Cargo.toml"
work=$(mktemp -d /tmp/pgferry-interop.XXXXXX)
chmod 755 "$work"
children=""
# shellcheck disable=SC2086 # lists of words, here and below
trap '[ -z "$children" ] || kill $children 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
status=0
ok() { echo "ok: $1"; }
wrong() { echo "WRONG: $1"; status=1; }
# Starts a pgferry before that PostgreSQL, which listens at $1 as port 5432, with the flags that follow.
start_ferry() {
    at=$1
    shift
    : >"$work/pgferry.log"
    "$pgferry" --upstream "postgres://127.0.0.1:$port" --listen "$at" --port 5432 "$@" 2>"$work/pgferry.log" &
    ferry=$!
    children="$children $ferry"
    until grep -q 'ready: ' "$work/pgferry.log"; do kill -0 "$ferry"; sleep 0.1; done
}
# Ends it.
end_ferry() {
    kill "$ferry"
    wait "$ferry" || wrong "pgferry ended with $?"
    children=${children% "$ferry"}
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

owner=""
if [ "$(id -u)" = 0 ]; then
    owner="setpriv --reuid postgres --regid postgres --clear-groups"
    chown postgres "$work"
fi
port=$(free_port)
$owner "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync >"$work/initdb.log"
$owner "$bin/postgres" -D "$work/data" -p "$port" -c fsync=off -c unix_socket_directories='' \
    -c listen_addresses=127.0.0.1 >"$work/server.log" 2>&1 &
children=$!
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.1; done
