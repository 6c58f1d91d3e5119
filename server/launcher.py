"""Worker processes: the slots they occupy, how they are started, signalled and found gone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.process import is_alive, started_at
from server.settings import NOTIFY_VARIABLE, READ_VARIABLE, TOKEN_VARIABLE

SLOT_VARIABLE = "PNEUMOSCOPE_SLOT"
SECRETS = (TOKEN_VARIABLE, READ_VARIABLE, NOTIFY_VARIABLE)  # not for the workers
OUTPUT_LINES, OUTPUT_BYTES = 12, 4000  # of a dead worker's last output
QUERY_GPUS = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
QUERY_SECONDS = 20


@dataclass
class Worker:
    """A live run's process; `process` is None where another has started it."""

    pid: int
    started: float | None
    slot: int
    process: subprocess.Popen[bytes] | None = None
    claimed: bool = True  # the run's row names this process

    def exit_code(self) -> int | None:
        """The exit code of an exited child; None while it runs or where it is not our child."""
        return self.process.poll() if self.process is not None else None

    def is_gone(self) -> bool:
        """Whether the process has ended."""
        if self.process is not None:
            # Of a child only this is certain: while its threads end it looks like a zombie.
            return self.process.poll() is not None
        return not is_alive(self.pid, self.started)

    def send(self, number: signal.Signals) -> None:
        """To that very process, and SIGKILL to its data-loader workers too."""
        if not is_alive(self.pid, self.started):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


def start(
    arguments: Iterable[str], console: Path, database: Path, slots: list[str], slot: int
) -> Worker:
    """`python -m engine.train ARGUMENTS` in a slot, its output appended to `console`.

    It gets a session of its own: neither the server's end nor its Ctrl-C reaches it. Raises
    OSError.
    """
    environment = {
        **{key: value for key, value in os.environ.items() if key not in SECRETS},
        "PNEUMOSCOPE__output__database": str(database.absolute()),
        SLOT_VARIABLE: str(slot),
        "PYTHONUNBUFFERED": "1",
    }
    if slots[slot]:
        environment["CUDA_VISIBLE_DEVICES"] = slots[slot]
    console.parent.mkdir(parents=True, exist_ok=True)
    with console.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    return Worker(process.pid, started_at(process.pid), slot, process, claimed=False)


def adopt(pid: int, started: float | None, slots: list[str], taken: set[int]) -> Worker:
    """A worker that another process has started; it has a slot like every other."""
    slot = slot_of(pid)
    if slot is None or slot >= len(slots):
        slot = min(set(range(len(slots))) - taken, default=0)
    return Worker(pid, started, slot)


def find_slots() -> list[str]:
    """What a worker in each slot gets as CUDA_VISIBLE_DEVICES; one empty text without a GPU.

    GPUs are named by UUID, because nvidia-smi and CUDA may number them differently. Where
    CUDA_VISIBLE_DEVICES is set, its entries are the slots, as CUDA reads them: up to the first
    that names no GPU.
    """
    gpus = _gpu_uuids()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not gpus:
        return gpus or [""]
    slots: list[str] = []
    for entry in (text.strip() for text in chosen.split(",")):
        if not _names_gpu(entry, gpus):
            break
        slots.append(entry)
    return slots or [""]


def _gpu_uuids() -> list[str]:
    try:
        found = subprocess.run(
            QUERY_GPUS, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return found.stdout.split()


def _names_gpu(entry: str, gpus: list[str]) -> bool:
    if entry.isascii() and entry.isdigit():
        return int(entry) < len(gpus)
    if entry.startswith("MIG-"):
        return True  # nvidia-smi lists a partitioned GPU, not its partitions
    return bool(entry) and any(uuid.startswith(entry) for uuid in gpus)


def slot_of(pid: int) -> int | None:
    """The slot that a process was started in; None where it was not started by a server."""
    with contextlib.suppress(OSError, ValueError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == SLOT_VARIABLE.encode():
                return int(value)
    return None


def how_it_ended(code: int | None) -> str:
    """An exit code in words; None where it is not known."""
    if code is None:
        return "the worker ended, and its exit code is not known"
    if code >= 0:
        return f"the worker ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    cause = " (perhaps out of memory)" if -code == signal.SIGKILL else ""
    return f"the worker was ended by {name}{cause}"


def last_output(console: Path) -> str:
    """The last lines that a worker wrote; empty where there are none."""
    try:
        with console.open("rb") as file:
            file.seek(max(0, console.stat().st_size - OUTPUT_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return "\n".join(lines[-OUTPUT_LINES:])
