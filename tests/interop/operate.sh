#!/bin/sh
# The tools of those who operate poolers, against pgferry's console and pages: PgBouncer's exporter for Prometheus,
# check_postgres, psycopg, Chromium, systemd-analyze. SCREENSHOT=FILE keeps what Chromium sees.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
"$top/tests/setup.sh" python3-venv check-postgres python3-psycopg chromium pgbouncer
. "$here/server.sh"
fetch() { python3 -c 'import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())' "$1"; }
"$bin/psql" -X -q -h 127.0.0.1 -p "$port" -U postgres -d postgres \
    -c "create role monitor login password 'look'; create role app login" -c "create database shop" >/dev/null
sed -i '1i host all monitor 127.0.0.1/32 scram-sha-256' "$work/data/pg_hba.conf"
"$bin/psql" -X -q -h 127.0.0.1 -p "$port" -U postgres -d postgres -c "select pg_reload_conf()" >/dev/null
own=$(free_port) admin=$(free_port)
cat >"$work/pgferry.toml" <<TOML
upstream = "postgres://127.0.0.1:$port"
listen = ["$work/socket", "127.0.0.1:$own"]
port = $own
pool_mode = "transaction"
admin_listen = "127.0.0.1:$admin"
stats_users = ["monitor"]
pool_size = 4
reserve_pool_size = 0
query_wait_timeout = "60s"
TOML
"$pgferry" -c "$work/pgferry.toml" 2>"$work/pgferry.log" &
children="$children $!"
until grep -q 'ready: ' "$work/pgferry.log"; do sleep 0.1; done
echo "select 1;" >"$work/one.sql"
"$bin/pgbench" -n -C -c 4 -T 1 -f "$work/one.sql" -h "$work/socket" -p "$own" -U app shop >/dev/null 2>&1

# The exporter logs in over TCP, as it does to PgBouncer. (Debian's package of that name is older than PgBouncer 1.8, whose
# tables it can't read, from whomever they come.)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/pgferry-exporter
if ! "$venv/bin/python" -c 'import prometheus_pgbouncer_exporter, psycopg2, pythonjsonlogger, yaml' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps prometheus-pgbouncer-exporter==2.1.2
    "$venv/bin/pip" install --quiet --disable-pip-version-check psycopg2-binary prometheus_client pyyaml \
        python-json-logger==2.0.7 2>/dev/null
fi
exporter=$(free_port)
cat >"$work/exporter.yml" <<YAML
exporter_host: 127.0.0.1
exporter_port: $exporter
pgbouncers:
  - dsn: postgresql://monitor:look@127.0.0.1:$own/pgbouncer
YAML
"$venv/bin/python" -W ignore "$venv/bin/pgbouncer-exporter" --config "$work/exporter.yml" >"$work/exporter.log" 2>&1 &
children="$children $!"
tries=0
until fetch "http://127.0.0.1:$exporter/metrics" >"$work/metrics" 2>/dev/null || [ $tries = 50 ]; do tries=$((tries + 1)); sleep 0.1; done
for line in '^pgbouncer_up 1' 'pgbouncer_pools_server_idle_connections{database="shop",user="app"} [1-9]' \
    'pgbouncer_stats_queries_total{database="shop"} [1-9]' 'pgbouncer_databases_database_pool_size{.*"shop"} 4' \
    'pgbouncer_config_max_client_conn [1-9]'; do
    if grep -q "$line" "$work/metrics"; then ok "exporter: $line"; else wrong "exporter: $line"; fi
done
[ $status = 0 ] || { grep ^pgbouncer "$work/metrics" || true; tail -n 5 "$work/exporter.log"; }

for action in pgb_pool_cl_active pgb_pool_cl_waiting pgb_pool_sv_active pgb_pool_sv_idle pgb_pool_maxwait; do
    if said=$(check_postgres --action=$action --host="$work/socket" --port="$own" --dbuser=postgres --warning=50 --critical=90 2>&1); then
        ok "check_postgres: $said"
    else
        wrong "check_postgres $action: $said"
    fi
done
if said=$(check_postgres --action=pgbouncer_backends --host="$work/socket" --port="$own" --dbuser=postgres --warning=90% --critical=95% 2>&1); then
    ok "check_postgres: $said"
else
    wrong "check_postgres pgbouncer_backends: $said"
fi

/usr/bin/python3 "$here/use_console.py" "$work/socket" "$own" && ok "psycopg" || wrong "psycopg"

if command -v systemd-analyze >/dev/null && systemd-analyze security --help 2>/dev/null | grep -q offline; then
    if said=$(systemd-analyze security --offline=true --threshold=20 "$top/config/pgferry.service" 2>/dev/null); then
        ok "systemd-analyze: $(echo "$said" | tail -n 1)"
    else
        wrong "systemd-analyze: $(echo "$said" | tail -n 1)"
    fi
fi

# PgBouncer's own sample, as Debian installs it.
if "$pgferry" import-pgbouncer /etc/pgbouncer/pgbouncer.ini >"$work/imported.toml" && grep -q '^auth_file' "$work/imported.toml"; then
    ok "import of PgBouncer's sample"
else
    wrong "import of PgBouncer's sample"
fi

# The page, with something to see: clients come and go, some wait, one is refused.
"$bin/pgbench" -n -C -c 8 -T 25 -f "$work/one.sql" -h "$work/socket" -p "$own" -U app shop >/dev/null 2>&1 &
load=$!
"$bin/psql" -X -q -h "$work/socket" -p "$own" -U nobody_knows shop -c 'select 1' >/dev/null 2>&1 || true
for nth in 1 2 3 4 5 6; do
    "$bin/psql" -X -q -h "$work/socket" -p "$own" "user=app dbname=postgres application_name=report-$nth" -c 'select pg_sleep(24)' >/dev/null 2>&1 &
done
chrome="chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir=$work/chromium"
sleep 16
$chrome --virtual-time-budget=4000 --dump-dom "http://127.0.0.1:$admin/" >"$work/page" 2>"$work/chromium.log" || true
for part in 'class="state good" id="state">serving' '<td>shop</td>' '<td>report-' 'role "nobody_knows" does not exist' 'stroke="var(--in)"' ; do
    if grep -q "$part" "$work/page"; then ok "page: $part"; else wrong "page: $part"; fi
done
if [ -n "${SCREENSHOT:-}" ]; then
    $chrome --virtual-time-budget=4000 --window-size=1100,900 --screenshot="$SCREENSHOT" "http://127.0.0.1:$admin/" >/dev/null 2>&1
    $chrome --virtual-time-budget=4000 --window-size=500,1600 --force-dark-mode --enable-features=WebContentsForceDark \
        --screenshot="${SCREENSHOT%.png}-narrow.png" "http://127.0.0.1:$admin/" >/dev/null 2>&1
fi
kill $load 2>/dev/null || true
exit $status
