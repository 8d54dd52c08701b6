#!/bin/sh
# Drivers at work through pgferry while backends are killed, PostgreSQL restarts, pgferry is reloaded and replaced and the
# network is cut: rounds of half a minute for STRESS_SECONDS (600). STRESS_SEED=7 begins with that round, STRESS_DIRECT=1
# leaves pgferry out, STRESS_DRIVERS="psycopg …" picks some, PGFERRY=… is another program. Installs the drivers.
set -eu
export PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
packages="python3-venv golang-github-lib-pq-dev golang-github-jackc-pgx-v4-dev libpostgresql-jdbc-java"
for program in go:golang-go javac:default-jdk-headless node:nodejs npm:npm; do
    # Whatever package has brought it.
    command -v "${program%:*}" >/dev/null || packages="$packages ${program#*:}"
done
# shellcheck disable=SC2086 # a list of words
"$top/tests/setup.sh" $packages
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
pgferry=${PGFERRY:-$top/target/release/pgferry}
[ -n "${PGFERRY:-}" ] || cargo build --release --locked --quiet --manifest-path "$top/Cargo.toml"

# The drivers that `make interop` has, too.
caches=${XDG_CACHE_HOME:-$HOME/.cache}
python=$caches/pgferry-interop/bin/python node=$caches/pgferry-connect own=$caches/pgferry-stress
mkdir -p "$node" "$own"
if ! "$python" -c 'import asyncpg, psycopg' 2>/dev/null; then
    python3 -m venv "$caches/pgferry-interop"
    "$python" -m pip install --quiet --disable-pip-version-check asyncpg 'psycopg[binary]'
fi
[ -d "$node/node_modules/pg" ] || npm install --silent --no-fund --no-audit --prefix "$node" pg@8 postgres@3

workers=$here/workers
GOPATH=/usr/share/gocode GO111MODULE=off GOCACHE=$node/go go build -o "$own/stress-go" "$workers"/go/*.go
javac -d "$own" -cp /usr/share/java/postgresql.jar "$workers/Stress.java"
CARGO_TARGET_DIR=$own/rust cargo build --locked --quiet --manifest-path "$workers/rust/Cargo.toml"

work=$(mktemp -d /tmp/pgferry-stress.XXXXXX)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
set --
for driver in ${STRESS_DRIVERS-lib-pq pgx psycopg asyncpg pgjdbc node-postgres sqlx}; do
    case $driver in
        lib-pq | pgx) program=$own/stress-go ;;
        psycopg | asyncpg) program="$python $workers/use_$driver.py" ;;
        pgjdbc) program="java -Xmx256m -cp $own:/usr/share/java/postgresql.jar Stress" ;;
        node-postgres) program="env NODE_PACKAGES=$node node $workers/stress.mjs" ;;
        sqlx) program=$own/rust/debug/stress ;;
        *) echo "stress: no such driver: $driver" >&2; exit 2 ;;
    esac
    set -- "$@" --worker "$driver=$program"
done
"$python" "$here/stress.py" --pgferry "$pgferry" --bin "$bin" --work "$work" --seconds "${STRESS_SECONDS:-600}" \
    --seed "${STRESS_SEED:-$(date +%s)}" --direct "${STRESS_DIRECT:-0}" "$@"
