"""psycopg at pgferry's console: what a script does that used to speak with PgBouncer."""

import sys

import psycopg

host, port = sys.argv[1:3]
with psycopg.connect(f"host={host} port={port} user=admin dbname=pgbouncer", autocommit=True) as console:
    pools = console.execute("SHOW POOLS")
    names = [column.name for column in pools.description]
    rows = [dict(zip(names, row)) for row in pools]
    assert any(row["database"] == "shop" and isinstance(row["sv_idle"], int) for row in rows), rows
    totals = console.execute("SHOW STATS_TOTALS").fetchall()
    assert any(row[0] == "shop" and row[3] > 0 for row in totals), totals
    assert console.execute("PAUSE shop").statusmessage == "PAUSE"
    assert console.execute("RESUME shop").statusmessage == "RESUME"
    assert console.execute("SET pool_size = 5").statusmessage == "SET pool_size=5"
    try:
        console.execute("SHOW NOTHING")
    except psycopg.errors.SyntaxError as error:
        assert "NOTHING" in str(error)
    else:
        raise AssertionError("there is no such table")
    assert console.execute("SHOW VERSION").fetchone()[0].startswith("pgferry ")
