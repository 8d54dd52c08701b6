#!/bin/sh
# Builds what is measured, installs what it is measured with, and measures. Arguments go to bench.py.
set -eu
cd "$(dirname "$0")/../.."

tests/setup.sh postgresql pgbouncer
case " $* " in *" --count "*) tests/setup.sh strace valgrind ;; esac
case " $* " in
*" --smoke "*)
    cargo build --locked --quiet --bin pgferry
    set -- --pgferry target/debug/pgferry "$@"
    ;;
*)
    # What is measured is what is released, where nothing else is named.
    case " $* " in
    *" --pgferry "*) ;;
    *) make --no-print-directory --silent release >/dev/null ;;
    esac
    ;;
esac
ulimit -n 20000 2>/dev/null || true
exec /usr/bin/python3 -B tests/bench/bench.py "$@"
