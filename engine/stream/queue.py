"""The queue between the training thread and the sinks.

`emit` never blocks and never raises. An asyncio queue on its own thread hands each event to the
sinks in order. Progress may be merged under pressure; every other event arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol

from config import UserError
from engine.process import say
from engine.stream.events import TRANSIENT, Event, RunWarning, Stamped

CLOSE_TIMEOUT = 30.0  # seconds that the sinks have for what is left, beside their close_seconds


class Unrecorded(UserError):
    """A sink could not keep everything: a run whose end is recorded nowhere did not end well."""


class Sink(Protocol):
    """Where events go. Its methods run on the queue's thread; what they raise is reported once.

    A sink whose `close` may take long says so in seconds, as an attribute `close_seconds`.
    """

    async def open(self, run_id: int) -> None:
        """Before the first event."""

    async def handle(self, stamped: Stamped) -> None:
        """One event, in order."""

    async def close(self) -> None:
        """After the last event, on every path. Raises Unrecorded where events are lost."""


class EventQueue:
    """Carries events from the training thread to the sinks; a context manager.

    Its end raises Unrecorded where a sink could not keep everything and nothing else was raised.
    What waits is bounded: of consecutive progress events or samples of the system only the newest
    is kept, and an epoch has a handful of others.
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
        self._unrecorded: list[str] = []
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
        if kind is None and self._unrecorded:
            raise Unrecorded("; ".join(self._unrecorded))
        for text in self._unrecorded:  # beside the error that is being raised
            say(f"warning: {text}")

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
            if isinstance(event, TRANSIENT) and waiting and type(waiting[-1].event) is type(event):
                waiting[-1] = stamped
            else:
                waiting.append(stamped)
            if self._woken:
                return
            self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._wake.set)

    def close(self, timeout: float | None = None) -> None:
        """Let the sinks finish, for `timeout` seconds at most. May be called again."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self._thread.ident is None:  # never started
            self._loop.close()
            return
        if timeout is None:
            timeout = CLOSE_TIMEOUT + sum(getattr(s, "close_seconds", 0.0) for s in self._sinks)
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._wake.set)
        self._thread.join(timeout)
        if self._thread.is_alive():
            message = f"the sinks did not finish within {timeout:g} s; some events may be missing"
            say(f"warning: {message}")
            self._unrecorded.append(message)

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
        for sink in reversed(self._sinks):  # those before it can still record its trouble
            await self._guarded(sink, sink.close())
            self._troubled.add(id(sink))

    def _next(self) -> Stamped | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    async def _guarded(self, sink: Sink, work: Any) -> None:
        """One sink's trouble is its own: reported once, and never the training's."""
        try:
            await work
        except BaseException as error:  # SystemExit or a cancelled task would end the thread
            with contextlib.suppress(BaseException):  # as would a second one: no memory, say
                await self._report(sink, error)

    async def _report(self, sink: Sink, error: BaseException) -> None:
        message = str(error)
        if isinstance(error, Unrecorded):
            self._unrecorded.append(message)
            return  # raised at the end
        if id(sink) in self._troubled:
            return
        self._troubled.add(id(sink))
        if not isinstance(error, UserError):
            message = f"{type(sink).__name__} failed: {type(error).__name__}: {message}"
        say(f"warning: {message}")
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
