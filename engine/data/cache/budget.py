"""Memory that threads share: each reserves what it needs before it takes it."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class MemoryBudget:
    """A number of bytes. Who holds a reservation must not wait for another of the same budget."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._released = 0  # bytes, since the C library was last asked to return them
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Wait until `needed` bytes are free and hold them. Raises MemoryError above the total."""
        if needed > self.total:
            raise MemoryError(f"{needed:,} bytes of {self.total:,}")
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed)
            self._free -= needed
        try:
            yield
        finally:
            with self._changed:
                self._released += needed
                full = self._released > self.total // 4
                self._released = 0 if full else self._released
            if full:
                return_freed_memory()
            with self._changed:
                self._free += needed
                self._changed.notify_all()


def return_freed_memory() -> None:
    """Return to the system what glibc keeps: up to 64 MB for each thread that freed something."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
