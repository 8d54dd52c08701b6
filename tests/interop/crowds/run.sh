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
# A busy machine forks a thousand backends in its own time.
export PGFERRY_CLIENT_LOGIN_TIMEOUT=120s
for mode in session transaction; do
    for crowd in roles tenants at_once; do
        # Each crowd comes to a pgferry that has just started.
        start_ferry "$work/$mode" --pool-mode $mode
        if "$venv/bin/python" "$here/$crowd.py" "$work/$mode" "$port" >"$work/$crowd.out" 2>&1; then
            ok "$crowd, $mode: $(tail -n 1 "$work/$crowd.out")"
        else
            wrong "$crowd, $mode"
            tail -n 20 "$work/$crowd.out"; tail -n 10 "$work/pgferry.log"
        fi
        end_ferry
    done
done
exit "$status"
