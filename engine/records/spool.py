"""Events that could not be written into the database: kept in a file, written at the next start."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.files import write_text
from engine.process import say
from engine.records import log
from engine.records.database import LIVE, connect
from engine.records.liveness import is_running

PATTERN = "unwritten_events_*.jsonl"

KeptEvent = tuple[str, str, Mapping[str, Any]]  # at, event, payload


def unwritten_path(results_dir: Path, run_id: int) -> Path:
    """Where a run keeps events that could not be written into the database."""
    return results_dir / f"unwritten_events_{run_id}.jsonl"


def keep(results_dir: Path, run_id: int, run_uid: str | None, events: Sequence[KeptEvent]) -> Path:
    """Write events to `results_dir/unwritten_events_{run_id}.jsonl`, after those already there.

    Raises OSError; the file is then as it was.
    """
    path = unwritten_path(results_dir, run_id)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    head = {"run_id": run_id, "run_uid": run_uid}
    lines = [
        json.dumps({**head, "at": at, "event": event, "payload": payload}, allow_nan=False) + "\n"
        for at, event, payload in events
    ]
    write_text(path, before + "".join(lines))
    return path


def replay(database: Path, results_dir: Path) -> list[int]:
    """Write kept events into the database and remove their files; the ids of those runs.

    Call it before a run is claimed and when a server starts. A file of another database's run
    stays, and so does one that cannot be read. Raises UserError where the database cannot be used.
    """
    done = []
    for path in sorted(results_dir.glob(PATTERN)):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            events = [json.loads(line) for line in lines]
            with connect(database) as connection:
                run_id = _replay(connection, events)
        except (OSError, ValueError, LookupError, TypeError) as error:
            say(f"warning: {path} cannot be read ({error}); its events are not recorded")
            continue
        if run_id is not None:
            with contextlib.suppress(OSError):  # another start was quicker; a replay is idempotent
                path.unlink(missing_ok=True)
            done.append(run_id)
    return done


def _replay(connection: sqlite3.Connection, events: list[dict[str, Any]]) -> int | None:
    """All in one transaction; None where they are not for this database, or not now."""
    run_id, run_uid = events[0]["run_id"], events[0]["run_uid"]
    connection.execute("BEGIN IMMEDIATE")  # rolled back where the connection closes before COMMIT
    row = connection.execute(
        "SELECT * FROM run WHERE run_id = ? AND run_uid = ?", (run_id, run_uid)
    ).fetchone()
    if row is None:
        return None
    if row["status"] in LIVE and row["pid"] != os.getpid() and is_running(row):
        return None
    for event in events:
        at, name, payload = event["at"], event["event"], event["payload"]
        # Events can share a millisecond: only an equal payload is the same event.
        text = json.dumps({key: value for key, value in payload.items() if key != "history"})
        known = connection.execute(
            "SELECT 1 FROM event WHERE run_id = ? AND at = ? AND event = ? AND payload = ?",
            (run_id, at, name, text),
        ).fetchone()
        if known is None:
            for statement, rows in log.record(run_id, at, name, payload):
                connection.executemany(statement, rows)
    connection.execute("COMMIT")
    return int(run_id)
