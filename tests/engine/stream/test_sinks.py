"""What the sinks leave: rows and files that agree, whole at any moment, complete in the end."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import json
import math
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from engine.records.database import connect, create_run_sync, get_run_sync
from engine.stream.events import (
    CheckpointSaved,
    EpochMetrics,
    Event,
    Stamped,
    TrainingComplete,
    TrainingFailed,
    TrainingProgress,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
)
from engine.stream.sinks.console import ConsoleSink
from engine.stream.sinks.database import DatabaseSink
from engine.stream.sinks.files import FilesSink

ROOT = Path(__file__).parents[3]
ENDING: dict[str, Any] = {
    "metrics": {"best_recall": 0.9, "best_auroc": None},
    "best_epoch": 2,
    "total_epochs_run": 3,
    "training_time": 1.5,
    "early_stopped": True,
    "best_model_path": "best_model.pt",
}
STARTED = TrainingStarted("name", {}, "cpu", {"train": {"NORMAL": 2}})


def epoch(number: int, **changes: Any) -> EpochMetrics:
    names = [field.name for field in dataclasses.fields(EpochMetrics)[1:-1]]
    return EpochMetrics(
        epoch=number, is_best=number == 2, **{**dict.fromkeys(names, 0.5), **changes}
    )


def deliver(sink: Any, events: list[Event], run_id: int = 1) -> None:
    async def use() -> None:
        await sink.open(run_id)
        try:
            for event in events:
                await sink.handle(Stamped(run_id, "2026-01-01T00:00:00.000+00:00", event))
        finally:
            await sink.close()

    asyncio.run(use())


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (TrainingComplete(**ENDING), "completed"),
        (TrainingStopped(**ENDING, reason="asked"), "stopped"),
        (TrainingFailed("it broke", None), "failed"),
        (epoch(2), "in_progress"),
    ],
)
def test_the_database_follows_the_events(tmp_path: Path, last: Event, status: str) -> None:
    path = tmp_path / "pneumoscope.db"
    run_id = create_run_sync(path, run_name="a", status="preparing")
    deliver(DatabaseSink(path), [STARTED, epoch(1, val_auroc=math.nan), last], run_id)
    run = get_run_sync(path, run_id)
    assert run is not None
    assert run["status"] == status
    assert run["heartbeat_at"] is not None
    if isinstance(last, TrainingComplete):
        assert (run["best_epoch"], run["total_epochs_run"], run["early_stopped"]) == (2, 3, 1)
    with connect(path) as database:
        names = [r[0] for r in database.execute("SELECT event FROM event ORDER BY event_id")]
        first = database.execute("SELECT val_auroc, val_recall FROM run_metrics").fetchone()
    assert names == [STARTED.name, "training_metrics_update", last.name]
    assert tuple(first) == (None, 0.5)


def test_what_cannot_be_written_is_written_later_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "pneumoscope.db"
    run_id = create_run_sync(path, run_name="a")

    async def use() -> None:
        sink = DatabaseSink(path, busy_seconds=0.05, retry_seconds=0.05)
        await sink.open(run_id)

        async def say(event: Event) -> None:
            await sink.handle(Stamped(run_id, "now", event))

        await say(epoch(1))
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await say(epoch(2))
            for event in (TrainingProgress("train", 3, 1, 9, 0.5, 1.0, 1.0), epoch(3)):
                await say(event)  # in trouble: kept, and tried again later
            other.execute("ROLLBACK")
        await asyncio.sleep(0.1)
        await say(CheckpointSaved("last.pt", 3, "epoch"))
        await sink.close()

    asyncio.run(use())
    with connect(path) as database:
        found = database.execute("SELECT event, payload FROM event ORDER BY event_id").fetchall()
        epochs = [r[0] for r in database.execute("SELECT epoch FROM run_metrics ORDER BY epoch")]
    assert epochs == [1, 2, 3]
    assert [json.loads(r["payload"])["epoch"] for r in found] == [1, 2, 3, 3]


def resumed(*numbers: int) -> TrainingResumed:
    return TrainingResumed(
        max(numbers, default=0), [[EpochMetrics.name, epoch(n).payload()] for n in numbers]
    )


def test_files_hold_every_epoch_once_also_after_a_resume(tmp_path: Path) -> None:
    deliver(FilesSink(tmp_path / "r", tmp_path / "l"), [STARTED, *map(epoch, (1, 2, 3, 4))])
    again = [STARTED, resumed(1, 2), epoch(3, val_auroc=math.nan), TrainingComplete(**ENDING)]
    deliver(FilesSink(tmp_path / "r", tmp_path / "l"), again)
    with (tmp_path / "r/metrics_1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[2]["val_auroc"] == ""
    document = json.loads((tmp_path / "r/metrics_1.json").read_text(), parse_constant=pytest.fail)
    assert [row["epoch"] for row in document["epochs"]] == [1, 2, 3]
    assert document["result"]["best_epoch"] == 2
    log = (tmp_path / "l/run_1.log").read_text()
    assert all(line.startswith("2026-01-01T") for line in log.splitlines())
    assert log.count("resumed after epoch 2") == 1
    assert log.count("5.0e-01") == 5  # a line for each epoch when it was trained
    assert "kept epoch 2" in log


def test_a_damaged_file_does_not_stop_a_resume_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "metrics_1.json").write_text('{"epochs": [{"ep')
    deliver(FilesSink(tmp_path, tmp_path), [STARTED, resumed(1), epoch(2)])
    document = json.loads((tmp_path / "metrics_1.json").read_text())
    assert [row["epoch"] for row in document["epochs"]] == [1, 2]


def test_files_of_a_run_that_ends_before_it_is_resumed_stay(tmp_path: Path) -> None:
    deliver(FilesSink(tmp_path, tmp_path), [STARTED, epoch(1)])
    before = (tmp_path / "metrics_1.json").read_text()
    deliver(FilesSink(tmp_path, tmp_path), [TrainingStopped(**ENDING, reason="while preparing")])
    assert (tmp_path / "metrics_1.json").read_text() == before


def test_the_files_of_a_run_of_many_epochs_cost_no_quadratic_time(tmp_path: Path) -> None:
    began = time.process_time()
    deliver(FilesSink(tmp_path, tmp_path), [STARTED, *map(epoch, range(1, 3001))])
    assert time.process_time() - began < 5
    assert len((tmp_path / "metrics_1.csv").read_text().splitlines()) == 3001


def test_a_killed_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    script = f"""
        import asyncio, dataclasses
        from pathlib import Path
        from engine.stream.events import EpochMetrics, Stamped, TrainingStarted
        from engine.stream.sinks.files import FilesSink
        names = [f.name for f in dataclasses.fields(EpochMetrics)[1:-1]]

        async def write():
            sink = FilesSink(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))
            await sink.open(1)
            await sink.handle(Stamped(1, "now", TrainingStarted("a", {{}}, "cpu", {{}})))
            for n in range(1, 100_000):
                event = EpochMetrics(epoch=n, is_best=False, **dict.fromkeys(names, 0.5))
                await sink.handle(Stamped(1, "now", event))
                if n == 1:
                    print("begun", flush=True)
        asyncio.run(write())
    """
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.communicate()
        document = json.loads((tmp_path / "metrics_1.json").read_text())
        assert document["epochs"][0]["epoch"] == 1
        with (tmp_path / "metrics_1.csv").open(newline="") as file:
            assert all(None not in row.values() for row in csv.DictReader(file))


def test_the_console_prints_a_line_for_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    deliver(
        ConsoleSink(), [STARTED, epoch(1), epoch(2, val_auroc=math.nan), TrainingComplete(**ENDING)]
    )
    out = capsys.readouterr().out
    assert out.count("train loss") == 1
    assert "kept epoch 2: recall 0.9000, auroc -" in out
    assert "\r" not in out
