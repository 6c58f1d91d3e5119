"""Time, energy and memory, as the system tells them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

RAPL = Path("/sys/class/powercap")
KIB = 1024


@dataclass(frozen=True)
class Spent:
    """What something took; `joules` is None where the driver does not tell."""

    seconds: float
    joules: float | None


class Stopwatch:
    """Runs from its making."""

    def __init__(self) -> None:
        self._joules, self._began = joules(), time.perf_counter()

    def stop(self) -> Spent:
        """Since the making."""
        seconds, now = time.perf_counter() - self._began, joules()
        if now is None or self._joules is None or now < self._joules:  # the counter began anew
            return Spent(seconds, None)
        return Spent(seconds, now - self._joules)


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident; its workers are not in it."""
    return _field(Path(f"/proc/{pid}/status"), "VmHWM")


def resident_bytes(pid: int) -> int:
    """The memory that a process has resident now."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS")


def anonymous_bytes(pid: int) -> int:
    """Memory of a process and its children that no file backs; a shared page counts once."""
    fields = ("Pss_Anon", "Pss_Shmem")
    rollups = [Path(f"/proc/{each}/smaps_rollup") for each in (pid, *_children(pid))]
    return sum(_field(rollup, field) for rollup in rollups for field in fields)


def joules(folder: Path = RAPL) -> float | None:
    """Used by the processors since the system's start; None where the driver does not tell."""
    counters = sorted(folder.glob("intel-rapl:*/energy_uj"))  # AMD's have the same name
    packages = [path for path in counters if re.fullmatch(r"intel-rapl:\d+", path.parent.name)]
    try:
        return sum(int(path.read_text()) for path in packages) / 1e6 if packages else None
    except OSError:
        return None  # some systems let only root read it


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for task in tasks for child in task.read_text().split()]
    return direct + [below for child in direct for below in _children(child)]


def _field(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found.group(1)) * KIB if found else 0
