"""The hub without sockets: what it hands out, and to whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.records.database import create_run_sync
from engine.records.log import PASSING
from engine.records.store import Store
from server.hub import WAITING, Hub, Subscriber


@pytest.mark.parametrize(("listeners", "fewest", "most"), [(10, 20, 20), (1000, 1, 3)])
def test_many_listeners_get_less_progress_but_every_lasting_event(
    tmp_path: Path, listeners: int, fewest: int, most: int
) -> None:
    path = tmp_path / "a.db"
    run_id = create_run_sync(path, run_name="a")

    async def listen() -> list[str]:
        async with await Store.open(path) as log, await Store.open(path) as worker:
            hub = Hub(log)
            await hub.start()
            task = asyncio.create_task(hub.run())
            ones = [hub.subscribe(run_id, lambda: pytest.fail("slow")) for _ in range(listeners)]
            for n in range(20):
                await worker.add_event(run_id, "now", PASSING, {"n": n})
                await worker.add_event(run_id, "now", "warning", {"n": n})
                await asyncio.sleep(0.06)
            await asyncio.sleep(0.2)
            task.cancel()
            counts = {one._queue.qsize() for one in ones}
            assert len(counts) == 1
            return [(await ones[0].get())[1] for _ in range(counts.pop())]

    heard = asyncio.run(listen())
    assert sum('"warning"' in text for text in heard) == 20
    assert fewest <= sum(PASSING in text for text in heard) <= most


def test_a_subscriber_is_told_once_that_it_is_too_slow() -> None:
    told = []
    one = Subscriber(lambda: told.append(1))
    for n in range(WAITING + 5):
        one.put((n, ""))
    assert told == [1]
