"""A run's files of weights: `best_model.pt`, and `last.pt` and `previous.pt` to resume from.

The bundle of the best epoch is first written under a hidden name with its epoch, then comes the
snapshot that refers to it, and only then `best_model.pt` becomes a link to it. So whichever moment
a kill strikes, a snapshot has the bundle of its best epoch, and a resumed run publishes that one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from config import UserError
from engine.files import replacing, write_text
from engine.records import checkpoint, format1
from engine.records.writer import LatestWriter

KEYS = {  # of a snapshot, beside `format`
    *("run_uid", "best_epoch", "scores", "learner", "selection", "history", "random", "state"),
    *("training_time", "config", "fingerprint"),
}
HIDDEN = ".best_*.pt"


@dataclass
class Loaded:
    """A snapshot, and what a person should know of how it was found."""

    state: dict[str, Any]
    warnings: list[str]


@dataclass
class _Job:
    """One snapshot to write; `bundle` is the staged state with the newest unwritten bundle."""

    staged: checkpoint.Staged
    bundle: checkpoint.Staged | None
    epoch: int
    reason: str
    is_saved: bool = False  # `last.pt` is this one


class Snapshots:
    """Writes them on one thread of its own; a context manager.

    At most one snapshot waits: a newer one replaces it. One that could not be written is tried
    again with the next.
    """

    def __init__(
        self,
        folder: Path,
        run_uid: str,
        on_saved: Callable[[Path, int, str], None],
        on_failed: Callable[[Path, OSError], None],
        scores_path: Path,
    ) -> None:
        """The callbacks run on the writer's thread; the scores of `best_model.pt` are a CSV file.

        `on_saved` gets (path, epoch, reason); `on_failed` gets (path, error), once until a write
        succeeds.
        """
        self.folder, self.run_uid = folder, run_uid
        self.best_path = folder / "best_model.pt"
        self._last, self._previous = folder / "last.pt", folder / "previous.pt"
        self._on_saved, self._on_failed = on_saved, on_failed
        self._scores_path = scores_path
        self._published: int | None = None  # the epoch of `best_model.pt`
        self._scored: int | None = None  # the epoch of the scores
        self._doing = self._last  # what is being written
        # Best epochs of the last two snapshots written: their bundles are kept.
        self._referred: deque[int | None] = deque(maxlen=2)
        self._writer = LatestWriter(self._attempt, _merge)
        self._troubled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """What is being written is completed; what fails there does not hide another error."""
        self._writer.join()

    def exists(self) -> bool:
        """Whether there is anything to resume from."""
        return self._last.exists() or self._previous.exists()

    def begin(self) -> None:
        """Make the folder ready for a new run. Raises UserError where it holds another's files."""
        files = (self.best_path, self._last, self._previous)
        held = [path.name for path in files if path.exists()]
        if held:
            raise UserError(
                f"{self.folder} has {', '.join(held)} of another run, which would be overwritten; "
                "move that folder away or choose another output.checkpoint_dir"
            )
        for path in [*self.folder.glob(checkpoint.TEMPORARY), *self.folder.glob(HIDDEN)]:
            path.unlink(missing_ok=True)

    def load(self) -> Loaded:
        """The newest complete snapshot; `best_model.pt` and scores are again those it refers to.

        Where that bundle is gone, `best_epoch` of the state is None. Raises UserError.
        """
        for path in self.folder.glob(checkpoint.TEMPORARY):
            path.unlink(missing_ok=True)
        damaged: list[str] = []
        for path in (self._last, self._previous):
            if not path.exists():
                continue
            try:
                state = self._read(path)
            except checkpoint.Damaged as error:
                damaged.append(str(error))
                continue
            path.replace(self._last)  # a damaged one must not become the previous
            break
        else:
            raise UserError(
                f"{'; '.join(damaged) or f'{self.folder} has no snapshot'}: the run cannot be "
                "resumed; start a new one"
            )
        warnings = [f"{text}; the snapshot before it is used" for text in damaged]
        best = state["best_epoch"]
        if best is not None and not self._find_bundle(best):
            warnings.append(
                f"the model of the best epoch, {best}, is missing in {self.folder}; the best one "
                "is chosen anew from the epochs that follow"
            )
            best = state["best_epoch"] = None
        self._referred.append(best)
        try:
            self._publish(best, state["scores"])
        except OSError as error:  # tried again with the next snapshot
            self._report(error)
        return Loaded(state, warnings)

    def save(
        self, snapshot: dict[str, Any], bundle: dict[str, Any] | None, epoch: int, reason: str
    ) -> None:
        """Write in the background: the new best epoch's bundle, then the snapshot.

        Returns once both are copied. Raises what is not an OSError in an earlier write.
        """
        staged = checkpoint.Staged({"snapshot": snapshot, "bundle": bundle})
        has_bundle = staged if bundle is not None else None
        self._writer.submit(_Job(staged, has_bundle, epoch, reason))

    def finish(self, patience: Callable[[], float]) -> Path | None:
        """Write what waits, trying again for `patience()` seconds; what could not be written.

        The best model may be there all the same: see `has_best`.
        """
        job = self._writer.finish(patience)
        if job is None:
            return None
        unwritten = self._doing
        if job.bundle is None:
            snapshot = job.staged.state()["snapshot"]
            with contextlib.suppress(OSError):
                self._publish(snapshot["best_epoch"], snapshot["scores"])
        return unwritten

    def has_best(self, epoch: int | None) -> bool:
        """Whether `best_model.pt` is the model of `epoch`."""
        return self._published == epoch

    def replace_best(self, bundle: dict[str, Any]) -> None:
        """The same model with more known about it. Raises OSError; the one before is then kept."""
        hidden = self._hidden(bundle["epoch"])
        checkpoint.save(bundle, hidden)
        _link(hidden, self.best_path)

    def discard(self) -> None:
        """Remove what only a resume needs; `best_model.pt` stays."""
        for path in (self._last, self._previous, *self.folder.glob(HIDDEN)):
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Any]:
        state = checkpoint.load(path)
        if state.pop("format") == 1:
            state = format1.snapshot(state, self.run_uid)
        if set(state) != KEYS:
            missing, unknown = sorted(KEYS - set(state)), sorted(set(state) - KEYS)
            raise UserError(
                f"{path} is no snapshot of this version of Pneumoscope (missing: "
                f"{', '.join(missing) or 'nothing'}; unknown: {', '.join(unknown) or 'nothing'}); "
                "resume the run with the version that began it, or start a new one"
            )
        if state["run_uid"] != self.run_uid:
            raise UserError(
                f"{path} belongs to the run with uid {state['run_uid']}, not to this one "
                f"({self.run_uid}); give output.checkpoint_dir of this run, or start a new one"
            )
        return state

    def _find_bundle(self, epoch: int) -> bool:
        """Make sure that the hidden bundle of `epoch` is there and complete."""
        hidden = self._hidden(epoch)
        for path in (hidden, self.best_path):
            with contextlib.suppress(UserError):
                found = checkpoint.load(path)
                same_run = found.get("run_uid", self.run_uid) == self.run_uid
                if same_run and found.get("epoch") == epoch:
                    if path != hidden:
                        _link(path, hidden)
                    return True
        return False

    def _attempt(self, job: _Job) -> OSError | None:
        try:
            self._write(job)
        except OSError as error:
            self._report(error)
            return error
        self._troubled = False
        self._on_saved(self._last, job.epoch, job.reason)
        return None

    def _write(self, job: _Job) -> None:
        if job.bundle is not None:
            bundle = job.bundle.state()["bundle"]
            self._doing = self._hidden(bundle["epoch"])
            checkpoint.save(bundle, self._doing)
            job.bundle = None
        snapshot = job.staged.state()["snapshot"]
        best = snapshot["best_epoch"]
        if not job.is_saved:
            self._doing = self._last
            checkpoint.save(snapshot, self._last, keep=self._previous)
            job.is_saved = True
            self._referred.append(best)
        if self._publish(best, snapshot["scores"]):
            self._on_saved(self.best_path, best, "best")
        if len(self._referred) == 2:
            kept = [self._hidden(epoch) for epoch in self._referred if epoch is not None]
            for path in set(self.folder.glob(HIDDEN)) - set(kept):
                path.unlink(missing_ok=True)

    def _publish(self, epoch: int | None, scores: str | None) -> bool:
        """Make `best_model.pt` and the scores those of `epoch`; whether they were not yet."""
        if epoch is None or epoch == self._scored:
            return False
        self._doing = self.best_path
        _link(self._hidden(epoch), self.best_path)
        self._published = epoch
        if scores is not None:
            self._doing = self._scores_path
            write_text(self._scores_path, scores)
        self._scored = epoch
        return True

    def _report(self, error: OSError) -> None:
        if not self._troubled:
            self._troubled = True
            self._on_failed(self._doing, error)

    def _hidden(self, epoch: int) -> Path:
        return self.folder / f".best_{epoch:05d}.pt"


def _merge(newer: _Job, older: _Job) -> _Job:
    newer.bundle = newer.bundle or older.bundle
    return newer


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, atomically; a copy where links are not supported."""
    if target.exists() and target.samefile(source):
        return  # a rename onto the same file would do nothing and leave the other name
    with replacing(target) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
