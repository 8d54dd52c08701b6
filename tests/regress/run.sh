#!/bin/sh
# PostgreSQL's own regression and isolation suites and libpq_pipeline, directly and through pgferry in both modes: the
# results must be the same, but for the differences listed, with their reasons, in expected-differences.
#
#   tests/regress/run.sh [suite...]      suites: regress isolation pipeline (default: all)
#   MODES="session transaction"          the modes to run
#   WORK=dir                             keep the sources and the results there (default: a temporary directory)
#
# The suites come from Debian's source package of the installed PostgreSQL.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
suites=${*:-regress isolation pipeline}
modes=${MODES:-session transaction}

fail() { echo "regress: $*" >&2; exit 1; }

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$bin" ] || { "$top/tests/setup.sh"; bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1); }
major=$(basename "$(dirname "$bin")")
"$top/tests/setup.sh" "postgresql-server-dev-$major" libpq-dev dpkg-dev gcc libc6-dev bzip2
[ "$(id -u)" = 0 ] || fail "needs root, to run PostgreSQL as user postgres"

work=${WORK:-}
if [ -z "$work" ]; then
    work=$(mktemp -d /tmp/pgferry-regress.XXXXXX)
    trap 'stop; rm -rf "$work"' EXIT
else
    mkdir -p "$work"
    trap stop EXIT
fi
trap 'exit 1' INT TERM
chmod 755 "$work"

server="" ferry=""
stop() {
    [ -z "$ferry" ] || { kill "$ferry" 2>/dev/null && wait "$ferry" || true; }
    [ -z "$server" ] || { kill -INT "$server" 2>/dev/null && wait "$server" || true; }
    ferry="" server=""
}
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups env HOME="$work" "$@"; }

# The source package that belongs to the installed server, or the next best of its major version.
fetch() {
    [ -z "$(ls -d "$work/source/src/test" 2>/dev/null)" ] || return 0
    mkdir -p "$work/apt/parts" "$work/apt/lists/partial"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$work/apt/parts/$(basename "$file")"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$file" ] || sed -n 's/^deb /deb-src /p' "$file" >"$work/apt/parts/$(basename "$file" .list).list"
    done
    set -- -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/apt/parts" \
        -o "Dir::State::lists=$work/apt/lists" -o APT::Sandbox::User=root
    apt-get "$@" update -qq
    for version in $(apt-cache "$@" showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -rV | uniq); do
        (cd "$work" && apt-get "$@" source -qq --download-only "postgresql-$major=$version") >/dev/null 2>&1 && break
    done
    archive=$(ls "$work"/postgresql-"$major"_*.orig.tar.* 2>/dev/null | tail -1)
    [ -n "$archive" ] || fail "no source package of postgresql-$major can be had"
    mkdir -p "$work/source"
    tar xf "$archive" -C "$work/source" --strip-components=1
}

