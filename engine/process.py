"""Whether a process still runs, by its pid and its start; lines on stderr that cannot fail."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from engine.files import visible

ZOMBIE_STATES = ("Z", "X")


def started_at(pid: int) -> float | None:
    """A number that stays the same as long as the process runs; None where there is none.

    On Linux the start in clock ticks after boot; elsewhere a hash of what `ps` says.
    """
    if Path("/proc/self/stat").exists():
        fields = _stat(pid)
        if fields is None or fields[0] in ZOMBIE_STATES:
            return None
        return float(fields[19])
    found = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    text = found.stdout.strip()
    if not text or text.startswith(ZOMBIE_STATES):
        return None
    return float(int.from_bytes(text.split(maxsplit=1)[1].encode(), "big") % 2**52)


def is_alive(pid: int | None, started: float | None) -> bool:
    """Whether that very process runs; a zombie does not."""
    return pid is not None and started is not None and started_at(pid) == started


def say(text: str) -> None:
    """A line on stderr, where there is one; never raises: it may be closed or a broken pipe."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(visible(text), file=sys.stderr, flush=True)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before it may hold any character."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()
