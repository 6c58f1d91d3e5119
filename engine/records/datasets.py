"""The queries of the uploaded data sets, on aiosqlite."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.records.connection import Connection
from engine.records.database import Row, marks, now


class Datasets(Connection):
    """Named data sets with their reports."""

    async def put_dataset(self, name: str, path: str, fingerprint: str | None, report: Row) -> int:
        """A named data set; a second upload of the name replaces the first."""
        await self._db.execute(
            "INSERT INTO dataset (name, path, fingerprint, report, created_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET path = excluded.path, "
            "fingerprint = excluded.fingerprint, report = excluded.report, "
            "created_at = excluded.created_at",
            (name, path, fingerprint, json.dumps(report), now()),
        )
        found = await self.get_dataset(name)
        assert found is not None
        return int(found["dataset_id"])

    async def get_dataset(self, name: str) -> Row | None:
        """One data set with its report; None where there is none."""
        found = await self.rows("SELECT * FROM dataset WHERE name = ?", (name,))
        return found[0] if found else None

    async def dataset_is_used(self, path: str) -> bool:
        """Whether a run was given this file."""
        return bool(await self.rows("SELECT 1 FROM run WHERE dataset_path = ? LIMIT 1", (path,)))

    async def run_of_dataset(self, path: str, statuses: Sequence[str]) -> int | None:
        """A run in one of `statuses` that was given this file; None where there is none."""
        rows = await self.rows(
            "SELECT run_id FROM run WHERE dataset_path = ? "
            f"AND status IN ({marks(statuses)}) ORDER BY run_id LIMIT 1",
            (path, *statuses),
        )
        return rows[0]["run_id"] if rows else None

    async def delete_dataset(self, name: str) -> None:
        """Forget a data set; its file is the caller's to delete."""
        await self._db.execute("DELETE FROM dataset WHERE name = ?", (name,))

    async def list_datasets(self) -> list[Row]:
        """Every data set with its report, the newest first."""
        return await self.rows("SELECT * FROM dataset ORDER BY dataset_id DESC")
