"""The server's background tasks: kept running, and their state for /healthz."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a task that died is started again
STEADY_SECONDS = 60.0  # after which the waits begin at the first one again

log = logging.getLogger("pneumoscope")


class Faults:
    """What is failing in one task at present; each kind is logged when it begins, not each time."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._known: dict[str, str] = {}  # of the last round
        self._found: dict[str, str] = {}  # of this round

    @contextlib.contextmanager
    def noted(self, kind: str) -> Iterator[None]:
        """Note an exception inside and continue behind the block."""
        try:
            yield
        except Exception as error:
            self.note(kind, error)

    def note(self, kind: str, error: Exception) -> None:
        """Record a fault of this round, and log it unless it is known."""
        text = f"{kind}: {type(error).__name__}: {error}"
        if kind not in self._known and kind not in self._found:
            log.error("%s: %s", self.task, text, exc_info=error)
        self._found[kind] = text

    def end_round(self) -> None:
        """What did not happen again in this round is over."""
        for kind in self._known.keys() - self._found.keys():
            log.warning("%s: %s: no longer", self.task, kind)
        self._known, self._found = self._found, {}

    def present(self) -> list[str]:
        """A line for each fault; empty where all is well."""
        return list((self._known | self._found).values())


async def keep_running(work: Callable[[], Awaitable[None]], faults: Faults) -> None:
    """Run a task until cancelled; one that ends or dies is started again, ever later."""
    wait = FIRST_WAIT
    while True:
        began = time.monotonic()
        try:
            await work()
            raise RuntimeError("it ended")
        except Exception as error:
            faults.note("the task died and is started again", error)
        if time.monotonic() - began > STEADY_SECONDS:
            wait = FIRST_WAIT
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
