#!/usr/bin/env bash
# What a short connection costs: pgferry and PgBouncer in front of the same PostgreSQL, interleaved, on loopback.
# Prints ratios, each the median of BENCH_RUNS (5) runs of BENCH_SECONDS (5). Absolute numbers depend on the machine.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=${BENCH_RUNS:-5}
seconds=${BENCH_SECONDS:-5}
tests/setup.sh postgresql pgbouncer
cargo build --release --locked --quiet
pg=${PGFERRY_TEST_PG_BIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
bouncer=$(command -v pgbouncer || echo /usr/sbin/pgbouncer)

work=$(mktemp -d /tmp/pgferry-bench.XXXXXX)
chmod 755 "$work"
children=()
cleanup() {
    status=$?
    trap - EXIT INT TERM
    for child in "${children[@]:-}"; do
        [ -n "$child" ] && kill -INT "$child" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

as_owner=(env)
if [ "$(id -u)" = 0 ]; then
    owner=$(id -un postgres 2>/dev/null || echo nobody)
    chown "$owner" "$work"
    as_owner=(setpriv --reuid "$owner" --regid "$(id -gn "$owner")" --clear-groups)
fi
port=$((20000 + RANDOM % 10000))
"${as_owner[@]}" "$pg/initdb" -D "$work/data" -U app -A trust --no-sync >/dev/null
printf "port=%s\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\nfsync=off\n" "$port" >>"$work/data/postgresql.conf"
"${as_owner[@]}" "$pg/postgres" -D "$work/data" >"$work/postgres.log" 2>&1 &
children+=($!)
until "$pg/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.05; done
echo 'select 1' >"$work/script.sql"

# start NAME MODE: sets `pid` and `at`.
start() {
    at=$work/$1-$2
    "${as_owner[@]}" mkdir -p "$at"
    case $1 in
    pgferry)
        reset=always
        [ "$2" = transaction ] && reset=never
        "${as_owner[@]}" target/release/pgferry -u "postgres://127.0.0.1:$port" -l "$at" -m "$2" --reset "$reset" -q &
        ;;
    pgbouncer)
        cat >"$at.ini" <<INI
[databases]
* = host=127.0.0.1 port=$port
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = $at
auth_type = any
pool_mode = $2
default_pool_size = 20
max_client_conn = 1000
log_connections = 0
log_disconnections = 0
[users]
INI
        sed -i 's/^\* = .*/& user=app/' "$at.ini"
        "${as_owner[@]}" "$bouncer" -q "$at.ini" &
        ;;
    esac
    pid=$!
    children+=("$pid")
    until [ -S "$at/.s.PGSQL.5432" ]; do sleep 0.02; done
}

# User and system time of a process in ticks.
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

# once NAME MODE: appends "tps cpu" to the results.
once() {
    start "$1" "$2"
    "$pg/pgbench" -h "$at" -U app -M simple -C -n -c 10 -t 5 -f "$work/script.sql" postgres >/dev/null 2>&1
    before=$(ticks "$pid")
    "$pg/pgbench" -h "$at" -U app -M simple -C -n -c 50 -j 2 -T "$seconds" -f "$work/script.sql" postgres >"$work/out" 2>&1
    cpu=$(($(ticks "$pid") - before))
    kill -INT "$pid"
    wait "$pid" 2>/dev/null || true
    awk -v cpu="$cpu" -v hz="$(getconf CLK_TCK)" '
        /actually processed/ { n = $NF } /^tps/ { tps = $3 }
        END { printf "%.0f %.1f\n", tps, cpu / hz * 1e6 / n }' "$work/out" >>"$work/$1-$2.results"
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

for run in $(seq "$runs"); do
    for mode in session transaction; do
        for name in pgferry pgbouncer; do
            printf '\rrun %s of %s: %-24s' "$run" "$runs" "$name, $mode" >&2
            once "$name" "$mode"
        done
    done
done
printf '\r%-50s\r' '' >&2
printf 'pgbench -C -c 50 -j 2, select 1, no password, pool 20; medians of %s runs of %s s\n' "$runs" "$seconds"
printf '%-14s %-12s %12s %22s\n' mode proxy tps 'proxy CPU µs/connection'
for mode in session transaction; do
    for name in pgferry pgbouncer; do
        tps=$(cut -d' ' -f1 "$work/$name-$mode.results" | median)
        cpu=$(cut -d' ' -f2 "$work/$name-$mode.results" | median)
        printf '%-14s %-12s %12s %22s\n' "$mode" "$name" "$tps" "$cpu"
        declare "${name}_tps=$tps" "${name}_cpu=$cpu"
    done
    awk -v m="$mode" -v a="$pgferry_tps" -v b="$pgbouncer_tps" -v c="$pgferry_cpu" -v d="$pgbouncer_cpu" \
        'BEGIN { printf "%-14s %-12s %12.2f %22.2f\n", m, "ratio", a / b, c / d }'
done
