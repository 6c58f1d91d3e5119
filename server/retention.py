"""Old runs are deleted, where the server was told to: --keep-days, --keep-best."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.records.queries import Choice
from engine.records.store import Store
from server.artifacts import delete_files
from server.background import Faults
from server.settings import Settings
from server.supervisor import ENDED

LOOK_SECONDS = 3600.0
KEEP_TAG = "keep"
MOST = 1_000_000  # runs of a database

log = logging.getLogger("pneumoscope")


class Retention:
    """Deletes ended runs that are old, but never the best of a data set or one tagged `keep`."""

    def __init__(self, store: Store, settings: Settings) -> None:
        """`store` is for writing."""
        self.faults = Faults("retention")
        self._store, self._settings = store, settings

    async def run(self) -> None:
        """Look once an hour until cancelled."""
        while True:
            with self.faults.noted("old runs cannot be deleted"):
                await self.look()
            self.faults.end_round()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, now: datetime | None = None) -> list[int]:
        """Delete what is due; the ids of the deleted runs."""
        days = self._settings.keep_days
        if days is None:
            return []
        limit = (now or datetime.now(UTC)) - timedelta(days=days)
        rows = await self._store.find_runs(Choice(ENDED, limit=MOST))
        best = best_of_each(rows, self._settings.keep_best)
        deleted = []
        for row in rows:
            if row["run_id"] not in best and KEEP_TAG not in (row["tags"] or ()) and _ended(
                row
            ) < limit:  # fmt: skip
                await self._delete(row["run_id"])
                deleted.append(row["run_id"])
        return deleted

    async def _delete(self, run_id: int) -> None:
        row = await self._store.get_run(run_id)
        async with self._store.transaction():
            deleted = row is not None and await self._store.delete_run(run_id, ENDED)
        if deleted and row is not None:
            await asyncio.to_thread(delete_files, row, self._settings.config)
            log.warning("run %d (%s) was deleted: it is past --keep-days", run_id, row["run_name"])


def best_of_each(rows: list[dict[str, Any]], count: int) -> set[int]:
    """Of each data set the `count` runs with the highest AUROC."""
    by_dataset: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        if row["val_auroc"] is not None:
            by_dataset.setdefault(row["dataset_path"], []).append(row)
    return {
        row["run_id"]
        for group in by_dataset.values()
        for row in sorted(group, key=lambda row: -row["val_auroc"])[:count]
    }


def _ended(row: dict[str, Any]) -> datetime:
    """When a run ended; the present where its row does not say."""
    try:
        at = datetime.fromisoformat(row["completed_at"] or row["created_at"])
    except (TypeError, ValueError):
        return datetime.now(UTC)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
