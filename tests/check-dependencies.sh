#!/bin/sh
# No git dependencies, no duplicates among what the binary is made of; with cargo-deny, all of deny.toml.
set -eu

if grep -q '^source = "git' Cargo.lock; then
    echo "Cargo.lock has git dependencies" >&2
    exit 1
fi
# Procedural macros run at build time only: two generations of syn are not in the binary.
duplicates=$(cargo tree --locked --duplicates --edges normal,no-proc-macro --depth 0 --prefix none 2>/dev/null | grep -v '^$' || true)
if [ -n "$duplicates" ]; then
    echo "the binary would have two versions of:" >&2
    echo "$duplicates" >&2
    exit 1
fi
if command -v cargo-deny >/dev/null 2>&1; then
    cargo deny --locked check bans licenses sources
fi
