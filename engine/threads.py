"""How many threads a training on a CPU uses: the cores, divided among the trainings that run here.

More threads than cores are worse than slow: the libraries below torch let a thread wait for its
siblings in a busy loop, so whichever has no core stops all the others. Two trainings of two
threads each on two cores took up to 12 times as long as one alone.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import IO, Self

import torch

from config.schema import AUTO, System

LOOK_EVERY = 1.0  # seconds between two counts
YOUNG = 60.0  # seconds: a file that is younger may not have been locked yet


class Threads:
    """This training's threads; a context manager for as long as it computes.

    Each training on a CPU holds a lock on a file of its own in `folder`, which the system releases
    when the process ends, however it ends. One number is kept for all the training where
    `system.threads` is a number, and under `system.deterministic`: another one changes the last
    bits of sums.
    """

    def __init__(self, system: System, device: torch.device, folder: Path | None = None) -> None:
        self._before = torch.get_num_threads()  # the cores, or what OMP_NUM_THREADS says
        self._shares = device.type == "cpu"
        self._fixed = system.deterministic or system.threads != AUTO
        self._folder = folder or Path(tempfile.gettempdir()) / f"pneumoscope-{os.getuid()}"
        self._path = self._folder / f"{os.getpid()}.training"
        self._file: IO[bytes] | None = None
        self._next_look = 0.0
        if isinstance(system.threads, int):
            torch.set_num_threads(system.threads)

    def __enter__(self) -> Self:
        if self._shares:
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._file = self._path.open("wb")
                fcntl.lockf(self._file, fcntl.LOCK_EX)  # of this process: a fork has it not
            except OSError:
                self._file = None  # nothing can be written there: as if it were alone
        self.balance()
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
        torch.set_num_threads(self._before)

    def balance(self) -> None:
        """Take the share of the present moment; looks at most once a second."""
        if self._file is None or self._fixed or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_EVERY
        share = max(1, self._before // (1 + self._others()))
        if share != torch.get_num_threads():
            torch.set_num_threads(share)

    def _others(self) -> int:
        """The other trainings that run here; the files of those that died are removed."""
        others = 0
        for path in self._folder.glob("*.training"):
            # Opening and closing its own file would release its own lock.
            if path != self._path:
                try:
                    others += _is_locked(path)
                except OSError:
                    continue  # gone meanwhile
        return others


def _is_locked(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        if time.time() - path.stat().st_mtime > YOUNG:
            path.unlink(missing_ok=True)
        return False
