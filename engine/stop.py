"""A request to end a run, from a signal, another thread or a notebook."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

from config import UserError


class StoppedEarly(UserError):
    """The run was stopped before there was anything to keep."""


@dataclass
class StopRequest:
    """A request to end, from any thread."""

    asked: threading.Event = field(default_factory=threading.Event)
    reason: str = "stop requested"

    def set(self, reason: str) -> None:
        """Ask; the first reason is kept."""
        if not self.asked.is_set():
            self.reason = reason
            self.asked.set()

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self.asked.is_set()


@contextlib.contextmanager
def graceful_interrupt(stop: StopRequest) -> Iterator[None]:
    """Within, the first Ctrl-C requests a stop, so that the run can save; a second one interrupts.

    KeyboardInterrupt is raised at the end, for the caller asked to be interrupted. SIGTERM, which
    the server sends to cancel, requests a stop too; a second one ends the process. Does nothing
    outside the main thread, and where the program handles these signals itself.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupted = False

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.set("stopped by KeyboardInterrupt")

    def on_terminate(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.set("stopped by SIGTERM")

    signal.signal(signal.SIGINT, on_interrupt)
    terminates = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if terminates:
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    except StoppedEarly as error:
        if interrupted:
            raise KeyboardInterrupt(str(error)) from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if terminates:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if interrupted:
        raise KeyboardInterrupt("the run was stopped and has been saved; it can be resumed")
