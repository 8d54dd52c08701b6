#!/usr/bin/env bash
# The units of config/ under a systemd that is process 1: in a container of Debian 12, whose systemd is the oldest that they are for.
# The commands of docs/install.md install them there. Needs root, and installs podman, runc and debootstrap where they are missing.
#
#   PGFERRY=target/debug/pgferry   another program than target/release/pgferry
#   SUITE=trixie                   another Debian
#   SYSTEMD_ROOT=DIR               where the container's system is kept between runs
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=${SUITE:-bookworm}
[ "$(id -u)" = 0 ] || { echo "make systemd: containers with a systemd of their own take root" >&2; exit 1; }
tests/setup.sh podman runc conmon debootstrap
if [ -z "${PGFERRY:-}" ]; then
    cargo build --release --locked --quiet
    PGFERRY=target/release/pgferry
fi

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

base=${SYSTEMD_ROOT:-/var/tmp/pgferry-test-systemd-$suite}
if [ ! -e "$base/complete" ]; then
    step "Making a Debian ($suite) with systemd and PostgreSQL"
    rm -rf "$base"
    debootstrap --variant=minbase "$suite" "$base/root" >"$base.log" 2>&1 || fail "debootstrap: see $base.log"
    cp /etc/resolv.conf "$base/root/etc/"
    # Nothing is started in there yet.
    printf '#!/bin/sh\nexit 101\n' >"$base/root/usr/sbin/policy-rc.d"
    chmod +x "$base/root/usr/sbin/policy-rc.d"
    DEBIAN_FRONTEND=noninteractive chroot "$base/root" sh -c 'apt-get update -qq &&
        apt-get install -y -qq --no-install-recommends systemd systemd-sysv postgresql && apt-get clean' >>"$base.log" 2>&1 ||
        fail "apt-get: see $base.log"
    rm "$base/root/usr/sbin/policy-rc.d"
    touch "$base/complete"
fi

work=$(mktemp -d /var/tmp/pgferry-systemd.XXXXXX)
name=pgferry-systemd-$$
podman() { command podman --root "$work/storage" --runroot "$work/run" --storage-driver=vfs --runtime=runc --cgroup-manager=cgroupfs "$@"; }
cleanup() {
    status=$?
    trap - EXIT
    podman rm --force --time 2 "$name" >/dev/null 2>&1 || true
    rm -rf "$work" || true
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Nothing writes into what is in usr/: links save most of the time.
mkdir "$work/root"
find "$base/root" -mindepth 1 -maxdepth 1 ! -name usr -exec cp -a -t "$work/root" {} +
cp -al "$base/root/usr" "$work/root/usr"
mkdir -p "$work/root/src/target/release"
cp -a config "$work/root/src/"
cp "$PGFERRY" "$work/root/src/target/release/pgferry"

step "Starting $(chroot "$work/root" systemctl --version | head -n 1) as process 1"
# podman's own limits are higher than ours, which not every root may do.
limits=(--ulimit "nofile=$(ulimit -Hn):$(ulimit -Hn)" --ulimit nproc=4096:4096)
podman run --detach --name "$name" --network none --systemd=always --log-driver=none "${limits[@]}" --rootfs "$work/root" /sbin/init >/dev/null
status() { inside systemctl status --no-pager --full pgferry.service pgferry.socket || true; inside journalctl --no-pager --lines 30 --unit pgferry.service || true; }
inside() { podman exec --workdir /src "$name" "$@"; }
for _ in $(seq 100); do
    state=$(inside systemctl is-system-running 2>/dev/null || true)
    case $state in running | degraded) break ;; esac
    sleep 0.2
done
case $state in running | degraded) ;; *) fail "systemd did not come up: $state" ;; esac

inside sh -euc '
    version=$(ls /etc/postgresql)
    systemctl start postgresql@$version-main
    setpriv --reuid postgres --regid postgres --clear-groups psql -qc "create role app login password \$\$pw\$\$" -c "create database shop owner app"
'

