"""Events into the database: the log, the metric rows and the state of the run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections import deque
from pathlib import Path

from config import UserError
from config.errors import first_line
from engine.process import say
from engine.records import spool
from engine.records.liveness import HEARTBEAT_SECONDS
from engine.records.store import Store
from engine.stream.events import TRANSIENT, Stamped
from engine.stream.queue import Unrecorded

TROUBLE = (sqlite3.Error, OSError, UserError)


class DatabaseSink:
    """Each event with what follows from it in one transaction: log and tables never disagree.

    What cannot be written (a full disk, a lock held by another process) waits and is written with
    a later event or heartbeat. At the end the sink keeps trying for `close_seconds`; what then is
    left goes to a file that the next start writes into the database.
    """

    def __init__(
        self,
        path: Path,
        results_dir: Path | None = None,  # for what cannot be written; None: beside the database
        run_uid: str | None = None,  # None: as the database has it
        *,
        busy_seconds: float = 5.0,  # that one statement waits for a lock
        retry_seconds: float = 5.0,  # between two attempts in trouble
        close_seconds: float = 120.0,
    ) -> None:
        self._path, self._results_dir = path, results_dir or path.parent
        self._busy_seconds, self._retry_seconds = busy_seconds, retry_seconds
        self.close_seconds = close_seconds
        self._unwritten: deque[Stamped] = deque()
        self._not_before = 0.0  # monotonic time of the next attempt; 0 out of trouble
        self._writing = asyncio.Lock()  # an event and the heartbeat may come together
        self._store: Store | None = None
        self._run_uid = run_uid
        self._heart: asyncio.Task[None] | None = None

    async def open(self, run_id: int) -> None:
        """Connect, and begin the heartbeat. Raises what `Store.open` raises."""
        self._run_id = run_id
        try:
            await self._connect()
        finally:  # a database that opens only later has a heartbeat from then on
            self._heart = asyncio.create_task(self._beat())

    async def handle(self, stamped: Stamped) -> None:
        """Write what waits and this event. Raises one of TROUBLE; what is lasting then waits."""
        transient = isinstance(stamped.event, TRANSIENT)
        in_trouble = self._not_before > 0
        if in_trouble and transient:
            return
        self._unwritten.append(stamped)
        if time.monotonic() >= self._not_before:
            await self._flush()

    async def close(self) -> None:
        """The last attempts for what waits; the connection is closed on every path.

        Raises Unrecorded where events were left over.
        """
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait({self._heart})
        try:
            await self._flush_patiently()
        finally:
            if self._store is not None:
                await self._store.close()

    async def _connect(self) -> Store:
        if self._store is None:
            self._store = await Store.open(self._path, self._busy_seconds)
        if self._run_uid is None:
            self._run_uid = await self._store.run_uid(self._run_id)
        return self._store

    async def _flush(self) -> None:
        async with self._writing:
            while self._unwritten:
                stamped = self._unwritten[0]
                payload = stamped.event.payload()
                try:
                    store = await self._connect()
                    await store.record(stamped.run_id, stamped.at, stamped.event.name, payload)
                except TROUBLE:
                    self._not_before = time.monotonic() + self._retry_seconds
                    if isinstance(stamped.event, TRANSIENT):
                        self._unwritten.popleft()
                    raise
                except Exception:  # the event's own fault: the ones after it must not wait for it
                    self._unwritten.popleft()
                    raise
                self._unwritten.popleft()
            self._not_before = 0.0

    async def _flush_patiently(self) -> None:
        deadline, waiting = time.monotonic() + self.close_seconds, False
        while True:
            try:
                return await self._flush()
            except TROUBLE as error:
                if not may_pass(error) or time.monotonic() >= deadline:
                    self._give_up(error)
                if not waiting:
                    waiting = True
                    say(
                        f"the end of run {self._run_id} cannot be recorded yet "
                        f"({first_line(error)}); trying for {self.close_seconds:g} s"
                    )
                await asyncio.sleep(min(0.5, self._retry_seconds))

    def _give_up(self, error: Exception) -> None:
        """Keep what is left in a file. Raises Unrecorded in any case."""
        left = [(s.at, s.event.name, s.event.payload()) for s in self._unwritten]
        what = (
            f"{len(left)} events of run {self._run_id} are not in {self._path} "
            f"({first_line(error)})"
        )
        try:
            path = spool.keep(self._results_dir, self._run_id, self._run_uid, left)
        except OSError as failed:
            raise Unrecorded(f"{what}, nor in a file ({failed}): they are lost") from error
        raise Unrecorded(
            f"{what}; they are kept in {path}, and the next start with this database records them"
        ) from error

    async def _beat(self) -> None:
        while True:
            if self._store is not None:
                with contextlib.suppress(*TROUBLE):
                    await self._store.beat(self._run_id, os.getpid())
            if self._unwritten and time.monotonic() >= self._not_before:
                with contextlib.suppress(Exception):  # reported when it began
                    await self._flush()
            await asyncio.sleep(HEARTBEAT_SECONDS)


def may_pass(error: BaseException) -> bool:
    """Whether waiting may help: with a lock or a full disk, but not with a damaged database."""
    cause = error.__cause__ if isinstance(error, UserError) else error
    return isinstance(cause, sqlite3.OperationalError | OSError)
