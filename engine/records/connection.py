"""A connection to the database for asyncio: opening, transactions, rows."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiosqlite

from engine.records.database import (
    Row,
    as_row,
    connect,
    pragmas,
    readable_errors,
    text_of,
)


class Connection:
    """One connection, which is one thread and one queue: statements run in the order given."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._db = connection
        self._in_transaction = asyncio.Lock()  # a connection has one at a time

    @classmethod
    async def open(cls, path: Path, busy_seconds: float | None = None, check: bool = True) -> Self:
        """Open, check and bring the schema forward. Raises UserError, naming the file.

        `busy_seconds` is how long a statement waits for another's lock; None: BUSY_SECONDS.
        `check` reads every page for damage, which takes seconds for a large database.
        """
        with readable_errors(path):
            with connect(path, check=check, busy_seconds=busy_seconds):
                pass  # migrated and checked with the plain driver
            connection = await aiosqlite.connect(path, isolation_level=None)
            try:
                for pragma in pragmas(busy_seconds):
                    await connection.execute(pragma)
            except BaseException:
                await connection.close()  # an open one would hang the interpreter's exit
                raise
        connection.row_factory = sqlite3.Row
        connection.text_factory = text_of
        return cls(connection)

    async def close(self) -> None:
        """Always needed: the connection's thread keeps the interpreter alive."""
        await self._db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Everything inside or nothing; takes the write lock at once, so it never deadlocks."""
        async with self._in_transaction:
            await self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                await self._db.execute("COMMIT")  # may fail too, on a full disk
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite has done it already
                    await self._db.execute("ROLLBACK")
                raise

    async def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Row]:
        """What a query finds, in its order."""
        async with self._db.execute(query, values) as cursor:
            return [as_row(row) for row in await cursor.fetchall()]
