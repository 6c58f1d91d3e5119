"""The queue between the training thread and the sinks.

`emit` never blocks and never raises. An asyncio queue on its own thread hands each event to the
sinks in order. Progress may be merged under pressure; every other event arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol

from engine.stream.events import Event, RunWarning, Stamped, TrainingProgress

CLOSE_TIMEOUT = 30.0  # seconds that the sinks have for what is left at the end


class Sink(Protocol):
    """Where events go. Its methods run on the queue's thread; what they raise is reported once."""

    async def open(self, run_id: int) -> None:
        """Before the first event."""

    async def handle(self, stamped: Stamped) -> None:
        """One event, in order."""

    async def close(self) -> None:
        """After the last event, on every path."""


class EventQueue:
    """Carries events from the training thread to the sinks; a context manager.

    What waits is bounded: between two lasting events, of which an epoch has a handful, there is
    never more than one progress event.
    """

    def __init__(self, sinks: Sequence[Sink], run_id: int) -> None:
        self._sinks, self._run_id = list(sinks), run_id
        self._waiting: deque[Stamped] = deque()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._woken = False  # a wake-up is on its way: emit need not send another
        self._closing = False
        self._opened = False
        self._troubled: set[int] = set()
        self._thread = threading.Thread(target=self._main, name="events", daemon=True)

    def __enter__(self) -> EventQueue:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread and open the sinks."""
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Hand over an event: microseconds, no wait, no exception. After `close` it is dropped."""
        stamped = Stamped(self._run_id, datetime.now(UTC).isoformat(timespec="milliseconds"), event)
        with self._lock:
            if self._closing:
                return
            waiting = self._waiting
            passing = isinstance(event, TrainingProgress)
            if passing and waiting and isinstance(waiting[-1].event, TrainingProgress):
                waiting[-1] = stamped
            else:
                waiting.append(stamped)
            if self._woken:
                return
            self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._wake.set)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Let the sinks finish, for `timeout` seconds at most. May be called again."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self._thread.ident is None:  # never started
            self._loop.close()
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._wake.set)
        self._thread.join(timeout)
        if self._thread.is_alive():
            _report(f"the sinks did not finish within {timeout:g} s; some events may be missing")

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._deliver())
        finally:
            self._loop.close()

    async def _deliver(self) -> None:
        for sink in self._sinks:
            await self._guarded(sink, sink.open(self._run_id))
        self._opened = True
        while True:
            await self._wake.wait()
            self._wake.clear()
            with self._lock:
                self._woken = False
                closing = self._closing
            while (stamped := self._next()) is not None:
                for sink in self._sinks:
                    await self._guarded(sink, sink.handle(stamped))
            if closing:
                break
        for sink in self._sinks:
            await self._guarded(sink, sink.close())

    def _next(self) -> Stamped | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    async def _guarded(self, sink: Sink, work: Any) -> None:
        """One sink's trouble is its own: said once, and never the training's."""
        try:
            await work
        except BaseException as error:  # SystemExit or a cancelled task would end the thread
            if id(sink) in self._troubled:
                return
            self._troubled.add(id(sink))
            message = f"{type(sink).__name__} failed: {type(error).__name__}: {error}"
            _report(message)
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            warning = Stamped(self._run_id, at, RunWarning("sink_failed", message))
            if not self._opened:  # the others cannot take it yet
                with self._lock:
                    self._waiting.appendleft(warning)
                self._wake.set()
                return
            for other in self._sinks:
                if id(other) not in self._troubled:
                    await self._guarded(other, other.handle(warning))


def _report(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
