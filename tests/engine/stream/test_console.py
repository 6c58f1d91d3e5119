"""The console: lines, a bar where somebody watches, and no harm where nobody reads."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path
from typing import IO

import pytest

from engine.records.database import connect, get_run_sync
from engine.stream.events import RunWarning, Stamped, TrainingFailed, TrainingStarted
from engine.stream.sinks.console import describe

ROOT = Path(__file__).parents[3]

BAR = """
    import asyncio
    from engine.stream.events import Stamped, TrainingProgress
    from engine.stream.sinks.console import ConsoleSink

    async def show():
        sink = ConsoleSink()
        await sink.open(1)
        await sink.handle(Stamped(1, "now", TrainingProgress("train", 1, 5, 10, 0.25, 80.0, 61.0)))
        await sink.close()
    asyncio.run(show())
"""

RUN = """
    import sys
    from pathlib import Path
    from engine.records.database import create_run_sync
    from engine.stream.events import CheckpointSaved, RunWarning, TrainingComplete, TrainingStarted
    from engine.stream.queue import EventQueue
    from engine.stream.sinks.console import ConsoleSink
    from engine.stream.sinks.database import DatabaseSink

    path = Path(sys.argv[1])
    run_id = create_run_sync(path, run_name="a", status="preparing")
    with EventQueue([DatabaseSink(path), ConsoleSink()], run_id) as events:
        events.emit(TrainingStarted("a", {}, "cpu", {"train": {"NORMAL": 2}}))
        events.emit(CheckpointSaved("last.pt", 1, "epoch"))
        events.emit(TrainingComplete(
            metrics={}, best_epoch=None, total_epochs_run=1, training_time=1.0,
            early_stopped=False, best_model_path=None,
        ))
"""


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]


def test_it_is_quiet_where_nobody_watches_and_shows_a_bar_where_somebody_does() -> None:
    done = subprocess.run(command(BAR), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    subprocess.run(command(BAR), cwd=ROOT, stdout=theirs, stderr=theirs, check=True)
    os.set_blocking(ours, False)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "epoch 1 train" in shown
    assert "loss 0.2500, 80 images/s, 1:01 left" in shown


FULL_BAR = """
    import asyncio
    from engine.stream.events import Stamped, TrainingProgress, TrainingStarted, TrainingStopped
    from engine.stream.sinks.console import ConsoleSink

    async def show():
        sink = ConsoleSink()
        await sink.open(1)
        config = {"experiment": {"epochs": 50}, "output": {"database": "elsewhere/a b.db"}}
        await sink.handle(Stamped(7, "now", TrainingStarted("a", config, "cpu", {})))
        progress = TrainingProgress("validate", 12, 500, 1000, 0.25, 1080.0, 61.0, 45296.0)
        await sink.handle(Stamped(7, "now", progress))
        await sink.handle(Stamped(7, "now", TrainingStopped(
            metrics={}, best_epoch=None, total_epochs_run=1, training_time=1.0,
            early_stopped=False, best_model_path=None, reason="stopped by SIGINT",
        )))
        await sink.close()
    asyncio.run(show())
"""


@pytest.mark.parametrize("columns", [80, 200])
def test_the_bar_fits_the_terminal_and_uses_it(columns: int) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    shell = command(FULL_BAR)
    subprocess.run(shell, cwd=ROOT, stdout=theirs, stderr=theirs, check=True, env=environ)
    os.set_blocking(ours, False)
    shown = os.read(ours, 20_000).decode()
    os.close(ours)
    os.close(theirs)
    bars = [part for part in shown.replace("\n", "\r").split("\r") if "/s, " in part]
    assert bars
    for bar in bars:
        assert len(bar) <= columns
        assert bar.startswith("epoch 12 of 50 validate")
        assert "1:01 left, run 12:34:56" in bar
    assert columns - 2 <= max(map(len, bars))
    resume = (
        "to continue: python -m engine.train --resume 7 --set 'output.database=elsewhere/a b.db'"
    )
    assert resume in shown


def test_a_notebook_shows_progress_too() -> None:
    notebook = (
        "    import sys, types; sys.modules['ipykernel'] = types.ModuleType('ipykernel')" + BAR
    )
    done = subprocess.run(command(notebook), cwd=ROOT, capture_output=True, text=True, check=True)
    assert "epoch 1 train" in done.stderr


def assert_completed(path: Path, warned: bool) -> None:
    run = get_run_sync(path, 1)
    assert run is not None
    assert run["status"] == "completed"
    with connect(path) as database:
        found = database.execute("SELECT payload FROM event WHERE event = 'warning'").fetchall()
    assert ["nothing more can be printed" in row[0] for row in found] == [True] * warned


def closed_pipe() -> IO[bytes]:
    """The end to write to, of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "wb")


@pytest.mark.parametrize("both", [True, False], ids=["2>&1 | head", "| head"])
def test_a_run_whose_output_nobody_reads_is_recorded(tmp_path: Path, both: bool) -> None:
    with closed_pipe() as pipe:
        error = pipe if both else subprocess.PIPE
        done = subprocess.run(
            command(RUN, tmp_path / "a.db"),
            cwd=ROOT,
            stdout=pipe,
            stderr=error,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0
    assert_completed(tmp_path / "a.db", warned=True)


def test_a_run_without_descriptors_for_its_output_is_recorded(tmp_path: Path) -> None:
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    done = subprocess.run(
        [*shell, *command(RUN, tmp_path / "a.db")], cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0
    assert_completed(tmp_path / "a.db", warned=False)


def test_a_terminal_that_is_held_up_does_not_hold_the_records_up(tmp_path: Path) -> None:
    """As with Ctrl-S or a pager: a full pipe that is read only after the run."""
    long = RUN.replace('CheckpointSaved("last.pt", 1, "epoch")', 'RunWarning("a", "x" * 2**20)')
    with subprocess.Popen(
        command(long, tmp_path / "a.db"), cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        # the rest of its output is not read until the database has the end of the run
        deadline = time.monotonic() + 60
        while (get_run_sync(tmp_path / "a.db", 1) or {}).get("status") != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.stdout.read()
    assert process.returncode == 0


def test_lines_are_free_of_control_characters() -> None:
    started = TrainingStarted("a\x1b[2Jb\nc", {}, "cpu", {"train": {"\u202eNORMAL": 2}})
    for event, shown in (
        (started, ["run 1 'a\\x1b[2Jb\\nc' on cpu", "train: 2 \\u202eNORMAL"]),
        (RunWarning("a", "b\x07\r\n2026 forged"), ["warning: b\\x07\\r", "    2026 forged"]),
        (TrainingFailed("caf\udce9\u2028x\x9b1m", None), ["failed: caf\\udce9\\u2028x\\x9b1m"]),
    ):
        assert describe(Stamped(1, "now", event)) == shown
