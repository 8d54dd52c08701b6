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
applications=${APPLICATIONS-"php_fpm zabbix django active_record"}
for application in $applications; do
    for how in direct session transaction; do
        host=127.0.0.1 listens=$port
        if [ $how != direct ]; then
            host=$work/$how listens=5432
            start_ferry "$host" --pool-mode $how
        fi
        if "$here/$application.sh" "$host" "$listens" >"$work/$application.out" 2>&1; then
            ok "$application, $how: $(tail -n 1 "$work/$application.out")"
        else
            wrong "$application, $how"
            tail -n 30 "$work/$application.out"
            [ $how = direct ] || tail -n 10 "$work/pgferry.log"
        fi
        [ $how = direct ] || end_ferry
    done
done
exit "$status"
