"""One connection by a driver of Python's: DRIVER FORM, where the form is a URL or the arguments of its connect function."""
import asyncio
import sys

SQL = "select current_user || ' ' || current_database()"


def main(driver, form):
    with_dbapi = {"psycopg": "psycopg", "psycopg2": "psycopg2", "pg8000": "pg8000.dbapi"}
    if driver in with_dbapi:
        module = __import__(with_dbapi[driver], fromlist=["connect"])
        return dbapi(call(module.connect, form))
    return {"asyncpg": asyncpg, "SQLAlchemy": sqlalchemy, "Django": django}[driver](form)


def call(connect, form):
    """Calls a function with arguments as a program has them, or with a URL or keywords as its only one."""
    is_text = "://" in form or not any(quote in form for quote in "\"'")
    return connect(form) if is_text else eval(f"connect({form})", {"connect": connect})


def dbapi(connection):
    cursor = connection.cursor()
    cursor.execute(SQL)
    said = cursor.fetchone()[0]
    connection.close()
    return said


def asyncpg(form):
    import asyncpg as driver

    async def run():
        connection = await call(driver.connect, form)
        said = await connection.fetchval(SQL)
        await connection.close()
        return said

    return asyncio.run(run())


def sqlalchemy(form):
    from sqlalchemy import create_engine, text
    from sqlalchemy.ext.asyncio import create_async_engine

    async def run():
        engine = create_async_engine(form)
        async with engine.connect() as connection:
            said = (await connection.execute(text(SQL))).scalar()
        await engine.dispose()
        return said

    if "+asyncpg" in form:
        return asyncio.run(run())
    with create_engine(form).connect() as connection:
        return connection.execute(text(SQL)).scalar()


def django(form):
    from django.conf import settings
    from django.db import connection

    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **eval(form)}})
    with connection.cursor() as cursor:
        cursor.execute(SQL)
        return cursor.fetchone()[0]


print(main(*sys.argv[1:]))
