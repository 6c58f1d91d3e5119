"""A database that the first version wrote keeps everything and can be used further."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from engine.records.database import claim_run_sync, connect, create_run_sync, get_run_sync
from engine.records.store import Store

DUMP = Path(__file__).parent / "fixtures" / "schema_1.sql"  # `.iterdump` after a real run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "pneumoscope.db"
    database = sqlite3.connect(path)
    database.executescript(DUMP.read_text(encoding="utf-8"))
    # A second run and a row that is not JSON, edited by hand.
    database.execute("INSERT INTO run (run_name, created_at, status) VALUES ('b', 't', 'stopped')")
    database.execute(
        "INSERT INTO event (run_id, at, event, payload) "
        "VALUES (2, 't', 'training_metrics_update', '{half')"
    )
    database.commit()
    database.close()
    return path


def test_runs_events_and_rows_are_kept(path: Path) -> None:
    async def use() -> None:
        async with await Store.open(path) as store:
            first, second = await store.get_run(1), await store.get_run(2)
            assert first is not None
            assert second is not None
            assert (first["status"], first["best_epoch"], first["host"]) == ("completed", 2, None)
            assert first["config"]["model"]["backbone"] == "resnet18"
            assert len({first["run_uid"], second["run_uid"]}) == 2
            assert [row["val_recall"] for row in await store.metrics(1)] == [0.0, 31 / 34]
            events = await store.events_after(0, 1)
            assert [event["event_id"] for event in events] == [1, 2, 18, 19, 21, 37, 38, 39, 40]
            epochs = [event["epoch"] for event in events]
            assert epochs == [None, 0, 1, 1, 1, 2, 2, 2, None]
            assert (await store.outcome(1))["metrics"]["best_recall"] == 31 / 34
            assert [run["run_id"] for run in await store.list_runs()] == [2, 1]

    asyncio.run(use())


def test_a_new_run_is_added_and_an_old_one_claimed(path: Path) -> None:
    run_id = create_run_sync(path, run_name="c")
    run = get_run_sync(path, run_id)
    assert run is not None
    assert (run_id, len(run["run_uid"])) == (3, 32)
    claim_run_sync(path, 2, 1, None)
    with connect(path, check=True) as database:
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
