"""Every query of the stream and of the server, on aiosqlite."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from engine.records import log, queries
from engine.records.database import (
    LAST_RUN_ID,
    Row,
    claim_run,
    marks,
    now,
    numbered,
    update_run,
)
from engine.records.datasets import Datasets
from engine.records.figures import figures_so_far
from engine.records.liveness import this_host
from engine.records.queries import Choice


class Store(Datasets):
    """Runs, their events and metrics, and data sets."""

    # runs

    async def create_run(self, **fields: Any) -> int:
        """A new run; its id, a number under which no other run has files. Within `transaction`."""
        async with self._db.execute(LAST_RUN_ID) as found:
            row = await found.fetchone()
        assert row is not None
        numbering = numbered(fields, row[0])  # it makes files: not on the loop's thread
        statement, values = await asyncio.to_thread(numbering.__enter__)
        try:
            cursor = await self._db.execute(statement, values)
        except BaseException as error:
            await asyncio.to_thread(numbering.__exit__, type(error), error, None)
            raise
        numbering.__exit__(None, None, None)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    async def update_run(self, run_id: int, **fields: Any) -> None:
        """Set columns of a run."""
        statement, values = update_run(run_id, fields)
        await self._db.execute(statement, values)

    async def claim_run(
        self, run_id: int, pid: int, pid_started_at: float | None, states: tuple[str, ...]
    ) -> bool:
        """Take a run for a worker, if it is in one of `states`; only one of many succeeds."""
        async with self.transaction():  # never inside, and undone with, another request's
            cursor = await self._db.execute(*claim_run(run_id, pid, pid_started_at, states))
        return cursor.rowcount == 1

    async def beat(self, run_id: int, pid: int) -> None:
        """A sign of life of the process that has the run, if it still has it.

        A run that was taken for dead meanwhile (its heartbeats could not be written) lives again.
        """
        own = "run_id = ? AND (pid IS NULL OR (pid = ? AND host = ?))"
        values = (run_id, pid, this_host())
        await self._db.execute(f"UPDATE run SET heartbeat_at = ? WHERE {own}", (now(), *values))
        await self._db.execute(
            "UPDATE run SET status = 'in_progress', completed_at = NULL, error = NULL "
            f"WHERE status = 'interrupted' AND pid IS NOT NULL AND {own}",
            values,
        )

    async def run_uid(self, run_id: int) -> str | None:
        """What identifies the run beyond this database; None where there is no such run."""
        found = await self.rows("SELECT run_uid FROM run WHERE run_id = ?", (run_id,))
        return found[0]["run_uid"] if found else None

    async def get_run(self, run_id: int) -> Row | None:
        """One run, whole; None where there is none."""
        found = await self.rows("SELECT * FROM run WHERE run_id = ?", (run_id,))
        return found[0] if found else None

    async def get_runs(self, run_ids: Sequence[int]) -> list[Row]:
        """Several runs, whole, in the order of their ids."""
        return await self.rows(
            f"SELECT * FROM run WHERE run_id IN ({marks(run_ids)}) ORDER BY run_id", tuple(run_ids)
        )

    async def list_runs(
        self,
        statuses: Sequence[str] = (),
        name: str = "",
        limit: int = 50,
        before: int | None = None,
    ) -> list[Row]:
        """The newest first, without config and manifest, each with the figures of its best epoch.

        A run without a best epoch yet has the figures of its last one. `name` is part of the run's
        name; `before` is the last run_id seen.
        """
        return await self.find_runs(Choice(statuses, name, limit=limit, before=before))

    async def find_runs(self, choice: Choice, keys: Sequence[str] = ()) -> list[Row]:
        """A page of a choice's runs as in `list_runs`, with `keys` of their settings besides."""
        ids = [row["run_id"] for row in await self.rows(*queries.chosen_ids(choice))]
        found = await self.rows(*queries.runs_with_figures(ids, keys)) if ids else []
        by_id = {row["run_id"]: row for row in found}
        return [by_id[run_id] for run_id in ids if run_id in by_id]  # one may just be deleted

    async def count_chosen(self, choice: Choice) -> int:
        """How many runs a choice has in all."""
        return int((await self.rows(*queries.count_chosen(choice)))[0]["n"])

    async def run_groups(self, choice: Choice) -> list[Row]:
        """Completed runs that differ in their seeds alone, with mean and spread of figures."""
        return await self.rows(*queries.groups(choice))

    async def progress(self, run_ids: Sequence[int]) -> dict[int, Row]:
        """The latest progress event of each of these runs that has one."""
        rows = await self.rows(
            "SELECT * FROM event WHERE event = 'training_progress' "
            f"AND run_id IN ({marks(run_ids)})",
            tuple(run_ids),
        )
        return {row["run_id"]: row for row in rows}

    async def live_runs(self) -> list[Row]:
        """Runs that a process has, or had until it died: `liveness.is_running` says which."""
        return await self.rows(
            "SELECT run_id, status, pid, pid_started_at, host, heartbeat_at FROM run "
            "WHERE status IN ('preparing', 'in_progress') ORDER BY run_id"
        )

    async def queued_runs(self) -> list[int]:
        """Their ids, the first to start first."""
        rows = await self.rows("SELECT run_id FROM run WHERE status = 'queued' ORDER BY run_id")
        return [row["run_id"] for row in rows]

    async def completed_with(self, dataset_path: str, limit: int = 20) -> list[Row]:
        """The latest completed runs on a data set, whole."""
        return await self.rows(
            "SELECT * FROM run WHERE status = 'completed' AND dataset_path = ? "
            "ORDER BY run_id DESC LIMIT ?",
            (dataset_path, limit),
        )

    async def end_run(
        self,
        run_id: int,
        states: Sequence[str],
        status: str,
        event: str,
        payload: Mapping[str, Any],
        error: str | None = None,
        pid: int | None = None,
    ) -> bool:
        """End a run that no worker will end, if it is in one of `states`, and log why.

        With `pid`, only where the run is still that process's. Epochs and time are those of its
        metric rows.
        """
        async with self.transaction():
            cursor = await self._db.execute(
                f"UPDATE run SET status = ?, completed_at = ?, error = ?, {log.FROM_ROWS} "
                f"WHERE run_id = ? AND (? IS NULL OR pid = ?) AND status IN ({marks(states)})",
                (status, now(), error, run_id, pid, pid, *states),
            )
            if cursor.rowcount == 1:
                await self.add_event(run_id, now(), event, payload)
        return cursor.rowcount == 1

    async def outcome(self, run_id: int) -> Row:
        """What a run's rows say of it: the fields of `TrainingStopped` without the reason."""
        run = await self.get_run(run_id) or {}
        epochs = await self.metrics(run_id)
        return figures_so_far(epochs, run.get("best_epoch"), run.get("best_model_path"))

    async def count_runs(self) -> dict[str, int]:
        """Runs by status."""
        rows = await self.rows("SELECT status, count(*) AS n FROM run GROUP BY status")
        return {row["status"]: row["n"] for row in rows}

    async def requeue_run(self, run_id: int, states: Sequence[str]) -> bool:
        """Put an ended run back into the queue, if it is in one of `states`."""
        cursor = await self._db.execute(
            "UPDATE run SET status = 'queued', completed_at = NULL, error = NULL, pid = NULL, "
            f"pid_started_at = NULL, host = NULL WHERE run_id = ? AND status IN ({marks(states)})",
            (run_id, *states),
        )
        return cursor.rowcount == 1

    async def delete_run(self, run_id: int, states: Sequence[str]) -> bool:
        """The run with its metrics and events, if it is in one of `states`."""
        cursor = await self._db.execute(
            f"DELETE FROM run WHERE run_id = ? AND status IN ({marks(states)})", (run_id, *states)
        )
        return cursor.rowcount == 1

    # events and metrics

    async def record(self, run_id: int, at: str, event: str, payload: Mapping[str, Any]) -> None:
        """An event with all that follows from it: log, metric rows, the state of the run."""
        async with self.transaction():
            for statement, rows in log.record(run_id, at, event, payload):
                await self._db.executemany(statement, rows)

    async def add_event(
        self, run_id: int, at: str, event: str, payload: Mapping[str, Any]
    ) -> int | None:
        """Append to the log alone; the event's id, or None for one that the log has already.

        A transient event, and one of an epoch that was trained again, replaces the run's previous
        one under a new id; ids never repeat.
        """
        before, statement, values = log.insertion(run_id, at, event, payload)
        for deletion, rows in before:
            await self._db.executemany(deletion, rows)
        cursor = await self._db.execute(statement, values)
        return cursor.lastrowid if cursor.rowcount == 1 else None

    async def metrics(self, run_id: int) -> list[Row]:
        """Every epoch's row, in order."""
        return await self.rows(
            "SELECT * FROM run_metrics WHERE run_id = ? ORDER BY epoch", (run_id,)
        )

    async def metrics_of(self, run_ids: Sequence[int]) -> dict[int, list[Row]]:
        """Every epoch's row of several runs, in order."""
        found: dict[int, list[Row]] = {run_id: [] for run_id in run_ids}
        for row in await self.rows(
            f"SELECT * FROM run_metrics WHERE run_id IN ({marks(run_ids)}) ORDER BY run_id, epoch",
            tuple(run_ids),
        ):
            found[row["run_id"]].append(row)
        return found

    async def events_after(
        self, after: int = 0, run_id: int | None = None, limit: int = 1000, event: str | None = None
    ) -> list[Row]:
        """Events with a higher id than `after`, of one run or of all, of one kind, in order."""
        chosen = "" if run_id is None else "AND run_id = ? "
        chosen += "" if event is None else "AND event = ? "
        values = (after, *(one for one in (run_id, event) if one is not None), limit)
        return await self.rows(
            f"SELECT * FROM event WHERE event_id > ? {chosen}ORDER BY event_id LIMIT ?", values
        )

    async def last_event_id(self) -> int:
        """The highest id ever given to an event; 0 before the first."""
        rows = await self.rows("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        return int(rows[0]["seq"]) if rows else 0

    async def data_version(self) -> int:
        """Changes when another connection has committed; cheaper than any query."""
        async with self._db.execute("PRAGMA data_version") as cursor:
            row = await cursor.fetchone()
        assert row is not None
        return int(row[0])
