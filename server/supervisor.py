"""From the queue to worker processes: start, adopt, cancel, and tell of those that died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config
from engine.process import is_alive, started_at
from engine.records.store import Store
from engine.stream.events import TrainingFailed, TrainingStopped
from server.settings import TOKEN_VARIABLE, Settings

TICK_SECONDS = 0.5
LIVE = ("preparing", "in_progress")
ENDED = ("completed", "stopped", "failed", "interrupted")
RESUMABLE = ("interrupted", "stopped", "failed")
SLOT_VARIABLE = "PNEUMOSCOPE_SLOT"
OUTPUT_LINES, OUTPUT_BYTES = 12, 4000  # of a dead worker's last words

log = logging.getLogger("pneumoscope")


@dataclass
class Worker:
    """A living run's process; `process` is None where another has started it."""

    pid: int
    started: float | None
    slot: int
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Cancel:
    """A run that was told to stop: when it is killed, and whether it was."""

    deadline: float
    killed: bool = False


class Supervisor:
    """One worker a slot. What it knows of workers can be had again from the database."""

    def __init__(self, store: Store, settings: Settings, slots: list[str] | None = None) -> None:
        """`store` is for writing; `slots` are GPU numbers, or one empty name on a CPU."""
        self._store, self._settings = store, settings
        self._slots = slots if slots is not None else find_slots()
        self._workers: dict[int, Worker] = {}
        self._cancels: dict[int, Cancel] = {}
        self._turn = asyncio.Lock()  # two looks at the queue would start a run twice

    async def adopt(self) -> None:
        """At the start: living workers go on, runs whose worker died meanwhile are interrupted."""
        for run in await self._store.live_runs():
            if is_alive(run["pid"], run["pid_started_at"]):
                self._take(run)
                log.info("run %d goes on in process %d", run["run_id"], run["pid"])
            else:
                await self._interrupted(run["run_id"])

    async def run(self) -> None:
        """Look after the workers for ever."""
        while True:
            try:
                await self.look()
            except (sqlite3.Error, OSError):  # a disk in trouble, for a while
                log.exception("the workers cannot be looked after")
            await asyncio.sleep(TICK_SECONDS)

    async def look(self) -> None:
        """Bury the dead, press the cancelled, take note of others' runs, fill the free slots."""
        async with self._turn:
            await self._follow()
            await self._press()
            await self._fill()

    def is_running(self, run_id: int) -> bool:
        """Whether a process has the run."""
        return run_id in self._workers

    def free_slots(self) -> int:
        """How many more runs could be started now."""
        return len(self._slots) - len({w.slot for w in self._workers.values()})

    async def cancel(self, run_id: int) -> bool:
        """Stop a queued or a living run; whether there was something to stop."""
        async with self._turn:
            reason = "cancelled before it began"
            if await self._end(run_id, ("queued",), "stopped", stopped(reason)):
                return True
            await self._follow()
            worker, row = self._workers.get(run_id), await self._store.get_run(run_id)
            if worker is None or row is None or row["status"] not in LIVE:
                return False  # ended, even where its process is still about to
            if run_id not in self._cancels:  # a second SIGTERM would end it at once
                grace = self._settings.cancel_grace
                self._cancels[run_id] = Cancel(time.monotonic() + grace)
                _signal(worker, signal.SIGTERM)
            return True

    async def _follow(self) -> None:
        """Bring `_workers` up to what lives, and end what no longer does."""
        for run in await self._store.live_runs():  # started from a command line, say
            if run["run_id"] not in self._workers:
                if is_alive(run["pid"], run["pid_started_at"]):
                    self._take(run)
                else:
                    await self._interrupted(run["run_id"])
        for run_id, worker in list(self._workers.items()):
            code = None
            if worker.process is not None:
                # Of one's own child only this tells: while its threads end it looks dead already.
                code = worker.process.poll()
                gone = code is not None
            else:
                gone = not is_alive(worker.pid, worker.started)
            if gone:
                await self._bury(run_id, worker, code)
                del self._workers[run_id]
                self._cancels.pop(run_id, None)

    async def _bury(self, run_id: int, worker: Worker, code: int | None) -> None:
        """A worker is gone. One that ended well has said so itself; for others it is said here."""
        event: TrainingStopped | TrainingFailed
        cancel, error = self._cancels.get(run_id), None
        if cancel is not None:
            grace = self._settings.cancel_grace
            event = stopped(
                f"cancelled; killed after {grace:g} s" if cancel.killed else "cancelled"
            )
        else:
            output = last_output(self._console(run_id))
            error = how_it_ended(code) + (f"; its last output:\n{output}" if output else "")
            event = TrainingFailed(error, "resume goes on from the last checkpoint")
        status = "failed" if error else "stopped"
        if await self._end(run_id, LIVE, status, event, error, worker.pid):
            log.warning("run %d %s: %s", run_id, status, how_it_ended(code))

    async def _press(self) -> None:
        """Kill what was cancelled and did not end in its grace time."""
        for run_id, cancel in self._cancels.items():
            worker = self._workers.get(run_id)
            if worker is not None and time.monotonic() > cancel.deadline:
                cancel.killed = True
                _signal(worker, signal.SIGKILL)

    async def _fill(self) -> None:
        """Start queued runs in the free slots, the oldest first."""
        if not self.free_slots():
            return
        for run_id in await self._store.queued_runs():
            if run_id in self._workers:
                continue  # started, and not yet said so
            taken = {worker.slot for worker in self._workers.values()}
            free = [slot for slot in range(len(self._slots)) if slot not in taken]
            if not free:
                return
            await self._start(run_id, free[0])

    async def _start(self, run_id: int, slot: int) -> None:
        row = await self._store.get_run(run_id)
        assert row is not None
        checkpoints = checkpoint_folder(row)
        resumes = any((checkpoints / name).exists() for name in ("last.pt", "previous.pt"))
        command = [sys.executable, "-m", "engine.train"]
        command += ["--resume" if resumes else "--run-id", str(run_id)]
        try:
            process = self._spawn(command, self._console(run_id), slot)
        except OSError as error:
            message = f"the worker could not be started ({error.strerror})"
            failed = TrainingFailed(message, hint=None)
            await self._end(run_id, ("queued",), "failed", failed, message)
            return
        started = started_at(process.pid)
        # One that is gone already is buried at the next look.
        await self._store.claim_run(run_id, process.pid, started, ("queued",))
        self._workers[run_id] = Worker(process.pid, started, slot, process)
        log.info("run %d started in process %d", run_id, process.pid)

    def _spawn(self, command: list[str], console: Path, slot: int) -> subprocess.Popen[bytes]:
        """In a session of its own: neither the server's end nor its Ctrl-C reaches it."""
        database = str(self._settings.database.resolve())
        environment = {
            **{key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE},
            "PNEUMOSCOPE__output__database": database,
            SLOT_VARIABLE: str(slot),
            "PYTHONUNBUFFERED": "1",
        }
        if self._slots[slot]:
            environment["CUDA_VISIBLE_DEVICES"] = self._slots[slot]
        console.parent.mkdir(parents=True, exist_ok=True)
        with console.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )

    def _take(self, run: dict[str, Any]) -> None:
        """Look after a worker that another has started; it has a slot like every other."""
        slot = slot_of(run["pid"])
        if slot is None or slot >= len(self._slots):
            taken = {worker.slot for worker in self._workers.values()}
            slot = min(set(range(len(self._slots))) - taken, default=0)
        self._workers[run["run_id"]] = Worker(run["pid"], run["pid_started_at"], slot)

    async def _interrupted(self, run_id: int) -> None:
        error = "its worker is gone (a crash, a restart of the machine); it can be resumed"
        payload = {"code": "interrupted", "message": error}
        if await self._store.end_run(run_id, LIVE, "interrupted", "warning", payload, error):
            log.warning("run %d was interrupted", run_id)

    async def _end(
        self,
        run_id: int,
        states: tuple[str, ...],
        status: str,
        event: TrainingStopped | TrainingFailed,
        error: str | None = None,
        pid: int | None = None,
    ) -> bool:
        payload = event.payload()
        return await self._store.end_run(run_id, states, status, event.name, payload, error, pid)

    def _console(self, run_id: int) -> Path:
        return console_path(self._settings.config, run_id)


