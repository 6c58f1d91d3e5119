"""The hub without sockets: what it hands out, and to whom."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.records.database import create_run_sync
from engine.records.log import PASSING
from engine.records.store import Store
from server.hub import PROGRESS_SHARE, WAITING, Hub, Subscriber


@pytest.mark.parametrize("listeners", [10, 1000])
def test_many_listeners_get_less_progress_but_every_lasting_event(
    tmp_path: Path, listeners: int
) -> None:
    path = tmp_path / "a.db"
    run_id = create_run_sync(path, run_name="a")

    async def listen() -> tuple[list[str], float]:
        async with await Store.open(path) as log, await Store.open(path) as worker:
            hub = Hub(log)
            await hub.start()
            task = asyncio.create_task(hub.run())
            ones = [hub.subscribe(run_id, lambda: pytest.fail("slow")) for _ in range(listeners)]
            began = time.monotonic()
            for n in range(20):
                await worker.add_event(run_id, "now", PASSING, {"n": n})
                await sent(hub, await worker.add_event(run_id, "now", "warning", {"n": n}))
            seconds = time.monotonic() - began
            task.cancel()
            counts = {one._queue.qsize() for one in ones}
            assert len(counts) == 1
            return [(await ones[0].get())[1] for _ in range(counts.pop())], seconds

    texts, seconds = asyncio.run(listen())
    assert sum('"warning"' in text for text in texts) == 20
    progress = sum(PASSING in text for text in texts)
    assert 1 <= progress <= 1 + seconds / (listeners * PROGRESS_SHARE)
    if listeners == 10:
        assert progress > 1


async def sent(hub: Hub, event_id: int | None) -> None:
    """Wait until the hub has handed out an event."""
    assert event_id is not None
    async with asyncio.timeout(60):
        while hub.last_id < event_id:  # noqa: ASYNC110  the hub has no event for it
            await asyncio.sleep(0.005)


def test_a_subscriber_is_dropped_once_where_it_is_too_slow() -> None:
    drops = []
    one = Subscriber(lambda: drops.append(1))
    for n in range(WAITING + 5):
        one.put((n, ""))
    assert drops == [1]


def test_the_times_of_the_next_progress_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    runs = [create_run_sync(path, run_name="a") for _ in range(30)]

    async def follow() -> int:
        async with await Store.open(path) as log, await Store.open(path) as worker:
            hub = Hub(log)
            await hub.start()
            task = asyncio.create_task(hub.run())
            for run_id in runs:
                await sent(hub, await worker.add_event(run_id, "now", PASSING, {}))
            task.cancel()
            return len(hub._next_progress)

    assert asyncio.run(follow()) <= 2
