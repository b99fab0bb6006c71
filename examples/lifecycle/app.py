"""The app: shelves of a library. Each has a database open while it works, and closes it when it is idle."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from msgspec import Struct

from swell import Agent, App, GiveUp, handler

app = App("library")

#: One file for each shelf; a shelf that ends takes its own along.
DIRECTORY = Path(tempfile.gettempdir()) / "swell-library"


class Book(Struct):
    """What is put on a shelf."""

    title: str
    pages: int


@app.agent("shelf", idle_after=0.5, concurrency=4, quarantine_after=3)
class Shelf(Agent):
    """Keeps books; at most four shelves of the whole fleet write at one moment."""

    async def started(self) -> None:
        """Open the database: at birth, after a move, and whenever it was let go and is wanted again."""
        DIRECTORY.mkdir(exist_ok=True)
        self.books = sqlite3.connect(DIRECTORY / f"{self.key}.db")
        self.books.execute("create table if not exists book (title text primary key, pages integer)")

    async def passivated(self) -> None:
        """Nobody has wanted it for half a second: let the file go."""
        self.books.close()

    async def stopped(self) -> None:
        """It is ended: nothing of it stays."""
        self.books.close()
        (DIRECTORY / f"{self.key}.db").unlink(missing_ok=True)

    @handler
    async def put(self, body: Book) -> None:
        """Put a book there; the same one again changes nothing, so it may be handled twice."""
        if body.pages < 1:
            raise GiveUp(f"{body.title!r} has {body.pages} pages")
        with self.books:
            self.books.execute("insert or replace into book values (?, ?)", (body.title, body.pages))

    @handler
    async def count(self) -> int:
        """How many books are there."""
        row: tuple[int] = self.books.execute("select count(*) from book").fetchone()
        return row[0]
