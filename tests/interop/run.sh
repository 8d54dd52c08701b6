#!/bin/sh
# Drivers that keep prepared statements, defaults untouched: each script says the same directly and through pgferry, in
# both modes, with more clients than connections. Then they log in by every method, and every connection string of docs/connecting.md is
# tried. DRIVERS="asyncpg …" picks some of the former.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
"$top/tests/setup.sh" python3-venv prometheus
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
work=$(mktemp -d /tmp/pgferry-interop.XXXXXX)
chmod 755 "$work"
server="" ferry=""
stop() {
    [ -z "$ferry" ] || { kill "$ferry" 2>/dev/null && wait "$ferry" || true; }
    ferry=""
}
trap 'stop; [ -z "$server" ] || kill -INT "$server"; wait; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

venv=${XDG_CACHE_HOME:-$HOME/.cache}/pgferry-interop
if ! "$venv/bin/python" -c 'import asyncpg, sqlalchemy, greenlet, django, psycopg' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check asyncpg 'sqlalchemy[asyncio]' 'django<6' 'psycopg[binary]'
fi
cargo build --release --locked --quiet --manifest-path "$top/Cargo.toml"

owner=""
if [ "$(id -u)" = 0 ]; then
    owner="setpriv --reuid postgres --regid postgres --clear-groups"
    chown postgres "$work"
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# shellcheck disable=SC2086 # a list of words
$owner "$bin/initdb" -D "$work/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$work/initdb.log"
# shellcheck disable=SC2086
$owner "$bin/postgres" -D "$work/data" -p "$port" -c fsync=off -c unix_socket_directories='' \
    -c listen_addresses=127.0.0.1 >"$work/server.log" 2>&1 &
server=$!
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.1; done

drivers=${DRIVERS-"asyncpg psycopg sqlalchemy django"}
jar=/usr/share/java/postgresql.jar
if command -v java >/dev/null && { [ -f "$jar" ] || "$top/tests/setup.sh" libpostgresql-jdbc-java; }; then
    drivers="$drivers jdbc"
    javac -d "$work" "$here/Clients.java"
else
    echo "interop: without pgjdbc, since there is no Java"
fi

run() {
    case $1 in
        jdbc) java -cp "$work:$jar" "$here/Jdbc.java" "$2" "$3" ;;
        *) "$venv/bin/python" -B "$here/use_$1.py" "$2" "$3" ;;
    esac
}

status=0
for driver in $drivers; do
    run "$driver" 127.0.0.1 "$port" >"$work/direct.out"
    [ -s "$work/direct.out" ] || { echo "interop: $driver says nothing"; status=1; }
    for how in session/always/8 transaction/always/2 transaction/on_change/2 transaction/never/2; do
        mode=${how%%/*} reset=${how#*/}
        listen=$work/socket where=$work/socket
        # Java has no unix sockets.
        own=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        if [ "$driver" = jdbc ]; then listen=127.0.0.1:$own where=127.0.0.1; fi
        mkdir -p "$work/socket"
        "$top/target/release/pgferry" --upstream "postgres://127.0.0.1:$port" --listen "$listen" --port "$own" \
            --pool-mode "$mode" --reset "${reset%/*}" --pool-size "${reset#*/}" 2>"$work/pgferry.log" &
        ferry=$!
        until grep -q 'ready: ' "$work/pgferry.log"; do sleep 0.1; done
        if run "$driver" "$where" "$own" >"$work/ferried.out" 2>"$work/ferried.err" &&
            diff "$work/direct.out" "$work/ferried.out"; then
            echo "ok: $driver, $how"
        else
            echo "DIFFERS: $driver, $how"
            tail -n 5 "$work/ferried.err"; tail -n 5 "$work/pgferry.log"
            status=1
        fi
        stop
    done
done

# Logins: every method, with what the drivers do about TLS.
certs=$work/certs secret="pa ss'w"
mkdir "$certs"
chmod 755 "$certs"
(
    cd "$certs"
    openssl req -x509 -new -nodes -newkey rsa:2048 -days 2 -subj /CN=root -keyout root.key -out root.crt
    for name in server client; do
        subject=/CN=pgferry; [ $name = server ] || subject=/CN=cert_user
        openssl req -new -nodes -newkey rsa:2048 -subj $subject -keyout $name.key -out $name.csr
        echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >$name.ext
        openssl x509 -req -in $name.csr -days 1 -CA root.crt -CAkey root.key -CAcreateserial -extfile $name.ext -out $name.crt
    done
    openssl pkcs8 -topk8 -inform PEM -outform DER -nocrypt -in client.key -out client.pk8
    chmod 600 ./*.key
) >"$work/openssl.log" 2>&1
query() { "$bin/psql" -X -At -h 127.0.0.1 -p "$port" -U postgres -d postgres -v ON_ERROR_STOP=1 -c "$1"; }
for user in scram plain pass cert local; do query "create role ${user}_user login password '$(echo "$secret" | sed "s/'/''/g")'" >/dev/null; done
query "set password_encryption = md5; create role md5_user login password 'pa ss''w'" >/dev/null
own=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
admin=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/pgferry.toml" <<TOML
admin_listen = "127.0.0.1:$admin"
upstream = "postgres://127.0.0.1:$port"
listen = ["$work/socket", "127.0.0.1:$own"]
port = $own
client_tls_cert_file = "$certs/server.crt"
client_tls_key_file = "$certs/server.key"
client_tls_ca_file = "$certs/root.crt"
[users]
scram_user = "$(query "select rolpassword from pg_authid where rolname = 'scram_user'")"
md5_user = "$(query "select rolpassword from pg_authid where rolname = 'md5_user'")"
plain_user = "$secret"
[[peer]]
uid = $(id -u)
roles = ["local_user"]
[[rule]]
user = "scram_user"
method = "scram-sha-256"
[[rule]]
user = "md5_user"
method = "md5"
[[rule]]
user = "plain_user"
method = "password"
[[rule]]
user = "cert_user"
method = "cert"
[[rule]]
user = "local_user"
method = "peer"
[[rule]]
user = "pass_user"
method = "pass-through"
TOML
sed -i '1i host all scram_user,md5_user,plain_user,pass_user 127.0.0.1/32 md5' "$work/data/pg_hba.conf"
query 'select pg_reload_conf()' >/dev/null
"$top/target/release/pgferry" -c "$work/pgferry.toml" 2>"$work/pgferry.log" &
ferry=$!
until grep -q 'ready: ' "$work/pgferry.log"; do sleep 0.1; done
"$venv/bin/python" "$here/log_in.py" "$work/socket" "$own" "$certs" "$secret" || status=1
case $drivers in *jdbc*) java -cp "$jar" "$here/LogIn.java" "$own" "$certs" "$secret" || status=1 ;; esac

# Prometheus's own reader, after all these logins.
promtool check rules "$top/config/prometheus-alerts.yml" >"$work/promtool.log" 2>&1 || { cat "$work/promtool.log"; status=1; }
fetch='import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())'
if python3 -c "$fetch" "http://127.0.0.1:$admin/metrics" | promtool check metrics; then
    echo "ok: promtool"
else
    echo "WRONG: promtool"
    status=1
fi
stop

# Every connection string that docs/connecting.md recommends.
query "create role app login password 'pw'" >/dev/null
query 'create database shop owner app' >/dev/null
sed -i '1i host all app 127.0.0.1/32 scram-sha-256' "$work/data/pg_hba.conf"
query 'select pg_reload_conf()' >/dev/null
"$here/connect/run.sh" "$top/target/release/pgferry" "$port" "$work" "$venv/bin/python" || status=1
exit "$status"
