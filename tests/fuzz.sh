#!/bin/sh
# Runs every fuzz target for FUZZ_SECONDS (60) seconds each. New inputs worth keeping are to be copied from
# fuzz/corpus/ into the repository; `make test` replays what is there.
set -eu
cd "$(dirname "$0")/.."
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "please install cargo-fuzz: cargo install cargo-fuzz" >&2
    exit 1
fi
for target in $(cargo fuzz list); do
    cargo fuzz run "$target" --sanitizer none -- -max_total_time="${FUZZ_SECONDS:-60}"
done
