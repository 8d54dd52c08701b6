"""SQLAlchemy with its own pool, on psycopg and on asyncpg."""
import asyncio
import sys

from sqlalchemy import ForeignKey, String, create_engine, event, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from clients import run_at_once

HOST, PORT = sys.argv[1], sys.argv[2]
URL = f"postgresql+psycopg://postgres@/postgres?host={HOST}&port={PORT}"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "sa_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("sa_author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


engine = create_engine(URL, pool_size=3, max_overflow=3)


@event.listens_for(engine, "connect")
def on_connect(connection, _record):
    with connection.cursor() as cursor:
        cursor.execute("set search_path = sa_schema, public")
    connection.commit()


def worker(number, said):
    for turn in range(20):
        with Session(engine) as session:
            author = Author(name=f"author {number}/{turn}")
            author.books = [Book(title=f"book {n}") for n in range(3)]
            session.add(author)
            session.commit()
            found = session.scalars(select(Author).where(Author.name == f"author {number}/{turn}")).one()
            said.append((found.name, sorted(book.title for book in found.books)))
            with session.begin_nested():
                found.books[0].title = "renamed"
            session.rollback()
            said.append(sorted(book.title for book in session.get(Author, found.id).books))
            said.append(session.execute(text("show search_path")).scalar())


with engine.begin() as conn:
    conn.execute(text("drop schema if exists sa_schema cascade"))
    conn.execute(text("create schema sa_schema"))
Base.metadata.create_all(engine)
run_at_once(5, worker)
engine.dispose()


async def main():
    engine = create_async_engine(f"postgresql+asyncpg://postgres@/postgres?host={HOST}&port={PORT}", pool_size=3)

    async def one(number):
        said = []
        for turn in range(20):
            async with engine.begin() as conn:
                said.append((await conn.execute(text("select cast(:a as int) + :b"), {"a": turn, "b": number})).scalar())
        return said

    for said in await asyncio.gather(*(one(number) for number in range(6))):
        print(said)
    await engine.dispose()


asyncio.run(main())
