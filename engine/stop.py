"""A wish to end a run, from a signal, another thread or a notebook."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class StopRequest:
    """A wish to end, from any thread."""

    asked: threading.Event = field(default_factory=threading.Event)
    reason: str = "asked to stop"

    def set(self, reason: str) -> None:
        """Ask; the first reason stays."""
        if not self.asked.is_set():
            self.reason = reason
            self.asked.set()

    def is_set(self) -> bool:
        """Whether somebody has asked."""
        return self.asked.is_set()