def console_path(config: Config, run_id: int) -> Path:
    """Where a worker's stdout and stderr go."""
    return Path(config.output.log_dir) / f"run_{run_id}.console.log"


def checkpoint_folder(row: dict[str, Any]) -> Path:
    """Where a stored run keeps its checkpoints."""
    return Path(row["config"]["output"]["checkpoint_dir"]) / f"run_{row['run_id']}"


def stopped(reason: str) -> TrainingStopped:
    """The end of a run that could not tell it itself."""
    figures = ("accuracy", "precision", "recall", "f1", "auroc", "specificity")
    return TrainingStopped(
        metrics={f"best_{name}": None for name in figures},
        best_epoch=None,
        total_epochs_run=0,
        training_time=0.0,
        early_stopped=False,
        best_model_path=None,
        reason=reason,
    )


def how_it_ended(code: int | None) -> str:
    """An exit code in words; None where it is not known."""
    if code is None:
        return "the worker ended without a word"
    if code >= 0:
        return f"the worker ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    cause = " (out of memory, perhaps)" if -code == signal.SIGKILL else ""
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


def find_slots() -> list[str]:
    """A slot for each GPU, by its number; one nameless slot where there is none."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return [""]
    return found.stdout.split() or [""]


def slot_of(pid: int) -> int | None:
    """The slot that a process was started in; None where it was not started by a server."""
    with contextlib.suppress(OSError, ValueError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == SLOT_VARIABLE.encode():
                return int(value)
    return None


def _signal(worker: Worker, number: signal.Signals) -> None:
    """To that very process, and SIGKILL to its data-loader workers too."""
    if not is_alive(worker.pid, worker.started):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if number == signal.SIGKILL and os.getpgid(worker.pid) == worker.pid:
            os.killpg(worker.pid, number)
        else:
            os.kill(worker.pid, number)
