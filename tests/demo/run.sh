#!/usr/bin/env bash
# The problem and its cure, side by side: short connections from one host to a database on another, directly and
# through pgferry. The two hosts are network namespaces joined by a veth pair; everything made here is removed at the
# end. Who is not root gets one namespace of its own, where both are. Where neither is permitted, only the cure is shown.
#
# DEMO_SECONDS (10) is how long each half runs. DEMO_HOSTS=two, one or none picks what to try first.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${DEMO_SECONDS:-10}
ports=400
clients=10
db_net=pgferry-demo-db
app_net=pgferry-demo-app
db_ip=10.213.77.1
app_ip=10.213.77.2
password=demo-secret

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }

if [ -z "${DEMO_INSIDE:-}" ]; then
    tests/setup.sh
    step "Building pgferry"
    [ -n "${PGFERRY:-}" ] || cargo build --release --locked --quiet
fi
ferry=$(realpath "${PGFERRY:-target/release/pgferry}")
pg=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
pg=${PGFERRY_TEST_PG_BIN:-$pg}

work=$(mktemp -d /tmp/pgferry-demo.XXXXXX)
chmod 755 "$work"
made_namespaces=""
missing=""
children=()
postgres_pid=""

remove_hosts() {
    [ -z "$made_namespaces" ] || for name in "$app_net" "$db_net"; do ip netns delete "$name" 2>/dev/null || true; done
    made_namespaces=""
}

