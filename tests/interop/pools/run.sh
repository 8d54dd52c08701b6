#!/bin/sh
# Pools of real drivers and frameworks, each with forty connections that are held at once, through a pgferry in transaction mode
# that has five to PostgreSQL: what they say when they connect, configure, hand out and take back a connection keeps none of them, and
# they are told what they are told directly. The same in session mode, whose pool of five grows for those who stay.
# POOLS="asyncpg …" picks some, MODES="session transaction" the modes.
set -eu
export PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
packages="python3-venv unixodbc odbc-postgresql python3-pyodbc php-cli php-pgsql php-illuminate-database ruby ruby-pg ruby-activerecord golang-github-lib-pq-dev
    golang-github-jackc-pgx-v4-dev libhikaricp-java libpostgresql-jdbc-java libpq-dev"
for program in go:golang-go javac:default-jdk-headless node:nodejs npm:npm; do
    # Whatever package has brought it.
    command -v "${program%:*}" >/dev/null || packages="$packages ${program#*:}"
done
# shellcheck disable=SC2086 # a list of words
"$top/tests/setup.sh" $packages
. "$here/../server.sh"
caches=${XDG_CACHE_HOME:-$HOME/.cache}
venv=$caches/pgferry-interop own=$caches/pgferry-pools
if ! "$venv/bin/python" -c 'import asyncpg, django, psycopg, psycopg_pool, sqlalchemy' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check asyncpg 'sqlalchemy[asyncio]' 'django<6' 'psycopg[binary,pool]'
fi
mkdir -p "$own"
[ -d "$own/node_modules/@prisma/adapter-pg" ] ||
    npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$own" pg@8 postgres@3 knex@3 sequelize@6 typeorm@0.3 drizzle-orm \
        prisma@7 @prisma/client@7 @prisma/adapter-pg@7
jars=/usr/share/java/HikariCP.jar:/usr/share/java/postgresql.jar:/usr/share/java/slf4j-api.jar:/usr/share/java/slf4j-nop.jar
GOPATH=/usr/share/gocode GO111MODULE=off GOCACHE=$caches/pgferry-connect/go go build -o "$own/pools-go" "$here/pools.go"
javac -d "$own" -cp "$jars" "$here/Pools.java" "$here/../Clients.java"
CARGO_TARGET_DIR=$own/rust cargo build --locked --quiet --manifest-path "$here/rust/Cargo.toml"

run() {
    case $1 in
        asyncpg | sqlalchemy | django | psycopg_pool) "$venv/bin/python" "$here/pools.py" "$@" ;;
        odbc) /usr/bin/python3 "$here/pools.py" "$@" ;;
        hikari) java -Xmx256m -cp "$own:$jars" Pools "$2" "$3" ;;
        laravel) php "$here/pools.php" "$2" "$3" ;;
        active_record) ruby "$here/pools.rb" "$2" "$3" ;;
        lib_pq | pgx | pgx_stdlib) "$own/pools-go" "$@" ;;
        sqlx | deadpool | diesel) "$own/rust/debug/pools" "$@" ;;
        *) NODE_PACKAGES=$own node "$here/pools.mjs" "$@" ;;
    esac
}

# Prisma's client is made from a schema. That needs no engine, which would be downloaded.
generate_prisma() {
    cp "$here/schema.prisma" "$own/"
    (cd "$own" && PRISMA_SCHEMA_ENGINE_BINARY=/bin/true CHECKPOINT_DISABLE=1 node_modules/.bin/prisma generate --schema schema.prisma)
}
node_is_new() {
    node -e "const [major, minor] = process.versions.node.split('.'); process.exit(major > 20 || (major == 20 && minor >= 19) ? 0 : 1)"
}

# Runs a pool through a pgferry in this mode, and compares what it is told.
ferried() {
    pool=$1 mode=$2
    # Java has no unix sockets.
    tcp=$(free_port)
    # In session mode each client has a server connection to itself.
    if [ "$mode" = transaction ]; then most=5; else most=90; fi
    PGFERRY_PORT=5432 PGFERRY_MAX_UPSTREAM=$most \
        start_ferry "$work/socket" --listen "127.0.0.1:$tcp" --pool-mode "$mode" --pool-size 5
    if run "$pool" 127.0.0.1 "$tcp" >"$work/pool.out" 2>"$work/pool.err" && diff "$work/direct.out" "$work/pool.out"; then
        pins=$("$bin/psql" -X -At -F ' ' -h "$work/socket" -p 5432 -U postgres pgferry -c 'show pins' | grep -v ' 0 0$' || true)
        if [ -z "$pins" ]; then ok "$pool, $mode"; else wrong "$pool, $mode: keeps its connections: $pins"; fi
    else
        wrong "$pool, $mode"
        tail -n 20 "$work/pool.err"; tail -n 10 "$work/pgferry.log"
    fi
    end_ferry
}

pools=${POOLS-"asyncpg sqlalchemy django psycopg_pool odbc hikari laravel active_record lib_pq pgx pgx_stdlib pg_pool knex sequelize
    typeorm postgres_js drizzle prisma sqlx deadpool diesel"}
for pool in $pools; do
    if [ "$pool" = prisma ]; then
        node_is_new || { echo "left out: prisma needs Node 20.19 or later, and this is $(node --version)"; continue; }
        generate_prisma >"$work/prisma.log" 2>&1 || { wrong "$pool, generated"; cat "$work/prisma.log"; continue; }
    fi
    if ! run "$pool" 127.0.0.1 "$port" >"$work/direct.out" 2>"$work/direct.err" || [ ! -s "$work/direct.out" ]; then
        wrong "$pool, directly"
        tail -n 20 "$work/direct.err"
        continue
    fi
    for mode in ${MODES:-session transaction}; do
        ferried "$pool" "$mode"
    done
done
exit "$status"
