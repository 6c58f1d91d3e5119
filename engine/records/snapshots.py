"""A run's files of weights: `best_model.pt`, and `last.pt` and `previous.pt` to resume from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from engine.records import checkpoint


class Snapshots:
    """Writes them in the background; a context manager. A full disk costs a file, not the run."""

    def __init__(
        self,
        folder: Path,
        on_saved: Callable[[Path, int, str], None],
        on_failed: Callable[[Path, OSError], None],
    ) -> None:
        """The callbacks get (path, epoch, reason) and (path, error), on the writer's thread."""
        self.folder, self._on_saved, self._on_failed = folder, on_saved, on_failed
        self.best_path = folder / "best_model.pt"
        self._writer = checkpoint.CheckpointWriter()
        self._unsaved_best: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)

    def save_best(self, content: dict[str, Any], epoch: int, also: Callable[[], None]) -> None:
        """Write the bundle; `also` writes what belongs to it."""

        def write() -> None:
            checkpoint.save(content, self.best_path)
            also()
            self._unsaved_best = None

        self._writer.wait()
        self._unsaved_best = write
        self._submit(write, self.best_path, epoch, "best")

    def save_last(self, content: dict[str, Any], epoch: int, reason: str) -> None:
        """Write the snapshot; the one before it stays as `previous.pt`."""
        path = self.folder / "last.pt"

        def write() -> None:
            if self._unsaved_best is not None:
                self._unsaved_best()  # `last.pt` must never know of a better model than there is
            checkpoint.save(content, path, keep=self.folder / "previous.pt")

        self._submit(write, path, epoch, reason)

    def finish(self) -> None:
        """Wait for what is being written. Raises OSError where the bundle could not be saved."""
        self._writer.wait()
        if self._unsaved_best is not None:
            self._unsaved_best()  # once more, and now its error counts: nothing else holds it

    def load_last(self) -> dict[str, Any] | None:
        """The newest complete snapshot; None where there is none. Raises UserError."""
        if not any((self.folder / name).exists() for name in ("last.pt", "previous.pt")):
            return None
        return checkpoint.load_last(self.folder)

    def _submit(self, write: Callable[[], None], path: Path, epoch: int, reason: str) -> None:
        def attempt() -> None:
            try:
                write()
            except OSError as error:
                self._on_failed(path, error)
            else:
                self._on_saved(path, epoch, reason)

        self._writer.submit(attempt)
