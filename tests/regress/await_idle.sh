#!/bin/sh
# Runs a command (pg_isolation_regress's --launcher) once pgferry has more idle connections than the isolation tester opens: in session
# mode a client is given its backend's pid where a connection is idle, and by that the tester asks the server who blocks whom.
set -eu
enough=9 # deadlock-hard has eight sessions, and the tester one of its own
idle_connections() {
    pools=$(psql -X -A -F ' ' -d pgferry -c 'show pools')
    echo "$pools" | awk '
        NR == 1 { for (at = 1; at <= NF; at++) if ($at == "sv_idle") column = at }
        $1 == "isolation_regression" { sum += $column }
        END { print sum + 0 }'
}
# A pool opens what it lacks once a client has come.
psql -X -q -d isolation_regression -c 'select 1' >/dev/null
tries=0
until
    count=$(idle_connections) || exit 1
    [ "$count" -ge $enough ]
do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { echo "await_idle: $count connections are idle"; exit 1; }
    sleep 0.1
done
exec "$@"
