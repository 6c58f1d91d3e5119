"""Every query of the stream and of the server, on aiosqlite."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiosqlite

from engine.database import (
    BUSY_SECONDS,
    Row,
    as_row,
    connect,
    insert_run,
    now,
    pragmas,
    readable_errors,
    update_run,
)

PASSING = "training_progress"  # each replaces the run's previous one
ONCE_PER_EPOCH = ("training_metrics_update", "learning_rate_changed", "early_stopping_triggered")

METRIC_COLUMNS = (
    *("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_precision"),
    *("val_recall", "val_specificity", "val_f1", "val_auroc", "learning_rate", "epoch_seconds"),
)


class Store:
    """One connection, which is one thread and one queue: statements run in the order given."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._db = connection

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open, check and bring the schema forward. Raises UserError, naming the file."""
        with readable_errors(path):
            with connect(path, check=True):
                pass  # migrated and checked with the plain driver
            connection = await aiosqlite.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                for pragma in pragmas():
                    await connection.execute(pragma)
            except BaseException:
                await connection.close()  # an open one would hang the interpreter's exit
                raise
        connection.row_factory = sqlite3.Row
        return cls(connection)

    async def close(self) -> None:
        """Always needed: the connection's thread keeps the interpreter alive."""
        await self._db.close()

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Everything inside or nothing; takes the write lock at once, so it never deadlocks."""
        await self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            await self._db.execute("ROLLBACK")
            raise
        await self._db.execute("COMMIT")

    # runs

    async def create_run(self, **fields: Any) -> int:
        """A new run; its id."""
        statement, values = insert_run(fields)
        cursor = await self._db.execute(statement, values)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    async def update_run(self, run_id: int, **fields: Any) -> None:
        """Set columns of a run."""
        statement, values = update_run(run_id, fields)
        await self._db.execute(statement, values)

    async def claim_run(
        self, run_id: int, pid: int, pid_started_at: float, states: tuple[str, ...]
    ) -> bool:
        """Take a run for a worker, if it is in one of `states`; only one of many succeeds."""
        marks = ", ".join("?" * len(states))
        cursor = await self._db.execute(
            f"UPDATE run SET status = 'preparing', pid = ?, pid_started_at = ?, heartbeat_at = ?, "
            f"error = NULL, completed_at = NULL WHERE run_id = ? AND status IN ({marks})",
            (pid, pid_started_at, now(), run_id, *states),
        )
        return cursor.rowcount == 1

    async def get_run(self, run_id: int) -> Row | None:
        """One run, whole; None where there is none."""
        found = await self._rows("SELECT * FROM run WHERE run_id = ?", (run_id,))
        return found[0] if found else None

    async def list_runs(
        self, status: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[Row]:
        """The newest first, without config and manifest; `before` is the last run_id seen."""
        return await self._rows(
            "SELECT run_id, run_name, run_description, training_mode, status, created_at, "
            "started_at, completed_at, total_epochs_run, training_time, early_stopped, best_epoch, "
            "dataset_path, error, heartbeat_at FROM run "
            "WHERE (? IS NULL OR status = ?) AND (? IS NULL OR run_id < ?) "
            "ORDER BY run_id DESC LIMIT ?",
            (status, status, before, before, limit),
        )

    async def count_runs(self) -> dict[str, int]:
        """Runs by status."""
        rows = await self._rows("SELECT status, count(*) AS n FROM run GROUP BY status")
        return {row["status"]: row["n"] for row in rows}

    async def delete_run(self, run_id: int) -> None:
        """The run with its metrics and events."""
        await self._db.execute("DELETE FROM run WHERE run_id = ?", (run_id,))

    # events and metrics

    async def add_event(
        self, run_id: int, at: str, event: str, payload: Mapping[str, Any]
    ) -> int | None:
        """Append to the log; the event's id, or None for an epoch that the log has already.

        A progress event replaces the run's previous one under a new id; ids never repeat.
        """
        if event == PASSING:
            await self._db.execute(
                "DELETE FROM event WHERE run_id = ? AND event = 'training_progress'", (run_id,)
            )
        elif event in ONCE_PER_EPOCH and await self._told(run_id, event, payload["epoch"]):
            return None  # a resumed run tells its epochs again
        cursor = await self._db.execute(
            "INSERT INTO event (run_id, at, event, payload) VALUES (?, ?, ?, ?)",
            (run_id, at, event, json.dumps(payload, allow_nan=False)),
        )
        return cursor.lastrowid

    async def put_metrics(self, run_id: int, values: Mapping[str, Any]) -> None:
        """The row of one epoch; a repeated epoch replaces its row."""
        names = ", ".join(METRIC_COLUMNS)
        marks = ", ".join("?" * (1 + len(METRIC_COLUMNS)))
        await self._db.execute(
            f"INSERT OR REPLACE INTO run_metrics (run_id, {names}) VALUES ({marks})",
            (run_id, *(values[name] for name in METRIC_COLUMNS)),
        )

    async def metrics(self, run_id: int) -> list[Row]:
        """Every epoch's row, in order."""
        return await self._rows(
            "SELECT * FROM run_metrics WHERE run_id = ? ORDER BY epoch", (run_id,)
        )

    async def events_after(
        self, after: int = 0, run_id: int | None = None, limit: int = 1000
    ) -> list[Row]:
        """Events with a higher id than `after`, of one run or of all, in order."""
        chosen = "" if run_id is None else "AND run_id = ? "
        values = (after, limit) if run_id is None else (after, run_id, limit)
        return await self._rows(
            f"SELECT * FROM event WHERE event_id > ? {chosen}ORDER BY event_id LIMIT ?", values
        )

    async def data_version(self) -> int:
        """Changes when another connection has committed; cheaper than any query."""
        async with self._db.execute("PRAGMA data_version") as cursor:
            row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    # data sets

    async def put_dataset(self, name: str, path: str, fingerprint: str | None, report: Row) -> int:
        """A named data set; a second upload of the name replaces the first."""
        await self._db.execute(
            "INSERT INTO dataset (name, path, fingerprint, report, created_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET path = excluded.path, "
            "fingerprint = excluded.fingerprint, report = excluded.report, "
            "created_at = excluded.created_at",
            (name, path, fingerprint, json.dumps(report), now()),
        )
        found = await self.get_dataset(name)
        assert found is not None
        return int(found["dataset_id"])

    async def get_dataset(self, name: str) -> Row | None:
        """One data set with its report; None where there is none."""
        found = await self._rows("SELECT * FROM dataset WHERE name = ?", (name,))
        return found[0] if found else None

    async def list_datasets(self) -> list[Row]:
        """Every data set with its report, the newest first."""
        return await self._rows("SELECT * FROM dataset ORDER BY dataset_id DESC")

    async def _told(self, run_id: int, event: str, epoch: int) -> bool:
        found = await self._rows(
            "SELECT 1 FROM event WHERE run_id = ? AND event = ? "
            "AND json_extract(payload, '$.epoch') = ?",
            (run_id, event, epoch),
        )
        return bool(found)

    async def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Row]:
        async with self._db.execute(query, values) as cursor:
            return [as_row(row) for row in await cursor.fetchall()]
