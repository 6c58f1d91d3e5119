"""A connection to the database, and the few statements a run takes before its stream begins."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config import UserError
from engine.records.identity import release, reserve
from engine.records.liveness import host_name, is_running, this_host
from engine.records.log import storable
from engine.records.migrations import migrate

BUSY_SECONDS = 30.0
LIVE = ("preparing", "in_progress")  # a process has the run, or had it until it died
STATUSES = ("queued", *LIVE, "completed", "stopped", "failed", "interrupted")
LAST_RUN_ID = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'run'"
RUN_COLUMNS = frozenset(
    (
        *("run_name", "run_description", "training_mode", "status", "created_at", "started_at"),
        *("completed_at", "total_epochs_run", "training_time", "early_stopped", "best_epoch"),
        *("best_model_path", "config", "manifest", "dataset_path", "dataset_fingerprint"),
        *("error", "pid", "pid_started_at", "heartbeat_at", "run_uid", "tags", "results", "host"),
        "run_id",
    )
)
JSON_COLUMNS = frozenset({"config", "manifest", "report", "payload", "tags", "results"})

Row = dict[str, Any]


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def create_run_sync(path: Path, **fields: Any) -> int:
    """A new run; its id. Works inside a running event loop too."""
    with connect(path, check=True) as database:
        database.execute("BEGIN IMMEDIATE")  # one process at a time takes a number
        last = database.execute(LAST_RUN_ID).fetchone()[0]
        with numbered(fields, last) as (statement, values):
            cursor = database.execute(statement, values)
            database.execute("COMMIT")
    assert cursor.lastrowid is not None
    return cursor.lastrowid


@contextlib.contextmanager
def numbered(fields: Mapping[str, Any], last: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Statement and values for a new run, under a number above `last` that no other files have.

    The files that hold the number are removed where the run is not made after all. Fields without
    a configuration, which names the folders, get the database's next number.
    """
    fields = {"run_uid": uuid.uuid4().hex, **fields}
    output = (fields.get("config") or {}).get("output")
    if output is None:
        yield insert_run(fields)
        return
    run_id = reserve(output, last + 1, fields["run_uid"])
    try:
        yield insert_run({"run_id": run_id, **fields})
    except BaseException:
        release(output, run_id)
        raise


def update_run_sync(path: Path, run_id: int, **fields: Any) -> None:
    """Set columns of a run."""
    statement, values = update_run(run_id, fields)
    with connect(path) as database:
        database.execute(statement, values)


def get_run_sync(path: Path, run_id: int) -> Row | None:
    """One run, whole; None where there is none."""
    with connect(path) as database:
        row = database.execute("SELECT * FROM run WHERE run_id = ?", (run_id,)).fetchone()
    return as_row(row) if row is not None else None


def metrics_sync(path: Path, run_id: int) -> list[Row]:
    """Every epoch's row of a run, in order."""
    query = "SELECT * FROM run_metrics WHERE run_id = ? ORDER BY epoch"
    with connect(path) as database:
        return [as_row(row) for row in database.execute(query, (run_id,))]


def claim_run_sync(path: Path, run_id: int, pid: int, pid_started_at: float | None) -> None:
    """Take a run for this process. Raises UserError where another has it or it is completed."""
    with connect(path, check=True) as database:
        database.execute("BEGIN IMMEDIATE")
        row = database.execute(
            "SELECT status, pid, pid_started_at, host, heartbeat_at FROM run WHERE run_id = ?",
            (run_id,),
        ).fetchone()
        if row is None:
            raise UserError(f"there is no run {run_id} in {path}")
        if row["status"] == "completed":
            raise UserError(f"run {run_id} is completed; start a new run instead")
        ours = row["pid"] == pid and row["host"] in (None, this_host())
        if row["status"] in LIVE and not ours and is_running(row):
            raise UserError(
                f"run {run_id} is already being trained by process {row['pid']} on "
                f"{host_name(row['host'])}; stop it first"
            )
        database.execute(*claim_run(run_id, pid, pid_started_at))
        database.execute("COMMIT")


