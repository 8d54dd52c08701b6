"""psycopg (with a libpq of its own) and asyncpg log in by every method, over TLS and the unix socket."""
import asyncio
import ssl
import sys

import asyncpg
import psycopg

SOCKET, PORT, CERTS, SECRET = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
ROOT = f"{CERTS}/root.crt"
CLIENT = {"sslcert": f"{CERTS}/client.crt", "sslkey": f"{CERTS}/client.key"}
TLS = {"host": "localhost", "hostaddr": "127.0.0.1", "port": PORT, "sslmode": "verify-full", "sslrootcert": ROOT}
UNIX = {"host": SOCKET, "port": PORT}
failures = 0


def check(what, good, log_in):
    global failures
    try:
        outcome = log_in()
    except Exception as error:  # whatever a driver calls a refusal
        outcome = error
    ok = (outcome == what.split()[0]) == good
    failures += not ok
    print("ok:" if ok else "WRONG:", what, "refused" if not good else "", "" if ok else outcome)


def with_psycopg(user, secret=SECRET, **parameters):
    with psycopg.connect(user=user, password=secret, dbname="postgres", **parameters) as conn:
        return conn.execute("select current_user").fetchone()[0]


def with_asyncpg(user, secret=SECRET, tls=True, certificate=False):
    async def run():
        context = None
        if tls:
            context = ssl.create_default_context(cafile=ROOT)
            if certificate:
                context.load_cert_chain(CLIENT["sslcert"], CLIENT["sslkey"])
        host = "localhost" if tls else SOCKET
        conn = await asyncpg.connect(host=host, port=PORT, user=user, password=secret, database="postgres", ssl=context)
        try:
            return await conn.fetchval("select current_user::text")
        finally:
            await conn.close()

    return asyncio.run(run())


for user, method in [
    ("scram_user", "scram-sha-256"),
    ("md5_user", "md5"),
    ("plain_user", "password"),
    ("pass_user", "password"),
]:
    for where, ways in [("TLS", TLS), ("unix socket", UNIX)]:
        check(f"{user} psycopg {where}", True, lambda: with_psycopg(user, require_auth=method, **ways))
        check(f"{user} psycopg {where}", False, lambda: with_psycopg(user, "wrong", **ways))
        check(f"{user} psycopg {where}, require_auth=none", False, lambda: with_psycopg(user, require_auth="none", **ways))
        check(f"{user} asyncpg {where}", True, lambda: with_asyncpg(user, tls=where == "TLS"))
        check(f"{user} asyncpg {where}", False, lambda: with_asyncpg(user, "wrong", tls=where == "TLS"))
    check(f"{user} psycopg direct TLS", True, lambda: with_psycopg(user, sslnegotiation="direct", **TLS))
bound = {"channel_binding": "require"}
check("scram_user psycopg bound", True, lambda: with_psycopg("scram_user", **bound, **TLS))
check("scram_user psycopg bound, unix socket", False, lambda: with_psycopg("scram_user", **bound, **UNIX))
check("pass_user psycopg bound", False, lambda: with_psycopg("pass_user", **bound, **TLS))
check("cert_user psycopg", True, lambda: with_psycopg("cert_user", **CLIENT, **TLS))
check("cert_user psycopg, no certificate", False, lambda: with_psycopg("cert_user", **TLS))
check("cert_user psycopg, unix socket", False, lambda: with_psycopg("cert_user", **UNIX))
check("cert_user asyncpg", True, lambda: with_asyncpg("cert_user", certificate=True))
check("cert_user asyncpg, no certificate", False, lambda: with_asyncpg("cert_user"))
check("local_user psycopg peer", True, lambda: with_psycopg("local_user", **UNIX))
check("local_user psycopg peer over TLS", False, lambda: with_psycopg("local_user", **TLS))
check("nobody psycopg", False, lambda: with_psycopg("nobody", **UNIX))
print(f"libpq {psycopg.pq.version()}")
sys.exit(failures > 0)
