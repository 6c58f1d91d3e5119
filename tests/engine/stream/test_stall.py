"""What a sink in trouble costs the training: the longest that one emit takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.records import database
from engine.records.database import connect, create_run_sync
from engine.stream.events import CheckpointSaved, Stamped, TrainingProgress
from engine.stream.queue import EventQueue, Sink
from engine.stream.sinks.database import DatabaseSink
from engine.stream.sinks.files import FilesSink

LONGEST = 0.05  # seconds
SECONDS = 1.0


class Trouble:
    """A sink that stands still, raises, or holds its whole thread up."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def open(self, run_id: int) -> None:
        """Without trouble."""

    async def handle(self, stamped: Stamped) -> None:
        if self.kind == "stands still":
            await asyncio.sleep(SECONDS)
        elif self.kind == "raises":
            raise OSError(28, "No space left on device")
        elif self.kind == "blocks":
            time.sleep(0.3)  # noqa: ASYNC251  that is the fault
        else:
            end = time.perf_counter() + 0.3
            while time.perf_counter() < end:
                pass

    async def close(self) -> None:
        """Without trouble."""


@contextlib.contextmanager
def sink_in_trouble(kind: str, folder: Path) -> Iterator[list[Sink]]:
    path = folder / "a.db"
    create_run_sync(path, run_name="a")
    if kind == "locked database":
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            yield [DatabaseSink(path)]
            other.execute("ROLLBACK")
    elif kind == "folder gone":
        (folder / "results").write_text("a file where the folder was")
        yield [FilesSink(folder / "results", folder / "logs")]
    else:
        yield [Trouble(kind)]


@pytest.mark.parametrize(
    "kind",
    ["stands still", "raises", "blocks", "burns", "locked database", "folder gone"],
)
def test_no_sink_holds_the_training_up(
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    longest, emitted = 0.0, 0
    with sink_in_trouble(kind, tmp_path) as sinks:
        events = EventQueue(sinks, 1)
        events.start()
        until = time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            began = time.perf_counter()
            events.emit(TrainingProgress("train", 1, emitted, 10, 0.5, 1.0, 1.0))
            if emitted % 50 == 0:
                events.emit(CheckpointSaved("a", 1, "time"))
            longest = max(longest, time.perf_counter() - began)
            emitted += 1
            time.sleep(0.001)
        events.close(timeout=1.0)
    with capsys.disabled():
        print(f"\nlongest stall ({kind}): {1000 * longest:.1f} ms")
    assert emitted > 100
    assert longest < LONGEST
