#!/bin/sh
# Crowds of short clients, by asyncpg and libpq, through a pgferry with its defaults in each mode, on a PostgreSQL with
# max_connections = 100: 1,000 roles at once after the start, the search_paths of 200 tenants, 800 clients at once.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
"$top/tests/setup.sh" python3-venv
. "$here/../server.sh"
venv=${XDG_CACHE_HOME:-$HOME/.cache}/pgferry-interop
if ! "$venv/bin/python" -c 'import asyncpg, psycopg' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check asyncpg 'psycopg[binary]'
fi
for mode in session transaction; do
    for crowd in roles tenants at_once; do
        # Each crowd comes to a pgferry that has just started. A busy machine forks a thousand backends in its own time.
        PGFERRY_CLIENT_LOGIN_TIMEOUT=120s "$pgferry" --upstream "postgres://127.0.0.1:$port" --listen "$work/$mode" --port 5432 --pool-mode $mode \
            2>"$work/pgferry.log" &
        ferry=$!
        children="$children $ferry"
        until grep -q 'ready: ' "$work/pgferry.log"; do kill -0 "$ferry"; sleep 0.1; done
        if "$venv/bin/python" "$here/$crowd.py" "$work/$mode" "$port" >"$work/$crowd.out" 2>&1; then
            ok "$crowd, $mode: $(tail -n 1 "$work/$crowd.out")"
        else
            wrong "$crowd, $mode"
            tail -n 20 "$work/$crowd.out"; tail -n 10 "$work/pgferry.log"
        fi
        kill "$ferry"
        wait "$ferry" || wrong "pgferry ended with $?"
        children=${children% "$ferry"}
    done
done
exit "$status"
