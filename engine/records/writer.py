"""Writing in the background: one thread, and at most one job that waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from engine.files import insist

Job = TypeVar("Job")


class LatestWriter(Generic[Job]):
    """Writes the newest job. One that could not be written waits for the next, or for `finish`."""

    def __init__(
        self, write: Callable[[Job], OSError | None], merge: Callable[[Job, Job], Job]
    ) -> None:
        """`write` returns its error; what else it raises is raised by the next call here.

        `merge(newer, older)` is the job to write where `older` was not written.
        """
        self._write, self._merge = write, merge
        self._lock = threading.Lock()
        self._waiting: Job | None = None
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None

    def submit(self, job: Job) -> None:
        """Write in the background; does not wait. Raises the fault of an earlier write."""
        self._raise_fault()
        with self._lock:
            self._waiting = job if self._waiting is None else self._merge(job, self._waiting)
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="snapshots")
                thread.start()
                self._thread = thread

    def join(self) -> None:
        """Wait until every job is written or has failed."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def finish(self, patience: Callable[[], float]) -> Job | None:
        """Write what waits, trying again for `patience()` seconds; the job that still failed."""
        self.join()
        self._raise_fault()
        job = self._waiting
        if job is None:
            return None

        def write() -> None:
            error = self._write(job)
            if error is not None:
                raise error

        try:
            insist(write, patience, lambda _: None)
        except OSError:
            return job
        self._waiting = None
        return None

    def _work(self) -> None:
        while True:
            with self._lock:
                job, self._waiting = self._waiting, None
                if job is None:
                    self._thread = None
                    return
            try:
                error = self._write(job)
            except BaseException as fault:
                self._fault, error = fault, None
            if error is None:
                continue
            with self._lock:
                if self._waiting is None:  # nothing newer: not before the next job
                    self._waiting, self._thread = job, None
                    return
                self._waiting = self._merge(self._waiting, job)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