cleanup() {
    status=$?
    trap - EXIT INT TERM
    for child in "${children[@]:-}"; do
        [ -n "$child" ] && kill "$child" 2>/dev/null || true
    done
    # Clients need not end first.
    [ -n "$postgres_pid" ] && kill -INT "$postgres_pid" 2>/dev/null || true
    wait 2>/dev/null || true
    remove_hosts
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Two hosts, if we may.
make_hosts() {
    [ "$(id -u)" = 0 ] && [ "${DEMO_HOSTS:-two}" = two ] || return 1
    ip netns add "$db_net" 2>/dev/null || return 1
    made_namespaces=yes
    ip netns add "$app_net" &&
        ip link add pgfdemo0 netns "$db_net" type veth peer name pgfdemo1 netns "$app_net" &&
        ip -n "$db_net" addr add "$db_ip/24" dev pgfdemo0 &&
        ip -n "$app_net" addr add "$app_ip/24" dev pgfdemo1 &&
        ip -n "$db_net" link set lo up && ip -n "$db_net" link set pgfdemo0 up &&
        ip -n "$app_net" link set lo up && ip -n "$app_net" link set pgfdemo1 up &&
        ip netns exec "$app_net" sh -c "echo 20000 $((20000 + ports - 1)) >/proc/sys/net/ipv4/ip_local_port_range"
}

# One namespace that is ours, with loopback only: there the database's host is the application's as well, and the kernel
# would use its ports again after a second if it were not told otherwise.
own_host="ip link set lo up &&
    echo 20000 $((20000 + ports - 1)) >/proc/sys/net/ipv4/ip_local_port_range &&
    echo 0 >/proc/sys/net/ipv4/tcp_tw_reuse"
unshare=(unshare --net)
[ "$(id -u)" = 0 ] || unshare=(unshare --user --map-current-user --keep-caps --net)

if make_hosts 2>/dev/null; then
    on_db=(ip netns exec "$db_net")
    on_app=(ip netns exec "$app_net")
    host=$db_ip
    say "Two hosts: a database at $db_ip, an application at $app_ip with $ports ephemeral ports"
    say "(a real host has 28,232 by default; fewer make the failure quick)."
elif [ -z "${DEMO_INSIDE:-}" ] && [ "${DEMO_HOSTS:-one}" != none ] && "${unshare[@]}" sh -c "$own_host" 2>/dev/null; then
    remove_hosts
    rm -rf "$work"
    trap - EXIT
    DEMO_INSIDE=yes exec "${unshare[@]}" sh -c "$own_host && exec \"\$0\"" "$PWD/tests/demo/run.sh"
else
    on_db=(env)
    on_app=(env)
    host=127.0.0.1
    if [ -n "${DEMO_INSIDE:-}" ]; then
        say "One host of its own for database and application, with $ports ephemeral ports"
        say "(a real host has 28,232 by default; fewer make the failure quick)."
    else
        missing=yes
        say "THE FAILURE IS NOT SHOWN: it takes a network namespace, and none can be made here, whether by root or in a user"
        say "namespace. On this host's own loopback ports are used again after a second, so they do not run out. What is shown:"
        say "pgferry at work, and the sockets in TIME_WAIT that direct connections leave, each of which holds a port for 60 seconds."
    fi
fi

as_owner=(env)
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL does not run as root.
    owner=$(id -un postgres 2>/dev/null || echo nobody)
    chown "$owner" "$work"
    as_owner=(setpriv --reuid "$owner" --regid "$(id -gn "$owner")" --clear-groups)
fi

step "Starting PostgreSQL"
port=5432
[ "$host" = 127.0.0.1 ] && port=$((20000 + RANDOM % 10000))
# Where it may be: the programs below run as another user.
cd "$work"
printf '%s' "$password" >"$work/password"
chmod 644 "$work/password"
"${as_owner[@]}" "$pg/initdb" -D "$work/data" -U app -A scram-sha-256 --pwfile="$work/password" --no-sync >/dev/null
cat >>"$work/data/postgresql.conf" <<CONF
listen_addresses = '$host'
port = $port
unix_socket_directories = ''
fsync = off
max_connections = 50
CONF
echo "host all all all scram-sha-256" >>"$work/data/pg_hba.conf"
"${on_db[@]}" "${as_owner[@]}" "$pg/postgres" -D "$work/data" >"$work/postgres.log" 2>&1 &
postgres_pid=$!
for _ in $(seq 200); do
    "${on_app[@]}" "$pg/pg_isready" -q -h "$host" -p "$port" && break
    sleep 0.05
done

step "Starting pgferry beside the application"
: >"$work/ferry.log"
"${on_app[@]}" "$ferry" --upstream "postgres://$host:$port" --listen "$work/ferry" --port 5432 >"$work/ferry.log" 2>&1 &
ferry_pid=$!
children+=("$ferry_pid")
for _ in $(seq 200); do
    grep -q 'ready: ' "$work/ferry.log" && break
    sleep 0.05
done
sed 's/^.*INFO /  /' "$work/ferry.log"

echo 'select 1' >"$work/script.sql"

# Sockets in TIME_WAIT on the application's host that hold a port toward the database.
time_waits() {
    "${on_app[@]}" awk -v port=":$(printf '%04X' "$port")" '$4 == "06" && $3 ~ port "$" { n++ } END { print n + 0 }' /proc/net/tcp
}

# bench NAME HOST PORT SECONDS: pgbench with a new connection for every transaction.
bench() {
    local name=$1 at=$2 at_port=$3 seconds=$4 from
    step "$name: pgbench -M simple -C -n -f 'select 1', $clients clients, $seconds s"
    say "  host=$at port=$at_port user=app dbname=postgres"
    before=$(time_waits)
    from=$(date +%s.%N)
    PGPASSWORD=$password "${on_app[@]}" "$pg/pgbench" -h "$at" -p "$at_port" -U app -M simple -C -n -c "$clients" -j 2 \
        -T "$seconds" -P 2 -f "$work/script.sql" postgres 2> >(tee "$work/err" | sed -un 's/^progress: /  /p') >"$work/out" || true
    took=$(awk -v a="$from" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    sleep 0.2
    done_=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/out")
    failed=$(grep -c 'failed: ' "$work/err" || true)
    error=$(sed -n 's/^.*failed: //p' "$work/err" | head -n 1)
    [ -z "$error" ] || say "  $failed of $clients clients gave up: $error"
    waits=$(($(time_waits) - before))
    rate=$(awk -v n="${done_:-0}" -v s="$took" 'BEGIN { printf "%d", (s > 0 ? n / s : 0) }')
}

# The cure first: the problem leaves its host without ports for a minute.
bench "(a) through pgferry" "$work/ferry" 5432 "$seconds"
kill -USR1 "$ferry_pid"
for _ in $(seq 100); do
    grep -q 'upstream_opened=' "$work/ferry.log" && break
    sleep 0.05
done
opened=$(sed -n 's/^.*upstream_opened=\([0-9]*\).*/\1/p' "$work/ferry.log" | tail -n 1)
ferried=("${done_:-0}" "$failed of $clients" "$rate" "$waits" "${opened:-?}" "${error:-none}" "$took")
# It ends when the ports do, which takes a slow machine longer.
at_most=$seconds
[ -n "$missing" ] || [ "$seconds" -ge 30 ] || at_most=30
bench "(b) directly" "$host" "$port" "$at_most"
direct=("${done_:-0}" "$failed of $clients" "$rate" "$waits" "${done_:-0}" "${error:-none}" "$took")

row() { printf '  %-34s %22s %22s\n' "$@"; }
step "The same database, user, password and SQL; the connection string differs in its host"
row "" "directly" "through pgferry"
row "host=" "$host" "(pgferry's socket)"
row "transactions done" "${direct[0]}" "${ferried[0]}"
if [ -n "$missing" ]; then row "clients that failed" "not shown here" "${ferried[1]}"; else row "clients that failed" "${direct[1]}" "${ferried[1]}"; fi
row "ran for (s)" "${direct[6]}" "${ferried[6]}"
row "connections/s" "${direct[2]}" "${ferried[2]}"
row "TIME_WAIT left on the app's host" "${direct[3]}" "${ferried[3]}"
row "TCP connections to the database" "${direct[4]}" "${ferried[4]}"
if [ -n "$missing" ]; then
    say "  error directly:         not shown here: no network namespace can be made. On a host of its own, 28,232 ports at"
    say "                          this rate last $(awk -v rate="${direct[2]}" 'BEGIN { printf "%d", (rate > 0 ? 28232 / rate : 0) }') s, and the next connection gets \"Cannot assign requested address\""
elif [ "${direct[5]}" = none ]; then
    say "  error directly:         NONE YET: this machine has not made $ports connections in $at_most s; try DEMO_SECONDS=60"
else
    say "  error directly:         ${direct[5]}"
fi
say "  error through pgferry:  ${ferried[5]}"
