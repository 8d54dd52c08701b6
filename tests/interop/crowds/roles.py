"""A thousand roles that all come at once: SOCKET-DIRECTORY PORT."""
import asyncio
import sys

import asyncpg
from server import Server

ROLES = 1000


async def one(number):
    role = f"role_{number}"
    conn = await asyncpg.connect(host=sys.argv[1], port=5432, user=role, database="postgres", ssl=False, timeout=300)
    said = await conn.fetchval("select current_user::text", timeout=300)
    await conn.close()
    return said == role


async def main():
    return await asyncio.gather(*(one(number) for number in range(ROLES)), return_exceptions=True)


Server(sys.argv[2]).run(
    f"""do $$ begin for n in 0..{ROLES - 1} loop
        if to_regrole('role_' || n) is null then execute 'create role role_' || n || ' login'; end if;
    end loop; end $$"""
)
outcomes = asyncio.run(main())
served = sum(outcome is True for outcome in outcomes)
for wrong in {str(outcome) for outcome in outcomes if outcome is not True}:
    print(wrong)
print(f"{served} of {ROLES} served")
sys.exit(served != ROLES)
