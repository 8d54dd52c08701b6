#!/bin/sh
# Builds the program as it is released: the compiler lays it out by what it does when it works (profile-guided
# optimisation). A build that counts does the bench's training work once (TRAINING in tests/bench/cases.py),
# which is not what is measured, and what it has counted guides the second build.
#
#   docker/release.sh [where the program goes: target/pgo/pgferry]
set -eu
cd "$(dirname "$0")/.."
program=${1:-target/pgo/pgferry}

tests/setup.sh postgresql
# What the compiler's own version of LLVM has written, only its own tools are certain to read.
profdata="$(rustc --print target-libdir)/../bin/llvm-profdata"
[ -x "$profdata" ] || rustup component add llvm-tools >/dev/null 2>&1 || true
if [ ! -x "$profdata" ]; then
    echo "pgferry: the compiler's llvm-profdata is missing. Please run:" >&2
    echo "    rustup component add llvm-tools" >&2
    exit 1
fi

counts=$(mktemp -d)
trap 'rm -rf "$counts"' EXIT
# The program does not run as root there.
chmod 1777 "$counts"
host=$(rustc -vV | sed -n 's/^host: //p')
build() {
    # With a target given, the flags are not for what only runs while building.
    RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --release --locked --bin pgferry --target "$host" --target-dir "$2"
    built="$2/$host/release/pgferry"
}

build "-Cprofile-generate=$counts" target/pgo/counting
ulimit -n 20000 2>/dev/null || true
/usr/bin/python3 -B tests/bench/bench.py --pgferry "$built" --peers pgferry --train >/dev/null
"$profdata" merge -o target/pgo/profile "$counts"
# cargo does not see that the profile is another one.
rm -rf target/pgo/guided
build "-Cprofile-use=$PWD/target/pgo/profile" target/pgo/guided
mkdir -p "$(dirname "$program")"
cp "$built" "$program"
echo "$program"
