"""Whether the process of a run still runs: by its heartbeat, and on its own machine by its pid."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.process import is_alive

HEARTBEAT_SECONDS = 5.0  # between two heartbeats of a run
SILENCE_SECONDS = 30.0  # a heartbeat older than this is no sign of life


@functools.cache
def this_host() -> str:
    """Where pids of this process mean something: host name, boot and pid namespace.

    Two containers of one machine differ, and so does a machine before and after a restart.
    """
    return "/".join((platform.node(), _boot_id(), _pid_namespace()))


def host_name(host: str | None) -> str:
    """The host's name alone, for people."""
    return (host or "an unknown host").partition("/")[0]


def is_running(run: Mapping[str, Any]) -> bool:
    """Whether a process has the run; `run` has pid, pid_started_at, host and heartbeat_at.

    On the same host and in the same pid namespace the pid decides at once. From elsewhere, a
    container or another machine, only the heartbeat is visible.
    """
    if run["host"] == this_host():
        return is_alive(run["pid"], run["pid_started_at"])
    if run["host"] is None and is_alive(run["pid"], run["pid_started_at"]):
        return True  # of a version that recorded no host
    return heartbeat_age(run) < SILENCE_SECONDS


def heartbeat_age(run: Mapping[str, Any]) -> float:
    """Seconds since the run's last heartbeat; infinite where there is none that can be read."""
    try:
        at = datetime.fromisoformat(run["heartbeat_at"])
        return (datetime.now(UTC) - at).total_seconds()
    except (TypeError, ValueError):
        return float("inf")


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "-"  # not Linux: a pid's start time differs after a restart


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "-"
