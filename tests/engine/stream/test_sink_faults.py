"""Sinks in trouble: a full disk, a locked database, a folder that comes back; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from config import UserError
from engine.records import database as database_module
from engine.records import spool
from engine.records.database import claim_run_sync, connect, create_run_sync, get_run_sync
from engine.stream.events import (
    CheckpointSaved,
    EpochMetrics,
    Stamped,
    TrainingComplete,
    TrainingStarted,
)
from engine.stream.queue import EventQueue, Unrecorded
from engine.stream.sinks.database import DatabaseSink
from engine.stream.sinks.files import FilesSink

ROOT = Path(__file__).parents[3]
STARTED = TrainingStarted("name", {}, "cpu", {"train": {"NORMAL": 2}})
COMPLETE = TrainingComplete({}, None, 1, 1.0, False, None)


def epoch(number: int) -> EpochMetrics:
    names = [field.name for field in dataclasses.fields(EpochMetrics)[1:-1]]
    return EpochMetrics(epoch=number, is_best=False, **dict.fromkeys(names, 0.5))


async def refused(sink: DatabaseSink | FilesSink, numbers: Iterable[int]) -> None:
    for number in numbers:
        with pytest.raises((sqlite3.Error, OSError, UserError)):
            await sink.handle(Stamped(1, "now", epoch(number)))


def epochs_logged(path: Path) -> list[int]:
    with connect(path) as database:
        database.execute("BEGIN")  # both tables as of one moment
        query = f"SELECT payload FROM event WHERE event = '{EpochMetrics.name}' ORDER BY event_id"
        rows = database.execute(query).fetchall()
        kept = database.execute("SELECT epoch FROM run_metrics ORDER BY rowid").fetchall()
    logged = [json.loads(row[0])["epoch"] for row in rows]
    assert [row[0] for row in kept] == logged
    return logged


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


FULL_DISK = """
    import asyncio, dataclasses, resource, sqlite3, sys
    from pathlib import Path
    from engine.stream.events import EpochMetrics, Stamped
    from engine.stream.sinks.database import DatabaseSink
    from engine.records.database import create_run_sync

    path = Path(sys.argv[1])
    names = [field.name for field in dataclasses.fields(EpochMetrics)[1:-1]]

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    async def write():
        sink = DatabaseSink(path, retry_seconds=0.0)
        await sink.open(create_run_sync(path, run_name="a"))

        async def say(number):
            event = EpochMetrics(epoch=number, is_best=False, **dict.fromkeys(names, 0.5))
            try:
                await sink.handle(Stamped(1, "now", event))
            except sqlite3.Error as error:
                return "refused"
            return "written"

        print(await say(1))
        limit(path.with_name(path.name + "-wal").stat().st_size + 1000)
        print(*[await say(number) for number in range(2, 6)])
        limit(resource.RLIM_INFINITY)
        print(await say(6))
        await sink.close()

    asyncio.run(write())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a file's size cannot be limited")
def test_a_full_disk_delays_the_rows_and_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "written\nrefused refused refused refused\nwritten\n", done.stderr
    assert epochs_logged(path) == [1, 2, 3, 4, 5, 6]


