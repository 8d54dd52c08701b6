#!/bin/sh
# Installs what the tests need on Debian and Ubuntu, where it is missing and we may; else says what to install.
# Further package names may be given as arguments. With --build: what `cargo build` needs, and nothing else.
set -eu

command -v cargo >/dev/null 2>&1 || {
    echo "pgferry: cargo is missing. Please install Rust 1.88 or later: https://rustup.rs" >&2
    exit 1
}
missing=""
# A linker, and a compiler for the C that is in AWS-LC.
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
# What cargo believes registries by.
[ -e "${CARGO_HTTP_CAINFO:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}" ] || missing="$missing ca-certificates"
if [ "${1:-}" = --build ]; then
    shift
else
    have_server() { ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; }
    if [ -z "${PGFERRY_TEST_PG_BIN:-}" ] && ! have_server; then missing="$missing postgresql"; fi
    command -v psql >/dev/null 2>&1 || missing="$missing postgresql-client"
    /usr/bin/python3 -c 'import psycopg' 2>/dev/null || missing="$missing python3-psycopg"
    command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
    command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
    command -v curl >/dev/null 2>&1 || missing="$missing curl"
    command -v setpriv >/dev/null 2>&1 || missing="$missing util-linux"
    # Languages of Debian's PostgreSQL, in which code may leave something in a session; servers from elsewhere do without.
    if [ -z "${PGFERRY_TEST_PG_BIN:-}" ]; then
        major="$(ls /usr/lib/postgresql 2>/dev/null | sort -n | tail -1)"
        for language in plperl pltcl plpython3; do
            package="postgresql-$language${major:+-$major}"
            if [ ! -e "/usr/lib/postgresql/$major/lib/$language.so" ] && apt-cache show "$package" >/dev/null 2>&1; then
                missing="$missing $package"
            fi
        done
    fi
fi
for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then as_root=""
elif sudo -n true 2>/dev/null; then as_root="sudo"
else
    echo "pgferry: these packages are missing, and neither root nor sudo is at hand. Please have root run:" >&2
    echo "    apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
command -v apt-get >/dev/null 2>&1 || { echo "pgferry: please install:$missing" >&2; exit 1; }
echo "pgferry: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
