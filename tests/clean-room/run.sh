#!/usr/bin/env bash
# What a stranger meets: `make test` and `make demo` in a fresh clone, on a Debian 12 that has nothing but make, git and a Rust toolchain.
# The system is made by debootstrap, the toolchain is bound in, and so are what cargo and apt are told of registries here. Both commands
# run as root and as an ordinary user. Needs root, and installs debootstrap where it is missing.
#
#   CLEAN_ROOM=DIR    where the system is made: /var/tmp/pgferry-clean-room; it is removed unless KEEP=1
#   REUSE=1           go on in the clones of a run with KEEP=1, at this revision
#   STEPS="…"         of: root-test root-demo user-test user-demo
#   TESTS="…"         in place of `make test`: `tests/setup.sh && cargo test --locked -- TESTS`
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$(id -u)" = 0 ] || { echo "make clean-room: a system of its own takes root" >&2; exit 1; }
tests/setup.sh --build debootstrap git
room=${CLEAN_ROOM:-/var/tmp/pgferry-clean-room}
root=$room/root
toolchain=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}

step() { printf '\n== %s\n' "$*"; }

bind() {
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    [ "${3:-}" != ro ] || mount -o remount,bind,ro "$root$2"
}
cleanup() {
    status=$?
    trap - EXIT
    # What was started in there, such as the server that Debian's package starts.
    for process in /proc/[0-9]*; do
        if [ "$(readlink "$process/root")" = "$root" ]; then kill -KILL "${process#/proc/}" 2>/dev/null || true; fi
    done
    # What was mounted last goes first; the demo's network namespaces are mounts as well.
    awk -v root="$root" '$2 == root || index($2, root "/") == 1 { print $2 }' /proc/self/mounts | tac | while read -r at; do
        umount "$at" 2>/dev/null || umount --lazy "$at" || true
    done
    if [ -z "${KEEP:-}" ] && ! grep -q " $root" /proc/self/mounts; then rm -rf "$room"; fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step "Making a Debian 12"
if [ ! -e "$room/complete" ]; then
    rm -rf "$room"
    mkdir -p "$room"
    debootstrap --variant=minbase --include=make,git bookworm "$root" >"$room/log" 2>&1 || { tail "$room/log"; exit 1; }
    touch "$room/complete"
fi
cp /etc/resolv.conf /etc/hosts "$root/etc/"
# Registries as they are configured here.
if [ -d /usr/local/share/ca-certificates ]; then cp -r /usr/local/share/ca-certificates "$root/usr/local/share/"; fi
for file in /etc/apt/apt.conf.d/*proxy* /etc/apt/auth.conf; do
    if [ -e "$file" ]; then cp "$file" "$root$file"; fi
done
# A root directory that is a mount point, as every system's is: mount namespaces need that.
bind "$root" /
mkdir -p "$root/.outside"
bind /proc /proc
bind /sys /sys ro
bind /dev /dev
if [ -d /dev/pts ]; then bind /dev/pts /dev/pts; fi
mkdir -p "$root/dev/shm"
bind "$toolchain" /opt/rust ro

chroot "$root" useradd --create-home stranger 2>/dev/null || true
git_dir=$(git rev-parse --path-format=absolute --git-common-dir)
revision=$(git rev-parse HEAD)
[ -z "$(git status --porcelain)" ] || echo "  what is not committed is left out"
bind "$git_dir" /opt/origin ro
for home in /root /home/stranger; do
    mkdir -p "$root$home/.cargo"
    for file in config.toml config credentials.toml; do
        if [ -e "$cargo_home/$file" ]; then cp "$cargo_home/$file" "$root$home/.cargo/"; fi
    done
    [ -n "${REUSE:-}" ] || rm -rf "$root$home/pgferry"
done
chroot "$root" chown -R stranger: /home/stranger

# within USER COMMAND: as a login of that user would run it, in the clone.
within() {
    local user=$1 home=/home/$1
    [ "$user" = root ] && home=/root
    local variables=(HOME="$home" USER="$user" LOGNAME="$user" TERM=dumb LANG=C.UTF-8
        PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        CARGO_HOME="$home/.cargo")
    while IFS= read -r variable; do variables+=("$variable"); done < <(env | grep -E '^(CARGO_(REGISTRIES|REGISTRY|SOURCE|NET)_|https?_proxy=|no_proxy=)' || true)
    # Not chroot: the kernel lets nobody make a user namespace there.
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --propagation private sh -euc 'cd "$0"; pivot_root . .outside; umount -l /.outside; exec "$@"' "$root" \
        setpriv --reuid "$user" --regid "$user" --init-groups env -i "${variables[@]}" sh -c "cd $home && $2"
}

# run NAME USER COMMAND: its last lines and its status, all of it in a file.
failed=0
run() {
    local name=$1 user=$2 log=$room/$1.log status=0
    step "$name: $3"
    within "$user" "cd pgferry && $3" </dev/null >"$log" 2>&1 || status=$?
    grep -E '^test result: |^running [1-9]' "$log" || true
    tail -n 25 "$log" | grep -vE '^test .* ok$' || true
    echo "-- $name: exit status $status, all of it in $log"
    if [ "$status" != 0 ]; then failed=1; KEEP=1; fi
}

steps=${STEPS:-root-test root-demo user-test user-demo}
test_command="make test"
[ -z "${TESTS:-}" ] || test_command="tests/setup.sh && cargo test --locked -- $TESTS"
for name in $steps; do
    user=${name%-*}
    [ "$user" = user ] && user=stranger
    within "$user" "[ -d pgferry ] || { git config --global --add safe.directory '*' && git clone --quiet /opt/origin pgferry; }; cd pgferry && git fetch --quiet origin && git checkout --quiet $revision"
    case $name in
    *-test) run "$name" "$user" "$test_command" ;;
    *-demo) run "$name" "$user" "make demo" ;;
    esac
done
step "$([ "$failed" = 0 ] && echo "All is well" || echo "FAILED")"
exit "$failed"
