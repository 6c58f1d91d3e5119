"""Sinks in trouble: a full disk, a locked database, a folder that comes back; nothing is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest

from config import UserError
from engine.records import database as database_module
from engine.records.database import connect, create_run_sync, get_run_sync
from engine.stream.events import CheckpointSaved, EpochMetrics, Stamped
from engine.stream.queue import EventQueue
from engine.stream.sinks.database import DatabaseSink
from engine.stream.sinks.files import FilesSink

ROOT = Path(__file__).parents[3]


def epoch(number: int) -> EpochMetrics:
    names = [field.name for field in dataclasses.fields(EpochMetrics)[1:-1]]
    return EpochMetrics(epoch=number, is_best=False, **dict.fromkeys(names, 0.5))


async def refused(sink: DatabaseSink | FilesSink, numbers: Iterable[int]) -> None:
    for number in numbers:
        with pytest.raises((sqlite3.Error, OSError, UserError)):
            await sink.handle(Stamped(1, "now", epoch(number)))


def epochs_told(path: Path) -> list[int]:
    with connect(path) as database:
        rows = database.execute("SELECT payload FROM event ORDER BY event_id").fetchall()
        kept = database.execute("SELECT epoch FROM run_metrics ORDER BY rowid").fetchall()
    told = [json.loads(row[0])["epoch"] for row in rows]
    assert [row[0] for row in kept] == told
    return told


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
        sink = DatabaseSink(path)
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
    assert epochs_told(path) == [1, 2, 3, 4, 5, 6]


def test_a_locked_database_is_written_when_the_lock_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    path = tmp_path / "a.db"
    run_id = create_run_sync(path, run_name="a")

    async def use() -> None:
        sink = DatabaseSink(path)
        await sink.open(run_id)
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            await refused(sink, [1, 2, 3])
            other.execute("ROLLBACK")
        await sink.close()  # the last try is enough

    asyncio.run(use())
    assert epochs_told(path) == [1, 2, 3]


def test_a_database_that_opens_only_later_gets_everything(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.db"
    create_run_sync(path, run_name="a")
    path.parent.rename(tmp_path / "away")
    path.parent.write_text("in the way")

    async def use() -> None:
        sink = DatabaseSink(path)
        with pytest.raises(UserError, match="folder cannot be written"):
            await sink.open(1)
        await refused(sink, [1, 2])
        path.parent.unlink()
        (tmp_path / "away").rename(path.parent)
        await sink.close()

    asyncio.run(use())
    assert epochs_told(path) == [1, 2]


def test_a_log_that_cannot_be_written_costs_no_epoch_of_the_results(tmp_path: Path) -> None:
    results, logs = tmp_path / "results", tmp_path / "logs"

    async def use() -> None:
        sink = FilesSink(results, logs)
        await sink.open(1)
        logs.rmdir()
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
        results.rmdir()
        results.write_text("in the way")
        await refused(sink, [1, 2])
        results.unlink()
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
    with EventQueue([DatabaseSink(path), FilesSink(tmp_path, tmp_path)], 1) as events:
        for number in (1, 2):
            events.emit(epoch(number))
            events.emit(CheckpointSaved("last.pt", number, "epoch"))
    document = json.loads((tmp_path / "metrics_1.json").read_text())
    assert [row["epoch"] for row in document["epochs"]] == [1, 2]
    assert capsys.readouterr().err.count("is damaged") == 1
    assert "warning: DatabaseSink failed" in (tmp_path / "run_1.log").read_text()


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
