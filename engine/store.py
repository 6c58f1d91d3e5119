"""The database: schema, migrations, and every query. aiosqlite for the stream and the server,
plain sqlite3 for the few steps a trainer takes before its stream runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiosqlite

from config import UserError
from engine.migrations import migrate
from engine.process import is_alive

BUSY_SECONDS = 30.0
PASSING = "training_progress"  # each replaces the run's previous one
ONCE_PER_EPOCH = ("training_metrics_update", "learning_rate_changed", "early_stopping_triggered")

METRIC_COLUMNS = (
    *("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_precision"),
    *("val_recall", "val_specificity", "val_f1", "val_auroc", "learning_rate", "epoch_seconds"),
)
RUN_COLUMNS = frozenset(
    (
        *("run_name", "run_description", "training_mode", "status", "created_at", "started_at"),
        *("completed_at", "total_epochs_run", "training_time", "early_stopped", "best_epoch"),
        *("best_model_path", "config", "manifest", "dataset_path", "dataset_fingerprint"),
        *("error", "pid", "pid_started_at", "heartbeat_at"),
    )
)
JSON_COLUMNS = frozenset({"config", "manifest", "report", "payload"})

Row = dict[str, Any]


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Store:
    """One connection, which is one thread and one queue: statements run in the order given."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._db = connection

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open, check and bring the schema forward. Raises UserError, naming the file."""
        with _readable_errors(path):
            with connect(path, check=True):
                pass  # migrated and checked with the plain driver
            connection = await aiosqlite.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                for pragma in _pragmas():
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
        statement, values = _insert_run(fields)
        cursor = await self._db.execute(statement, values)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    async def update_run(self, run_id: int, **fields: Any) -> None:
        """Set columns of a run."""
        statement, values = _update_run(run_id, fields)
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
            return [_row(row) for row in await cursor.fetchall()]


def create_run_sync(path: Path, **fields: Any) -> int:
    """A new run; its id. Works inside a running event loop too."""
    statement, values = _insert_run(fields)
    with connect(path, check=True) as database:
        cursor = database.execute(statement, values)
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def update_run_sync(path: Path, run_id: int, **fields: Any) -> None:
    """Set columns of a run."""
    statement, values = _update_run(run_id, fields)
    with connect(path) as database:
        database.execute(statement, values)


def get_run_sync(path: Path, run_id: int) -> Row | None:
    """One run, whole; None where there is none."""
    with connect(path) as database:
        row = database.execute("SELECT * FROM run WHERE run_id = ?", (run_id,)).fetchone()
    return _row(row) if row is not None else None


def metrics_sync(path: Path, run_id: int) -> list[Row]:
    """Every epoch's row of a run, in order."""
    query = "SELECT * FROM run_metrics WHERE run_id = ? ORDER BY epoch"
    with connect(path) as database:
        return [_row(row) for row in database.execute(query, (run_id,))]


def claim_run_sync(path: Path, run_id: int, pid: int, pid_started_at: float | None) -> None:
    """Take a run for this process. Raises UserError where another has it or it is completed."""
    with connect(path, check=True) as database:
        database.execute("BEGIN IMMEDIATE")
        row = database.execute(
            "SELECT status, pid, pid_started_at FROM run WHERE run_id = ?", (run_id,)
        ).fetchone()
        if row is None:
            raise UserError(f"there is no run {run_id} in {path}")
        if row["status"] == "completed":
            raise UserError(f"run {run_id} is completed; start a new run instead")
        busy = row["status"] in ("preparing", "in_progress") and row["pid"] != pid
        if busy and is_alive(row["pid"], row["pid_started_at"]):
            raise UserError(f"run {run_id} is in the hands of process {row['pid']}; stop it first")
        database.execute(
            "UPDATE run SET status = 'preparing', pid = ?, pid_started_at = ?, heartbeat_at = ?, "
            "error = NULL, completed_at = NULL WHERE run_id = ?",
            (pid, pid_started_at, now(), run_id),
        )
        database.execute("COMMIT")


@contextlib.contextmanager
def connect(path: Path, check: bool = False) -> Iterator[sqlite3.Connection]:
    """A plain connection to a database of the current schema, closed at the end.

    `check` looks through every page for damage: for the start of a run or of a server.
    """
    with _readable_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        database.row_factory = sqlite3.Row
        try:
            for pragma in _pragmas():
                database.execute(pragma)
            _use_wal(database)
            migrate(database, path)
            if check and (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(f"malformed: {' '.join(found.split())}")
            yield database
        finally:
            database.close()


def _use_wal(database: sqlite3.Connection) -> None:
    """The file remembers it. Unlike any other statement, this change does not wait for a lock."""
    deadline = time.monotonic() + BUSY_SECONDS
    while database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _pragmas() -> tuple[str, ...]:
    return (
        f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}",
        "PRAGMA synchronous = NORMAL",  # in WAL mode a crash loses no consistency
        "PRAGMA foreign_keys = ON",
    )


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    """What SQLite and the file system say, in words that name the file and the way out."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "malformed" in text or "not a database" in text:
            raise UserError(
                f"{path} is damaged or is not a Pneumoscope database ({text}); move it away and "
                "a new one is made, or choose another output.database"
            ) from error
        if "readonly" in text or "unable to open" in text:
            raise UserError(
                f"{path} cannot be written ({text}); choose another output.database"
            ) from error
        raise
    except OSError as error:
        folder = os.fspath(path.parent)
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error


def _insert_run(fields: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    fields = {"created_at": now(), **_encoded(fields)}
    marks = ", ".join("?" * len(fields))
    return f"INSERT INTO run ({', '.join(fields)}) VALUES ({marks})", tuple(fields.values())


def _update_run(run_id: int, fields: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    fields = _encoded(fields)
    sets = ", ".join(f"{name} = ?" for name in fields)
    return f"UPDATE run SET {sets} WHERE run_id = ?", (*fields.values(), run_id)


def _encoded(fields: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(fields) - RUN_COLUMNS
    assert not unknown, f"no such columns of run: {unknown}"
    return {
        name: json.dumps(value) if name in JSON_COLUMNS and value is not None else value
        for name, value in fields.items()
    }


def _row(row: sqlite3.Row) -> Row:
    return {
        key: json.loads(row[key]) if key in JSON_COLUMNS and row[key] is not None else row[key]
        for key in row.keys()  # noqa: SIM118  a Row iterates over its values
    }