build() {
    server_dir=/usr/include/postgresql/$major/server
    lib=/usr/lib/postgresql/$major/lib
    [ -f "$work/regress.so" ] || gcc -O1 -w -fPIC -shared -I"$server_dir" -I/usr/include/postgresql \
        -o "$work/regress.so" "$work/source/src/test/regress/regress.c"
    [ -f "$work/libpq_pipeline" ] || gcc -O1 -w -I"$server_dir" -I/usr/include/postgresql \
        -o "$work/libpq_pipeline" "$work/source/src/test/modules/libpq_pipeline/libpq_pipeline.c" \
        -L"$lib" -lpgfeutils -lpgcommon -lpgport -lpq
    cargo build --release --locked --quiet --manifest-path "$top/Cargo.toml"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Makes the database as pg_regress would, before pgferry runs: a few seconds later its connections would be outdated by the settings.
make_isolation_regression() {
    superuser() { "$bin/psql" -X -q -h 127.0.0.1 -p "$port" -U postgres -d postgres -c "$1"; }
    superuser 'create database isolation_regression template template0'
    for setting in lc_messages=C lc_monetary=C lc_numeric=C lc_time=C bytea_output=hex timezone_abbreviations=Default; do
        superuser "alter database isolation_regression set ${setting%=*} = '${setting#*=}'"
    done
}

# Starts a server of its own, and pgferry in front of it unless the mode is "direct".
start() {
    mode=$1
    dir=$work/run/$2-$mode
    rm -rf "$dir"
    mkdir -p "$dir"
    cp "$work/regress.so" "$dir/"
    chown -R postgres:postgres "$dir"
    as_postgres "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$dir/initdb.log"
    port=$(free_port)
    cat >>"$dir/data/postgresql.conf" <<CONF
fsync = off
unix_socket_directories = ''
listen_addresses = '127.0.0.1'
max_connections = 200
max_prepared_transactions = 10
shared_buffers = 64MB
CONF
    # Not by the function, whose shell would stand between us and the server's signals.
    setpriv --reuid postgres --regid postgres --clear-groups \
        "$bin/postgres" -D "$dir/data" -p "$port" >"$dir/server.log" 2>&1 &
    server=$!
    until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.1; done
    [ "$2" != isolation ] || make_isolation_regression
    host=127.0.0.1
    [ "$mode" != direct ] || return 0
    host=$dir/socket
    mkdir -p "$host"
    chown postgres:postgres "$host"
    cp "$top/target/release/pgferry" "$dir/"
    # As the user whose suites may then ask its console.
    PGFERRY_QUERY_WAIT_TIMEOUT=60s PGFERRY_MAX_UPSTREAM=180 PGFERRY_MIN_POOL_SIZE=12 \
        setpriv --reuid postgres --regid postgres --clear-groups "$dir/pgferry" \
        --upstream "postgres://127.0.0.1:$port" --listen "$host" --port "$port" \
        --pool-mode "$mode" --pool-size 40 2>"$dir/pgferry.log" &
    ferry=$!
    until grep -qs 'ready: ' "$dir/pgferry.log"; do
        kill -0 "$ferry" || fail "pgferry did not start: $(cat "$dir/pgferry.log")"
        sleep 0.1
    done
}

run_regress() {
    src=$work/source/src/test/regress
    mkdir -p "$dir/out/testtablespace"
    chown -R postgres:postgres "$dir/out"
    as_postgres "/usr/lib/postgresql/$major/lib/pgxs/src/test/regress/pg_regress" \
        --bindir="$bin" --dlpath="$dir" --inputdir="$src" --outputdir="$dir/out" --max-concurrent-tests=20 \
        --schedule="$src/parallel_schedule" --host="$host" --port="$port" --user=postgres >"$dir/log" 2>&1 || true
}

run_isolation() {
    src=$work/source/src/test/isolation
    tools=/usr/lib/postgresql/$major/lib/pgxs/src/test/isolation
    mkdir -p "$dir/out"
    chown -R postgres:postgres "$dir/out"
    schedule=$dir/schedule
    sed -nE "s/^isolation +$mode +([^ ]+) +the pid .*/test: \1/p" "$here/expected-differences" >"$dir/left-out"
    grep -vxFf "$dir/left-out" "$src/isolation_schedule" >"$schedule"
    cp "$here/await_idle.sh" "$dir/"
    set --
    [ "$mode" != session ] || set -- --launcher="$dir/await_idle.sh"
    (cd "$dir/out" && as_postgres PATH="$tools:$PATH" PGISOLATIONTIMEOUT=60 "$tools/pg_isolation_regress" \
        --bindir="$bin" --inputdir="$src" --outputdir="$dir/out" \
        --use-existing "$@" --schedule="$schedule" --host="$host" --port="$port" --user=postgres) >"$dir/log" 2>&1 || true
}

run_pipeline() {
    mkdir -p "$dir/out/results"
    for test in $("$work/libpq_pipeline" tests); do
        status=ok
        timeout 60 "$work/libpq_pipeline" "$test" "host=$host port=$port user=postgres dbname=postgres" \
            >"$dir/out/results/$test.out" 2>&1 || status="failed ($?)"
        echo "$test ... $status" >>"$dir/log"
    done
}

# Which tests came out otherwise than directly.
compare() {
    suite=$1 mode=$2
    direct=$work/run/$suite-direct ferried=$work/run/$suite-$mode
    [ -s "$direct/log" ] || fail "$suite ran no tests"
    if [ "$suite" = pipeline ]; then
        # What they print depends on how much comes at a time.
        diff "$direct/log" "$ferried/log" | sed -n "s/^[<>] \([a-z_]*\) .*/$suite $mode \1/p" | sort -u
        return
    fi
    for file in "$direct"/out/results/*.out; do
        name=$(basename "$file" .out)
        ! grep -qxF "test: $name" "$work/run/$suite-$mode/left-out" 2>/dev/null || continue
        normalize "$file" >"$work/a"
        normalize "$ferried/out/results/$name.out" >"$work/b" 2>/dev/null || echo missing >"$work/b"
        cmp -s "$work/a" "$work/b" || echo "$suite $mode $name"
    done
}

# Takes out what is each run's own: directories and ports.
normalize() { sed -e "s#$work/run/[a-z-]*#RUN#g" "$1"; }

fetch
build
: >"$work/differences"
for suite in $suites; do
    for mode in direct $modes; do
        start "$mode" "$suite"
        echo "== $suite, $mode"
        "run_$suite"
        stop
        sed -n 's/^.* \.\.\. \([a-z]*\).*/\1/p' "$dir/log" | sort | uniq -c | tr '\n' ' '
        echo
        [ "$mode" = direct ] || compare "$suite" "$mode" | tee -a "$work/differences"
    done
done

status=0
while read -r suite mode name; do
    if grep -qE "^$suite +$mode +$name( |$)" "$here/expected-differences"; then
        echo "as listed: $suite $mode $name: $(sed -nE "s/^$suite +$mode +$name +//p" "$here/expected-differences")"
    else
        echo "DIFFERS: $suite $mode $name (diff $work/run/$suite-direct/out/results/$name.out $work/run/$suite-$mode/out/results/$name.out)"
        status=1
    fi
done <"$work/differences"
[ "$status" != 0 ] || echo "regress: no difference that is not listed"
exit "$status"