LOCK = """
    import sqlite3, sys, time
    database = sqlite3.connect(sys.argv[1], isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the database's lock until it is killed."""
    command = [sys.executable, "-c", textwrap.dedent(LOCK), str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_database_locked_at_the_start_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    create_run_sync(path, run_name="a")
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    with locked(path):
        with pytest.raises(UserError, match=r"a\.db is locked by another process; wait"):
            create_run_sync(path, run_name="b")
        with pytest.raises(UserError, match="is locked"):
            claim_run_sync(path, 1, 1, None)


def test_a_lock_across_the_end_of_a_run_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.db"
    create_run_sync(path, run_name="a", status="in_progress")
    sink = DatabaseSink(path, busy_seconds=0.05, retry_seconds=0.05, close_seconds=60.0)
    with locked(path) as other, EventQueue([sink], 1) as events:
        events.emit(epoch(1))
        events.emit(COMPLETE)
        threading.Timer(1.0, other.kill).start()
    assert epochs_logged(path) == [1]
    run = get_run_sync(path, 1)
    assert run is not None
    assert run["status"] == "completed"
    assert capsys.readouterr().err.count("the end of run 1 cannot be recorded yet") == 1


def test_a_lock_that_outlasts_the_end_leaves_a_file_that_the_next_start_records(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    create_run_sync(path, run_name="a", pid=os.getpid(), pid_started_at=1.0)  # has ended, later
    sink = DatabaseSink(path, busy_seconds=0.05, retry_seconds=0.05, close_seconds=0.2)
    events = EventQueue([sink], 1)
    events.start()
    events.emit(epoch(1))
    wait_until(lambda: epochs_logged(path) == [1])
    with locked(path):
        events.emit(epoch(2))
        events.emit(COMPLETE)
        with pytest.raises(Unrecorded, match=r"2 events .*unwritten_events_1\.jsonl"):
            events.__exit__(None, None, None)
    assert epochs_logged(path) == [1]
    assert spool.replay(path, tmp_path) == [1]
    assert epochs_logged(path) == [1, 2]
    run = get_run_sync(path, 1)
    assert run is not None
    assert run["status"] == "completed"


def test_an_event_at_fault_itself_does_not_block_those_after_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    create_run_sync(path, run_name="a")

    class Broken(CheckpointSaved):
        def payload(self) -> dict[str, object]:
            return {"epoch": object()}

    with EventQueue([DatabaseSink(path)], 1) as events:
        events.emit(Broken("last.pt", 1, "epoch"))
        events.emit(epoch(1))
    assert epochs_logged(path) == [1]


def test_a_database_that_opens_only_later_gets_everything(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.db"
    create_run_sync(path, run_name="a")
    path.parent.rename(tmp_path / "away")
    path.parent.write_text("in the way")

    async def use() -> None:
        sink = DatabaseSink(path, retry_seconds=0.0)
        with pytest.raises(UserError, match="folder cannot be written"):
            await sink.open(1)
        await refused(sink, [1, 2])
        path.parent.unlink()
        (tmp_path / "away").rename(path.parent)
        await sink.close()

    asyncio.run(use())
    assert epochs_logged(path) == [1, 2]


def test_a_log_that_cannot_be_written_costs_no_epoch_of_the_results(tmp_path: Path) -> None:
    results, logs = tmp_path / "results", tmp_path / "logs"

    async def use() -> None:
        sink = FilesSink(results, logs)
        await sink.open(1)
        await sink.handle(Stamped(1, "now", STARTED))
        shutil.rmtree(logs)
        await refused(sink, [1])
        logs.mkdir()
        await sink.handle(Stamped(1, "now", epoch(2)))
        await sink.close()

    asyncio.run(use())
    document = json.loads((results / "metrics_1.json").read_text())
    assert [row["epoch"] for row in document["epochs"]] == [1, 2]


def test_a_results_folder_that_comes_back_gets_every_epoch(tmp_path: Path) -> None:
    results = tmp_path / "results"

    async def use() -> None:
        sink = FilesSink(results, tmp_path / "logs")
        await sink.open(1)
        await sink.handle(Stamped(1, "now", STARTED))
        results.rmdir()
        results.write_text("in the way")
        await refused(sink, [1, 2])
        results.unlink()
        sink._not_before = 0.0  # not put off: the files took long, in vain
        await sink.handle(Stamped(1, "now", epoch(3)))
        await sink.close()

    asyncio.run(use())
    document = json.loads((results / "metrics_1.json").read_text())
    assert [row["epoch"] for row in document["epochs"]] == [1, 2, 3]
    assert sorted(path.suffix for path in results.iterdir()) == [".csv", ".json"]


def test_a_damaged_database_leaves_the_files_and_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"rubbish" * 1000)
    sinks = [DatabaseSink(path), FilesSink(tmp_path, tmp_path)]
    events = EventQueue(sinks, 1)
    events.start()
    events.emit(STARTED)
    for number in (1, 2):
        events.emit(epoch(number))
        events.emit(CheckpointSaved("last.pt", number, "epoch"))
    with pytest.raises(Unrecorded, match=r"6 events .* is damaged"):
        events.__exit__(None, None, None)
    document = json.loads((tmp_path / "metrics_1.json").read_text())
    assert [row["epoch"] for row in document["epochs"]] == [1, 2]
    assert capsys.readouterr().err.count("is damaged") == 1
    assert "a.db is damaged" in (tmp_path / "run_1.log").read_text()


def test_the_heart_beats_while_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stream.sinks.database.HEARTBEAT_SECONDS", 0.02)
    path = tmp_path / "a.db"
    run_id = create_run_sync(path, run_name="a")
    beats = set()

    async def use() -> None:
        sink = DatabaseSink(path)
        await sink.open(run_id)
        for _ in range(20):
            await asyncio.sleep(0.02)
            run = get_run_sync(path, run_id)
            assert run is not None
            beats.add(run["heartbeat_at"])
        await sink.close()

    asyncio.run(use())
    assert len(beats) > 3