def claim_run(
    run_id: int, pid: int, pid_started_at: float | None, states: Sequence[str] = STATUSES
) -> tuple[str, tuple[Any, ...]]:
    """Statement and values that take a run for a process of this host, if it is in `states`."""
    return (
        "UPDATE run SET status = 'preparing', pid = ?, pid_started_at = ?, host = ?, "
        "heartbeat_at = ?, error = NULL, completed_at = NULL "
        f"WHERE run_id = ? AND status IN ({marks(states)})",
        (pid, pid_started_at, this_host(), now(), run_id, *states),
    )


@contextlib.contextmanager
def connect(
    path: Path, check: bool = False, busy_seconds: float | None = None
) -> Iterator[sqlite3.Connection]:
    """A plain connection to a database of the current schema, closed at the end.

    `check` looks through every page for damage: for the start of a run or of a server.
    `busy_seconds` is how long a statement waits for another's lock; None: BUSY_SECONDS.
    """
    busy_seconds = BUSY_SECONDS if busy_seconds is None else busy_seconds
    with readable_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        database.row_factory = sqlite3.Row
        database.text_factory = text_of
        try:
            for pragma in pragmas(busy_seconds):
                database.execute(pragma)
            _use_wal(database, busy_seconds)
            migrate(database, path)
            if check and (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(f"malformed: {' '.join(found.split())}")
            yield database
        finally:
            database.close()


def _use_wal(database: sqlite3.Connection, busy_seconds: float) -> None:
    """The file remembers it. Unlike any other statement, this change does not wait for a lock."""
    deadline = time.monotonic() + busy_seconds
    while database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def pragmas(busy_seconds: float | None = None) -> tuple[str, ...]:
    """What every connection sets."""
    busy_seconds = BUSY_SECONDS if busy_seconds is None else busy_seconds
    return (
        f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}",
        "PRAGMA synchronous = NORMAL",  # in WAL mode a crash loses no consistency
        "PRAGMA foreign_keys = ON",
    )


@contextlib.contextmanager
def readable_errors(path: Path) -> Iterator[None]:
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
        if "locked" in text:
            raise UserError(
                f"{path} is locked by another process; wait for it or end it, and try again"
            ) from error
        if "is full" in text or "disk I/O" in text:
            raise UserError(
                f"{path} cannot be written ({text}); free some space on its disk"
            ) from error
        raise
    except OSError as error:
        folder = os.fspath(path.parent)
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error


def insert_run(fields: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """Statement and values for a new run; with a pid it is a process's of this host at once."""
    begun = {"host": this_host(), "heartbeat_at": now()} if fields.get("pid") is not None else {}
    fields = {"created_at": now(), "run_uid": uuid.uuid4().hex, **begun, **_encoded(fields)}
    names = ", ".join(fields)
    return f"INSERT INTO run ({names}) VALUES ({marks(fields)})", tuple(fields.values())


def update_run(run_id: int, fields: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """Statement and values that set columns of a run."""
    fields = _encoded(fields)
    sets = ", ".join(f"{name} = ?" for name in fields)
    return f"UPDATE run SET {sets} WHERE run_id = ?", (*fields.values(), run_id)


def _encoded(fields: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(fields) - RUN_COLUMNS
    assert not unknown, f"no such columns of run: {unknown}"
    return {
        name: json.dumps(value) if name in JSON_COLUMNS and value is not None else storable(value)
        for name, value in fields.items()
    }


def as_row(row: sqlite3.Row) -> Row:
    """A row as a dict, with its JSON columns read.

    Of a row edited by hand, a column that is not JSON is None, and bytes are text; a payload is
    always a mapping.
    """
    return {
        key: _read(key, row[key]) if key in JSON_COLUMNS else _plain(row[key])
        for key in row.keys()  # noqa: SIM118  a Row iterates over its values
    }


def text_of(content: bytes) -> str:
    """How text of the database is read: one damaged name must not hide every other row."""
    return content.decode("utf-8", "replace")


def _plain(value: Any) -> Any:
    return text_of(value) if isinstance(value, bytes) else value


def _read(key: str, text: Any) -> Any:
    try:
        value = json.loads(text) if text is not None else None
    except (ValueError, TypeError, RecursionError):
        value = None
    return value if key != "payload" or isinstance(value, dict) else {}


def marks(values: Collection[object]) -> str:
    """As many question marks as values, for a statement."""
    return ", ".join("?" * len(values))
