"""Events into the database: the log, the metric rows and the state of the run."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from pathlib import Path

from engine.records.database import now
from engine.records.liveness import HEARTBEAT_SECONDS
from engine.records.store import Store
from engine.stream.events import (
    EpochMetrics,
    Stamped,
    TrainingComplete,
    TrainingFailed,
    TrainingProgress,
    TrainingStarted,
    TrainingStopped,
)


class DatabaseSink:
    """Each event with what follows from it in one transaction: log and tables never disagree.

    What cannot be written (a full disk, say) waits and is written with a later event or at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: deque[Stamped] = deque()
        self._store: Store | None = None
        self._heart: asyncio.Task[None] | None = None

    async def open(self, run_id: int) -> None:
        """Connect, and begin the heartbeat."""
        try:
            self._store = await Store.open(self._path)
        finally:  # a database that opens only later has a heartbeat from then on
            self._heart = asyncio.create_task(self._beat(run_id))

    async def handle(self, stamped: Stamped) -> None:
        """Write what waited and this event. Raises sqlite3.Error; what is lasting then waits."""
        if self._unwritten and isinstance(stamped.event, TrainingProgress):
            return  # in trouble: not worth a try of its own
        self._unwritten.append(stamped)
        await self._flush()

    async def close(self) -> None:
        """A last try for what waited; then the connection is closed on every path."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait({self._heart})
        try:
            await self._flush()
        finally:
            if self._store is not None:
                await self._store.close()

    async def _flush(self) -> None:
        if self._store is None and self._unwritten:
            self._store = await Store.open(self._path)
        while self._store is not None and self._unwritten:
            stamped = self._unwritten[0]
            try:
                async with self._store.transaction():
                    await self._write(self._store, stamped)
            except sqlite3.Error:
                if isinstance(stamped.event, TrainingProgress):
                    self._unwritten.popleft()
                raise
            self._unwritten.popleft()

    async def _write(self, store: Store, stamped: Stamped) -> None:
        event, run_id, at = stamped.event, stamped.run_id, stamped.at
        payload = event.payload()
        await store.add_event(run_id, at, event.name, payload)
        if isinstance(event, EpochMetrics):
            await store.put_metrics(run_id, payload)
        elif isinstance(event, TrainingStarted):
            await store.update_run(
                run_id, status="in_progress", started_at=at, completed_at=None, error=None
            )
        elif isinstance(event, TrainingComplete):
            await store.update_run(
                run_id,
                status="stopped" if isinstance(event, TrainingStopped) else "completed",
                completed_at=at,
                total_epochs_run=event.total_epochs_run,
                training_time=event.training_time,
                early_stopped=event.early_stopped,
                best_epoch=event.best_epoch,
                best_model_path=event.best_model_path,
            )
        elif isinstance(event, TrainingFailed):
            await store.update_run(run_id, status="failed", completed_at=at, error=event.error)

    async def _beat(self, run_id: int) -> None:
        while True:
            if self._store is not None:
                with contextlib.suppress(sqlite3.Error):
                    await self._store.update_run(run_id, heartbeat_at=now())
            await asyncio.sleep(HEARTBEAT_SECONDS)
