#!/bin/sh
# Every connection of docs/connecting.md: PGFERRY UPSTREAM-PORT WORK-DIRECTORY PYTHON. Installs the drivers.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
pgferry=$1 port=$2 work=$3 python=$4
packages="golang-github-lib-pq-dev golang-github-jackc-pgx-v4-dev libjunixsocket-java libjunixsocket-jni libpostgresql-jdbc-java php-cli
    php-pgsql ruby ruby-pg ruby-activerecord libdbd-pg-perl libssl-dev pkg-config"
for program in go:golang-go java:default-jre-headless node:nodejs npm:npm; do
    # Whatever package has brought it.
    command -v "${program%:*}" >/dev/null || packages="$packages ${program#*:}"
done
# shellcheck disable=SC2086 # a list of words
"$top/tests/setup.sh" $packages
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgferry-connect
mkdir -p "$cache"
"$python" -c 'import pg8000, psycopg2' 2>/dev/null ||
    "$python" -m pip install --quiet --disable-pip-version-check 'pg8000<2' 'psycopg2-binary<3'
[ -d "$cache/node_modules/postgres" ] || npm install --silent --no-fund --no-audit --prefix "$cache" pg@8 postgres@3
GOPATH=/usr/share/gocode GO111MODULE=off GOCACHE=$cache/go go build -o "$cache/connect-go" "$here/connect.go"
CARGO_TARGET_DIR=$cache/rust cargo build --locked --quiet --manifest-path "$here/rust/Cargo.toml"
mkdir "$work/connect"
"$here/connect.py" --pgferry "$pgferry" --upstream "127.0.0.1:$port" --work "$work/connect" --python "$python" --node "$cache" \
    --go "$cache/connect-go" --rust "$cache/rust/debug/connect"
