#!/bin/sh
# Applications as they come, on a PostgreSQL with max_connections = 100, its default: directly, and through a pgferry with its
# defaults in each mode. Each NAME.sh here is one; APPLICATIONS="zabbix …" picks some.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
"$top/tests/setup.sh" python3-venv php-fpm php-pgsql libfcgi-bin zabbix-server-pgsql ruby ruby-pg ruby-activerecord
. "$here/../server.sh"
venv=${XDG_CACHE_HOME:-$HOME/.cache}/pgferry-interop
if ! "$venv/bin/python" -c 'import django, psycopg' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'django<6' 'psycopg[binary]'
fi
superuser() { "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U postgres "$@"; }
superuser -d postgres -c 'create role app login createdb' -c 'create database shop owner app'
# What the applications use.
export bin venv port work
for application in ${APPLICATIONS-"php_fpm zabbix django active_record"}; do
    for how in direct session transaction; do
        host=127.0.0.1 at=$port ferry=""
        if [ $how != direct ]; then
            host=$work/$how at=5432
            "$pgferry" --upstream "postgres://127.0.0.1:$port" --listen "$host" --port $at --pool-mode $how \
                2>"$work/pgferry.log" &
            ferry=$!
            children="$children $ferry"
            until grep -q 'ready: ' "$work/pgferry.log"; do kill -0 "$ferry"; sleep 0.1; done
        fi
        if "$here/$application.sh" "$host" "$at" >"$work/$application.out" 2>&1; then
            ok "$application, $how: $(tail -n 1 "$work/$application.out")"
        else
            wrong "$application, $how"
            tail -n 30 "$work/$application.out"
            [ -z "$ferry" ] || tail -n 10 "$work/pgferry.log"
        fi
        if [ -n "$ferry" ]; then
            kill "$ferry"
            wait "$ferry" || wrong "pgferry ended with $?"
            children=${children% "$ferry"}
        fi
    done
done
exit "$status"
