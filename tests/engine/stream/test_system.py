"""The machine's figures: plausible, those of child processes too, and unknown where unknown."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.stream import system
from engine.stream.events import Event, SystemMetrics
from engine.stream.system import SystemSampler, cpu_percent, disk_free, gpu_figures, memory_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def hold(mebibytes: int, ready: threading.Event, end: threading.Event) -> None:
    content = bytearray(mebibytes * 2**20)
    content[::4096] = b"x" * len(content[::4096])
    ready.set()
    end.wait(60)


@linux
def test_it_emits_plausible_figures_until_its_end(tmp_path: Path) -> None:
    emitted: list[Event] = []
    with SystemSampler(emitted.append, tmp_path / "later" / "a", seconds=0.05):
        deadline = time.monotonic() + 60
        while len(emitted) < 3 and time.monotonic() < deadline:
            sum(range(10_000))
    after = len(emitted)
    figures = emitted[-1]
    assert isinstance(figures, SystemMetrics)
    assert figures.memory_bytes is not None
    assert figures.disk_free_bytes is not None
    assert figures.memory_bytes > 10 * 2**20
    assert figures.disk_free_bytes > 0
    assert all(0 <= (getattr(e, "cpu_percent", 0.0) or 0.0) <= 100 for e in emitted)
    assert (figures.gpu_percent, figures.gpu_memory_bytes, figures.gpu_watts) == (None, None, None)
    time.sleep(0.1)
    assert len(emitted) == after


@linux
def test_memory_of_child_processes_counts() -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    before = memory_bytes()
    child = context.Process(target=hold, args=(100, ready, end))
    child.start()
    try:
        assert ready.wait(60)
        with_child = memory_bytes()
    finally:
        end.set()
        child.join()
    assert before is not None
    assert with_child is not None
    assert with_child - before > 90 * 2**20


def test_cpu_is_the_share_of_busy_ticks() -> None:
    assert cpu_percent((100, 1000), (150, 1100)) == 50.0
    assert cpu_percent((100, 1000), (100, 1000)) is None
    assert cpu_percent(None, (1, 2)) is None


def test_what_the_system_does_not_say_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "PROC", tmp_path / "absent")  # as on macOS
    assert memory_bytes() is None
    assert system.cpu_times() is None
    assert gpu_figures(0) == (None, None, None)
    assert disk_free(tmp_path / "a" / "b") is not None
