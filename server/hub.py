"""From the event log to the sockets: one reader of the log, one encoding of each event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from engine.records.log import PASSING
from engine.records.store import Store
from server.background import Faults

POLL_SECONDS = 0.04  # between two looks at the database's data_version
FAILED_SECONDS = 1.0  # before the next look after one that failed
WAITING = 256  # events that may wait for one socket before it counts as too slow
PROGRESS_SHARE = 0.002  # seconds between a run's progress events, for each socket that gets them
ALL_RUNS = None

Message = tuple[int, str]  # (event_id, JSON)


class Subscriber:
    """One socket's part of the stream."""

    __slots__ = ("_on_slow", "_queue", "slow")

    def __init__(self, on_slow: Callable[[], object]) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue(WAITING)
        self._on_slow = on_slow
        self.slow = False

    def put(self, message: Message) -> None:
        """Hand over an event without waiting; where there is no room, drop the subscriber."""
        if self.slow:
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.slow = True
            self._on_slow()

    async def get(self) -> Message:
        """The next event."""
        return await self._queue.get()


class Hub:
    """Follows the log and hands each new event to whom it concerns."""

    def __init__(self, store: Store) -> None:
        """`store` is the hub's own: a connection does not see its own writes as changes."""
        self.faults = Faults("hub")
        self._store = store
        self._subscribers: dict[int | None, set[Subscriber]] = defaultdict(set)
        self._next_progress: dict[int, float] = {}  # run -> when the next may be sent
        self.last_id = 0
        self.sockets = 0
        self.dropped = 0  # sockets, for being too slow

    async def start(self) -> None:
        """Begin at the end of the log."""
        self.last_id = await self._store.last_event_id()

    async def run(self) -> None:
        """Follow the log until cancelled."""
        version = -1
        while True:
            pause = FAILED_SECONDS
            with self.faults.noted("the event log cannot be read"):
                # Read before the events: a change during that query is seen the next time.
                if (now := await self._store.data_version()) != version:
                    await self._dispatch()
                    version = now
                pause = POLL_SECONDS
            self.faults.end_round()
            await asyncio.sleep(pause)

    def subscribe(self, run_id: int | None, on_slow: Callable[[], object]) -> Subscriber:
        """Events of one run, or of ALL_RUNS, from now on."""
        subscriber = Subscriber(on_slow)
        self._subscribers[run_id].add(subscriber)
        return subscriber

    def unsubscribe(self, run_id: int | None, subscriber: Subscriber) -> None:
        """No more events."""
        followers = self._subscribers[run_id]
        followers.discard(subscriber)
        if not followers:
            del self._subscribers[run_id]

    async def _dispatch(self) -> None:
        while True:
            rows = await self._store.events_after(self.last_id)
            for row in rows:
                self.last_id = row["event_id"]
                with self.faults.noted("an event could not be sent"):
                    self._hand_out(row)
            if not rows:
                return
            await asyncio.sleep(0)  # let the sockets send

    def _hand_out(self, row: dict[str, Any]) -> None:
        followers = [
            subscriber
            for key in (ALL_RUNS, row["run_id"])
            for subscriber in self._subscribers.get(key, ())
        ]
        if row["event"] == PASSING:
            now = time.monotonic()
            if now < self._next_progress.get(row["run_id"], 0.0):
                return  # a later one replaces it, and the training needs the processor, too
            for run_id in [run for run, due in self._next_progress.items() if due <= now]:
                del self._next_progress[run_id]  # of runs that have ended, above all
            self._next_progress[row["run_id"]] = now + len(followers) * PROGRESS_SHARE
        if followers:
            message = (row["event_id"], encode(row))
            for subscriber in followers:
                subscriber.put(message)


def encode(row: dict[str, Any]) -> str:
    """An event as it travels: its payload beside event, event_id, run_id and at, as JSON.

    Raises ValueError for a row that is no event, as only another program can have written it.
    """
    if not isinstance(row["payload"], dict):
        raise ValueError(f"event {row['event_id']} of run {row['run_id']} has no payload")
    event = {key: row[key] for key in ("event", "event_id", "run_id", "at")} | row["payload"]
    try:
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if not text.isascii():
            text.encode()  # half a character cannot be sent
    except (TypeError, ValueError) as error:
        raise ValueError(f"event {row['event_id']} of run {row['run_id']}: {error}") from error
    return text


def encode_all(rows: list[dict[str, Any]]) -> list[str]:
    """Every row that is an event; the hub has logged the others."""
    texts = []
    for row in rows:
        with contextlib.suppress(ValueError):
            texts.append(encode(row))
    return texts
