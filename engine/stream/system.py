"""What the machine does while a run trains: `system_metrics`, every ten seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from engine.stream.events import Event, SystemMetrics

PROC = Path("/proc")
SECONDS = 10.0


class SystemSampler:
    """Emits the figures from a thread of its own; a context manager.

    `gpu` is the run's GPU, by torch's index, once the run has one. The figures of a GPU need
    nvidia-ml-py beside torch, except for its memory.
    """

    def __init__(
        self, emit: Callable[[Event], None], folder: Path, seconds: float = SECONDS
    ) -> None:
        """`folder` is where the checkpoints are written; it need not exist yet."""
        self._emit, self._folder, self._seconds = emit, folder, seconds
        self.gpu: int | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(1.0)  # a driver may hang

    def _run(self) -> None:
        before = cpu_times()
        while not self._end.wait(self._seconds):
            now = cpu_times()
            gpu_percent, gpu_memory, gpu_watts = gpu_figures(self.gpu)
            figures = SystemMetrics(
                cpu_percent=cpu_percent(before, now),
                memory_bytes=memory_bytes(),
                gpu_percent=gpu_percent,
                gpu_memory_bytes=gpu_memory,
                gpu_watts=gpu_watts,
                disk_free_bytes=disk_free(self._folder),
            )
            before = now
            self._emit(figures)


def cpu_times() -> tuple[int, int] | None:
    """Ticks of all cores since boot: (busy, all); None where the system does not say."""
    try:
        first = (PROC / "stat").read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(word) for word in first.split()[1:9]]  # user to steal; guests are in user
    except (OSError, ValueError):
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and waiting for a disk


def cpu_percent(before: tuple[int, int] | None, now: tuple[int, int] | None) -> float | None:
    """The share of all cores that was busy between two readings, 0 to 100."""
    if before is None or now is None or now[1] <= before[1]:
        return None
    return min(100.0, max(0.0, 100.0 * (now[0] - before[0]) / (now[1] - before[1])))


def memory_bytes() -> int | None:
    """Resident memory of this process and its descendants; shared pages count in each."""
    own = _resident(os.getpid())
    if own is None:
        return None
    waiting, total = _children(os.getpid()), own
    while waiting:
        pid = waiting.pop()
        total += _resident(pid) or 0
        waiting += _children(pid)
    return total


def disk_free(folder: Path) -> int | None:
    """Bytes that this user can still write where `folder` is or will be."""
    with contextlib.suppress(OSError):
        place = folder.resolve()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free
    return None


def gpu_figures(index: int | None) -> tuple[float | None, int | None, float | None]:
    """Utilization (0 to 100), memory in use by anybody (bytes) and power (watts) of a GPU."""
    torch: Any = sys.modules.get("torch")  # never imported for this
    if index is None or torch is None or not torch.cuda.is_initialized():
        return None, None, None
    percent = memory = watts = None
    with contextlib.suppress(Exception):
        free, total = torch.cuda.mem_get_info(index)
        memory = int(total - free)
    with contextlib.suppress(Exception):  # no nvidia-ml-py, or a driver that does not say
        percent = float(torch.cuda.utilization(index))
    with contextlib.suppress(Exception):
        watts = torch.cuda.power_draw(index) / 1000
    return percent, memory, watts


def _resident(pid: int) -> int | None:
    try:
        pages = (PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None  # ended meanwhile, or not Linux
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():  # each thread has its own children
            with contextlib.suppress(OSError):
                text = (task / "children").read_text(encoding="ascii")
                found += [int(word) for word in text.split()]
    return found
