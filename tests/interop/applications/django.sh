#!/bin/sh
# Django's `manage.py test`, which makes databases, copies them for its processes and drops them again: HOST PORT.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PGHOST="$1" PGPORT="$2" PYTHONDONTWRITEBYTECODE=1
for parallel in "" "--parallel 2"; do
    # shellcheck disable=SC2086 # a list of words
    "$venv/bin/python" "$here/django_project/manage.py" test --noinput $parallel shop
    left=$("$bin/psql" -X -At -h 127.0.0.1 -p "$port" -U postgres -d postgres -c \
        "select string_agg(datname, ', ') from pg_database where datname like 'test_%'")
    [ -z "$left" ] || { echo "left behind: $left"; exit 1; }
done
# By hand: migrations into a database that is there, twice.
"$venv/bin/python" "$here/django_project/manage.py" migrate --run-syncdb --verbosity 0
"$venv/bin/python" "$here/django_project/manage.py" flush --noinput --verbosity 0
echo "manage.py test, with and without --parallel 2"
