"""Memory of a process and its children, as /proc has it."""

from __future__ import annotations

import re
from pathlib import Path

KIB = 1024


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


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for task in tasks for child in task.read_text().split()]
    return direct + [below for child in direct for below in _children(child)]


def _field(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found.group(1)) * KIB if found else 0
