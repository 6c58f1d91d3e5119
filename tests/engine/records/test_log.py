"""The log and what follows from it: epochs trained again, runs resumed or ended by others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.records.database import connect, create_run_sync, get_run_sync
from engine.records.log import METRIC_COLUMNS
from engine.records.store import Store

EPOCH, CUT = "training_metrics_update", "learning_rate_changed"
STARTED: dict[str, Any] = {"run_name": "a"}


def figures(epoch: int, value: float = 0.5, is_best: bool = False) -> dict[str, Any]:
    return {**dict.fromkeys(METRIC_COLUMNS, value), "epoch": epoch, "is_best": is_best}


def in_store(path: Path, use: Callable[[Store], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with await Store.open(path) as store:
            await use(store)

    asyncio.run(opened())


def events(path: Path) -> list[tuple[int, str, int | None]]:
    with connect(path) as database:
        found = database.execute("SELECT event_id, event, epoch FROM event ORDER BY event_id")
        return [tuple(row) for row in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "pneumoscope.db"
    create_run_sync(path, run_name="a", status="preparing")
    return path


def test_an_epoch_that_repeats_is_kept_once_and_one_that_differs_is_replaced(path: Path) -> None:
    async def use(store: Store) -> None:
        for number in (1, 2):
            await store.record(1, "t1", EPOCH, figures(number))
        await store.record(1, "t2", EPOCH, figures(1))  # the same again
        assert await store.last_event_id() == 2
        await store.record(1, "t3", EPOCH, figures(1, 0.75))
        found = await store.events_after(0, 1)
        assert [(e["event_id"], e["payload"]["val_recall"]) for e in found] == [(2, 0.5), (3, 0.75)]
        assert [row["val_recall"] for row in await store.metrics(1)] == [0.75, 0.5]

    in_store(path, use)


def test_a_resumed_run_withdraws_what_came_after_its_snapshot(path: Path) -> None:
    history = [[EPOCH, figures(1, is_best=True)], [EPOCH, figures(2)]]

    async def use(store: Store) -> None:
        await store.record(1, "t", "training_started", STARTED)
        await store.record(1, "t", EPOCH, figures(1, is_best=True))
        await store.record(1, "t", CUT, {"epoch": 1, "previous": 0.1, "current": 0.01})
        await store.record(1, "t", EPOCH, figures(2, 0.25))  # differs from the history
        await store.record(1, "t", EPOCH, figures(3, is_best=True))
        saved = {"epoch": 3, "reason": "best", "path": "best_model.pt"}
        await store.record(1, "t", "checkpoint_saved", saved)
        run = await store.get_run(1)
        assert run is not None
        assert (run["best_epoch"], run["best_model_path"]) == (3, "best_model.pt")
        resumed = {"epoch": 2, "history": history}
        await store.record(1, "t", "training_resumed", resumed)
        rows = [(row["epoch"], row["val_recall"]) for row in await store.metrics(1)]
        assert rows == [(1, 0.5), (2, 0.5)]
        run = await store.get_run(1)
        assert run is not None
        assert run["best_epoch"] == 1
        assert (await store.events_after(0, 1))[-1]["payload"] == {"epoch": 2}

    in_store(path, use)
    assert events(path) == [
        (1, "training_started", None),
        (2, EPOCH, 1),
        (7, EPOCH, 2),
        (8, "training_resumed", None),
    ]


def test_resuming_five_thousand_epochs_takes_seconds(path: Path) -> None:
    history = [[EPOCH, figures(number)] for number in range(1, 5001)]

    async def use(store: Store) -> None:
        for _ in range(2):  # all missing, then all known
            await store.record(1, "t", "training_resumed", {"epoch": 5000, "history": history})
        assert len(await store.metrics(1)) == 5000

    began = time.process_time()
    in_store(path, use)
    assert time.process_time() - began < 5
    assert len(events(path)) == 5002


def test_a_transient_event_replaces_the_one_of_its_kind_alone(path: Path) -> None:
    async def use(store: Store) -> None:
        for step in range(3):
            await store.record(1, "t", "training_progress", {"epoch": 1, "step": step})
            await store.record(1, "t", "system_metrics", {"cpu_percent": step})

    in_store(path, use)
    assert events(path) == [(5, "training_progress", None), (6, "system_metrics", None)]


def test_a_run_keeps_when_it_first_started(path: Path) -> None:
    async def use(store: Store) -> None:
        for at in ("first", "second"):
            await store.record(1, at, "training_started", STARTED)

    in_store(path, use)
    run = get_run_sync(path, 1)
    assert run is not None
    assert (run["started_at"], run["status"]) == ("first", "in_progress")


def test_a_run_ended_by_others_has_the_figures_of_its_rows(path: Path) -> None:
    async def use(store: Store) -> None:
        assert (await store.outcome(1))["total_epochs_run"] == 0
        await store.record(1, "t", "training_started", STARTED)
        for number in (1, 2, 3):
            await store.record(1, "t", EPOCH, figures(number, number, is_best=number == 2))
        outcome = await store.outcome(1)
        assert (outcome["total_epochs_run"], outcome["training_time"]) == (3, 6.0)
        assert (outcome["best_epoch"], outcome["metrics"]["best_recall"]) == (2, 2.0)
        reason = {"reason": "the worker is gone"}
        live = ("in_progress",)
        assert await store.end_run(
            1, live, "interrupted", "training_interrupted", reason, reason["reason"]
        )
        assert not await store.end_run(1, live, "failed", "training_failed", {})

    in_store(path, use)
    run = get_run_sync(path, 1)
    assert run is not None
    assert (run["status"], run["error"]) == ("interrupted", "the worker is gone")
    assert (run["total_epochs_run"], run["training_time"], run["best_epoch"]) == (3, 6.0, 2)


def test_a_row_with_rubbish_does_not_hide_the_others(path: Path) -> None:
    create_run_sync(path, run_name="b", config={"experiment": {"epochs": 4}})
    with connect(path) as database:
        database.execute(
            "UPDATE run SET config = '{half', results = '[', tags = 5 WHERE run_id = 1"
        )
        database.execute("UPDATE run SET run_name = CAST(x'ff41' AS TEXT) WHERE run_id = 1")
        for payload in ("{", "[1]", "null"):
            database.execute(
                "INSERT INTO event (run_id, at, event, payload) VALUES (1, 't', 'warning', ?)",
                (payload,),
            )

    async def use(store: Store) -> None:
        listed = await store.list_runs()
        assert [(run["run_name"], run["epochs"]) for run in listed] == [("b", 4), ("\ufffdA", None)]
        run = await store.get_run(1)
        assert run is not None
        assert (run["config"], run["results"]) == (None, None)
        assert [event["payload"] for event in await store.events_after(0)] == [{}, {}, {}]

    in_store(path, use)


def test_text_that_utf8_does_not_have_is_stored_with_escapes(path: Path) -> None:
    async def use(store: Store) -> None:
        error = {"error": "caf\udce9.png", "hint": None}
        await store.record(1, "t", "training_failed", error)

    in_store(path, use)
    run = get_run_sync(path, 1)
    assert run is not None
    assert run["error"] == "caf\\udce9.png"
