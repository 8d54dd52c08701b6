#!/bin/sh
# php-fpm, whose 40 workers keep two connections each (PDO::ATTR_PERSISTENT, pg_pconnect), under load: HOST PORT.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d "$work/php_fpm.XXXXXX")
chmod 755 "$dir"
trap 'kill "$fpm" 2>/dev/null || true; wait' EXIT
cp "$here/page.php" "$dir"
cat >"$dir/fpm.conf" <<FPM
[global]
error_log = $dir/fpm.log
daemonize = no
[shop]
user = www-data
group = www-data
listen = $dir/fpm.sock
listen.mode = 0666
listen.backlog = 1024
pm = static
pm.max_children = 40
catch_workers_output = yes
env[PGHOST] = $1
env[PGPORT] = $2
FPM
"$(ls /usr/sbin/php-fpm* | tail -n 1)" --fpm-config "$dir/fpm.conf" >"$dir/out" 2>&1 &
fpm=$!
until [ -S "$dir/fpm.sock" ]; do kill -0 "$fpm"; sleep 0.1; done

# The number of pages, and what else to hand to each.
request() {
    seq "$1" | REQUEST_METHOD=GET SCRIPT_FILENAME="$dir/page.php" QUERY_STRING="$2" \
        xargs -P 40 -I '{}' cgi-fcgi -bind -connect "$dir/fpm.sock" >"$dir/pages"
    served=$(grep -c '^served by ' "$dir/pages" || true)
    [ "$served" = "$1" ] || { echo "$served pages of $1"; grep -v '^served by ' "$dir/pages" | sort | uniq -c | sort -rn | head; exit 1; }
}
request 40 hold=1
workers=$(sort -u "$dir/pages" | grep -c '^served by ')
request 2000 hold=0
echo "2,040 pages, the first 40 at once by $workers workers"