step "Installing as docs/install.md says"
commands=$(sed -n '/^## As a service/,/^## /p' docs/install.md | sed -n '/^```console/,/^```/s/^# //p' | sed 's/  #.*//')
[ "$(printf '%s\n' "$commands" | wc -l)" -ge 5 ] || fail "docs/install.md has no commands under \"As a service\""
edit="sed -i 's|^upstream = .*|upstream = \"postgres://127.0.0.1:5432\"|'"
commands=${commands/editor /$edit }
printf '%s\n' "$commands" | sed 's/^/  # /'
inside sh -euc "$commands" || { status; fail "the commands of docs/install.md"; }

as_nobody() { inside env PGPASSWORD=pw setpriv --reuid nobody --regid nogroup --clear-groups "$@"; }
main_pid() { inside systemctl show --property MainPID --value pgferry.service; }
query() { as_nobody psql -X "host=/run/pgferry dbname=shop user=app" -Atc "$1"; }
answers() { [ "$(query 'select 6 * 7')" = 42 ] || { status; fail "$1"; }; }

step "Another user reaches the socket; the process is pgferry's"
answers "a user other than pgferry does not reach the socket"
[ "$(inside stat -c %U "/proc/$(main_pid)")" = pgferry ] || fail "it runs as another user"
[ "$(inside stat -c '%U %a' /run/pgferry)" = "pgferry 755" ] || fail "/run/pgferry: $(inside stat -c '%U %a' /run/pgferry)"

step "systemctl reload"
before=$(main_pid)
inside sed -i 's/^pool_size = .*/pool_size = 7/' /etc/pgferry/pgferry.toml
inside systemctl reload pgferry.service || { status; fail "systemctl reload"; }
for _ in $(seq 50); do
    shown=$(inside pgferry show config | awk '$1 == "pool_size" { print $3 }')
    [ "$shown" = 7 ] && break
    sleep 0.1
done
[ "$shown" = 7 ] || fail "pool_size is $shown after a reload"
[ "$(main_pid)" = "$before" ] || fail "a reload restarted it"
[ "$(inside systemctl is-active pgferry.service)" = active ] || fail "it is not active after a reload"

step "Ten restarts under pgbench -C -c 8"
# A client that has its answer may be told 57P01 before it has read it, where its thread waits for another client's connection.
inside sh -euc '
    echo "select 1" >/tmp/select-1.sql
    for nth in 1 2 3 4 5 6 7 8 9 10; do
        before=$(systemctl show --property MainPID --value pgferry.service)
        PGPASSWORD=pw setpriv --reuid nobody --regid nogroup --clear-groups \
            pgbench -n -C -M simple -c 8 -j 2 -T 5 -f /tmp/select-1.sql -h /run/pgferry -U app shop >/tmp/pgbench 2>&1 &
        load=$!
        sleep 1
        systemctl restart pgferry.service
        wait $load || { cat /tmp/pgbench; exit 1; }
        if grep -iE "abort|error:" /tmp/pgbench; then exit 1; fi
        [ "$(systemctl show --property MainPID --value pgferry.service)" != "$before" ] || { echo "nothing was started"; exit 1; }
        sed -n "s/^number of transactions actually processed: /  $nth: short connections: /p" /tmp/pgbench
    done
' || { status; fail "a restart"; }

step "A stopped service is started by the next client"
inside systemctl stop pgferry.service
answers "the socket does not start the service"

step "Without pgferry.socket the service opens its own"
inside systemctl disable --quiet --now pgferry.service pgferry.socket
inside systemctl start pgferry.service || { status; fail "it does not start without the socket unit"; }
answers "a user other than pgferry does not reach its own socket"
inside systemctl restart pgferry.service
answers "it does not come back"

step "systemd-analyze security"
score=$(inside systemd-analyze security --no-pager pgferry.service | sed -n 's/.*Overall exposure level for pgferry.service: \([0-9.]*\).*/\1/p')
echo "  $score"
awk -v score="$score" 'BEGIN { exit !(score != "" && score <= 2.0) }' || fail "the exposure level is $score, more than 2.0"

step "All is well"
