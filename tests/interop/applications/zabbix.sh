#!/bin/sh
# Zabbix's server, whose processes keep a connection each, until it has collected values for half a minute: HOST PORT.
set -eu
superuser() { "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U postgres "$@"; }
if [ "$(superuser -d postgres -c "select count(*) from pg_database where datname = 'zabbix_empty'")" = 0 ]; then
    superuser -d postgres -c 'create role zabbix login' -c 'create database zabbix_empty owner zabbix'
    for part in schema images data; do
        zcat /usr/share/zabbix-server-pgsql/$part.sql.gz | superuser -U zabbix -d zabbix_empty >/dev/null
    done
fi
PGOPTIONS='-c client_min_messages=warning' superuser -d postgres -c 'drop database if exists zabbix' \
    -c 'create database zabbix owner zabbix template zabbix_empty'
dir=$(mktemp -d "$work/zabbix.XXXXXX")
chmod 777 "$dir"
as=""
[ "$(id -u)" != 0 ] || as="setpriv --reuid zabbix --regid zabbix --clear-groups"
cat >"$dir/zabbix.conf" <<CONF
DBHost=$1
DBPort=$2
DBName=zabbix
DBUser=zabbix
LogFile=$dir/zabbix.log
PidFile=$dir/zabbix.pid
SocketDir=$dir
StartTrappers=0
CacheUpdateFrequency=5
CONF
# shellcheck disable=SC2086 # a list of words
$as zabbix_server --foreground --config "$dir/zabbix.conf" >"$dir/out" 2>&1 &
zabbix=$!
trap 'kill "$zabbix" 2>/dev/null || true; wait' EXIT
values() { superuser -d zabbix -c 'select (select count(*) from history) + (select count(*) from history_uint)'; }
seconds=0
until [ $seconds -ge 30 ] && [ "$(values)" -gt 0 ]; do
    if ! kill -0 "$zabbix" 2>/dev/null || [ $seconds = 300 ]; then
        echo "no values after $seconds s"
        cat "$dir/out"; tail -n 20 "$dir/zabbix.log"
        exit 1
    fi
    sleep 1
    seconds=$((seconds + 1))
done
connections=$(superuser -d postgres -c "select count(*) from pg_stat_activity where datname = 'zabbix' and usename = 'zabbix'")
# Z3001 to Z3008 are its words for what its database refuses.
if grep -E '\[Z[0-9]+\]|database is down|query failed' "$dir/zabbix.log"; then exit 1; fi
kill "$zabbix"
wait "$zabbix" || { echo "it ends with $?"; tail -n 5 "$dir/zabbix.log"; exit 1; }
echo "$(grep -c ' started \[' "$dir/zabbix.log") processes, $connections connections, $(values) values"
