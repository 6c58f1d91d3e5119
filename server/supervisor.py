"""The queue: which run starts when, what happens to cancelled ones and to exited workers."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config
from engine.process import is_alive
from engine.records import spool
from engine.records.database import LIVE
from engine.records.identity import has_snapshot
from engine.records.liveness import is_running, this_host
from engine.records.store import Store
from engine.stream.events import TrainingFailed, TrainingInterrupted, TrainingStopped
from server import launcher
from server.background import Faults
from server.launcher import Worker, how_it_ended
from server.settings import Settings

TICK_SECONDS = 0.5
ENDED = ("completed", "stopped", "failed", "interrupted")
RESUMABLE = ("interrupted", "stopped", "failed")

log = logging.getLogger("pneumoscope")


@dataclass
class Cancel:
    """A run that was told to stop: when it is killed, and whether it was."""

    deadline: float
    killed: bool = False


class Supervisor:
    """One worker a slot. All that it knows of workers can be read from the database again."""

    def __init__(self, store: Store, settings: Settings, slots: list[str] | None = None) -> None:
        """`store` is for writing; `slots` name GPUs, or one empty name on a CPU."""
        self.faults = Faults("supervisor")
        self._store, self._settings = store, settings
        self._slots = slots if slots is not None else launcher.find_slots()
        self._workers: dict[int, Worker] = {}
        self._cancels: dict[int, Cancel] = {}
        self._turn = asyncio.Lock()  # two looks at once would start a run twice

    async def run(self) -> None:
        """Look after the workers until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(TICK_SECONDS)

    async def look(self) -> None:
        """Reap exited workers, kill cancelled ones past their grace period, fill free slots.

        What fails is noted in `faults` and tried again at the next look; it hinders nothing else.
        """
        async with self._turn:
            for step in (self._sync, self._kill_overdue, self._fill):
                with self.faults.noted(step.__name__.strip("_")):
                    await step()
            self.faults.end_round()

    def is_running(self, run_id: int) -> bool:
        """Whether a process has the run."""
        return run_id in self._workers

    def slots(self) -> int:
        """How many runs can train at once."""
        return len(self._slots)

    def free_slots(self) -> int:
        """How many more runs could be started now."""
        return len(self._slots) - len({w.slot for w in self._workers.values()})

    async def cancel(self, run_id: int) -> bool:
        """Stop a queued or a live run; whether there was something to stop."""
        async with self._turn:
            reason = "cancelled before it began"
            event = await self._stopped(run_id, reason)
            if await self._end(run_id, ("queued",), "stopped", event):
                started = self._workers.get(run_id)
                if started is not None and not started.claimed:  # its claim could not be written
                    self._terminate(run_id, started)
                return True
            await self._sync()
            worker, row = self._workers.get(run_id), await self._store.get_run(run_id)
            if worker is None or row is None or row["status"] not in LIVE:
                return False  # ended, even where its process is still about to
            self._terminate(run_id, worker)
            return True

    def _terminate(self, run_id: int, worker: Worker) -> None:
        """Send SIGTERM, once: a second one would end the worker without saving."""
        if run_id not in self._cancels:
            self._cancels[run_id] = Cancel(time.monotonic() + self._settings.cancel_grace)
            worker.send(signal.SIGTERM)

    async def _sync(self) -> None:
        """Bring `_workers` up to what the database and the processes say."""
        for run in await self._store.live_runs():
            if run["run_id"] not in self._workers:  # started from a command line, say
                with self.faults.noted(f"run {run['run_id']}"):
                    await self._adopt(run)
        for run_id, worker in list(self._workers.items()):
            with self.faults.noted(f"run {run_id}"):
                await self._check(run_id, worker)

    async def _adopt(self, run: dict[str, Any]) -> None:
        """Look after a run that this server did not start; interrupted where its worker is gone.

        One that lives on another host or in another container is left alone: it takes no slot of
        this machine, and no signal reaches it.
        """
        run_id, pid, started = run["run_id"], run["pid"], run["pid_started_at"]
        if run["host"] in (None, this_host()) and is_alive(pid, started):
            taken = {worker.slot for worker in self._workers.values()}
            self._workers[run_id] = launcher.adopt(pid, started, self._slots, taken)
            log.info("run %d continues in process %d", run_id, pid)
        elif not is_running(run):
            await self._recover(run_id)
            error = "its worker is gone (a crash, a restart of the machine); it can be resumed"
            if await self._end(run_id, LIVE, "interrupted", TrainingInterrupted(error), error):
                log.warning("run %d was interrupted", run_id)

    async def _check(self, run_id: int, worker: Worker) -> None:
        if not worker.claimed:
            # One that is gone already is reaped below.
            await self._store.claim_run(run_id, worker.pid, worker.started, ("queued",))
            worker.claimed = True
        if worker.is_gone():
            await self._reap(run_id, worker)
            del self._workers[run_id]
            self._cancels.pop(run_id, None)

    async def _reap(self, run_id: int, worker: Worker) -> None:
        """A worker is gone. One that ended well has recorded it; for others it is done here."""
        event: TrainingStopped | TrainingFailed
        await self._recover(run_id)
        cancel, error, code = self._cancels.get(run_id), None, worker.exit_code()
        if cancel is not None:
            grace = self._settings.cancel_grace
            reason = f"cancelled; killed after {grace:g} s" if cancel.killed else "cancelled"
            event = await self._stopped(run_id, reason)
        else:
            output = launcher.last_output(self._console(run_id))
            error = how_it_ended(code) + (f"; its last output:\n{output}" if output else "")
            event = TrainingFailed(error, "resume continues from the last checkpoint")
        status = "failed" if error else "stopped"
        if await self._end(run_id, LIVE, status, event, error, worker.pid):
            log.warning("run %d %s: %s", run_id, status, how_it_ended(code))

    async def _recover(self, run_id: int) -> None:
        """Record what a worker could not write into the database before it ended."""
        row = await self._store.get_run(run_id)
        if row is not None:
            results = Path(self._output(row)["results_dir"])
            await asyncio.to_thread(spool.replay, self._settings.database, results)

    async def _stopped(self, run_id: int, reason: str) -> TrainingStopped:
        """The end of a run that could not record it itself, with the figures of its epochs."""
        return TrainingStopped(**await self._store.outcome(run_id), reason=reason)

    async def _kill_overdue(self) -> None:
        """Kill what was cancelled and did not end in its grace time."""
        for run_id, cancel in self._cancels.items():
            worker = self._workers.get(run_id)
            if worker is not None and time.monotonic() > cancel.deadline:
                cancel.killed = True
                worker.send(signal.SIGKILL)

    async def _fill(self) -> None:
        """Start queued runs in the free slots, the oldest first."""
        if not self.free_slots():
            return
        for run_id in await self._store.queued_runs():
            if run_id in self._workers:
                continue  # its earlier process is still ending
            taken = {worker.slot for worker in self._workers.values()}
            free = [slot for slot in range(len(self._slots)) if slot not in taken]
            if not free:
                return
            with self.faults.noted(f"run {run_id}"):
                await self._start(run_id, free[0])

    async def _start(self, run_id: int, slot: int) -> None:
        row = await self._store.get_run(run_id)
        if row is None:
            return  # deleted meanwhile
        # By the run itself: its number may also be that of another database's run.
        begun = row["started_at"] is not None or has_snapshot(self._output(row), run_id)
        option = "--resume" if begun else "--run-id"
        console, database = self._console(run_id), self._settings.database
        try:
            worker = launcher.start((option, str(run_id)), console, database, self._slots, slot)
        except OSError as error:
            message = f"the worker could not be started ({error.strerror})"
            failed = TrainingFailed(message, hint=None)
            await self._end(run_id, ("queued",), "failed", failed, message)
            return
        self._workers[run_id] = worker  # before anything can fail: it must not start twice
        log.info("run %d started in process %d", run_id, worker.pid)
        await self._check(run_id, worker)

    async def _end(
        self,
        run_id: int,
        states: tuple[str, ...],
        status: str,
        event: TrainingStopped | TrainingFailed | TrainingInterrupted,
        error: str | None = None,
        pid: int | None = None,
    ) -> bool:
        payload = event.payload()
        return await self._store.end_run(run_id, states, status, event.name, payload, error, pid)

    def _output(self, row: dict[str, Any]) -> dict[str, Any]:
        return output_of(row, self._settings.config)

    def _console(self, run_id: int) -> Path:
        return Path(self._settings.config.output.log_dir) / f"run_{run_id}.console.log"


def output_of(row: dict[str, Any], config: Config) -> dict[str, Any]:
    """The `output` section that a run was stored with; the server's own where it has none."""
    stored = row["config"].get("output") if isinstance(row["config"], dict) else None
    ours = config.to_dict()["output"]
    return ours | stored if isinstance(stored, dict) else ours
