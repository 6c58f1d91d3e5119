"""When and what a run saves: snapshots to resume from, and the bundle of each best epoch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from config import Config, UserError
from config.errors import first_line
from engine.data.prepare import Prepared
from engine.distributed import ALONE, Processes
from engine.inference import bundle
from engine.metrics.calibrated import Calibrated
from engine.records import results
from engine.records.snapshots import Snapshots
from engine.stream.events import CheckpointSaved, RunWarning
from engine.training.loop import EvalFigures
from engine.training.progress import Emit
from engine.training.state import TrainingState


class Saving:
    """Saves one run in the background, and restores it."""

    def __init__(
        self,
        run_id: int,
        run_uid: str,
        config: Config,
        data: Prepared,
        state: TrainingState,
        emit: Emit,
        processes: Processes = ALONE,
    ) -> None:
        """Of several processes, process 0 alone writes."""
        self._processes = processes
        self._run_id, self._run_uid = run_id, run_uid
        self._config, self._data, self._state, self._emit = config, data, state, emit
        self.snapshots = Snapshots(
            Path(config.output.checkpoint_dir) / f"run_{run_id}",
            run_uid,
            on_saved=lambda path, epoch, reason: emit(CheckpointSaved(str(path), epoch, reason)),
            on_failed=self._warn_unsaved,
            scores_path=results.scores_path(config.output, run_id),
        )
        self._bundle = bundle.describe(config, data, run_uid)  # what all of its bundles share
        self._last_saved = time.monotonic()

    def begin(self, resume: bool) -> bool:
        """Restore the last snapshot, where there is one, or make room for new ones. Together.

        Returns whether it was restored. Raises UserError where it does not fit.
        """
        state = self._processes.from_main(lambda: self._found(resume))
        if state is None:
            return False
        self._restore(state)
        return True

    def is_due(self) -> bool:
        """Whether the last snapshot is older than `experiment.checkpoint_minutes`."""
        minutes = (time.monotonic() - self._last_saved) / 60
        return self._processes.is_main and minutes >= self._config.experiment.checkpoint_minutes

    def save(self, reason: str, best: tuple[EvalFigures, Calibrated] | None = None) -> None:
        """A snapshot of everything that decides how the run continues, in the background.

        `best` is of an epoch that has just become the best: its bundle comes too.
        """
        if not self._processes.is_main:
            return
        self._last_saved = time.monotonic()
        state, content = self._state, None
        epoch = state.position.epoch - 1
        if best is not None:
            validated, calibrated = best
            names, columns = self._data.texts(validated.index)
            state.kept_scores = results.scores_table(
                names, validated.labels, calibrated.scores, columns
            )
        snapshot = {
            "run_uid": self._run_uid,
            "config": self._config.to_dict(),
            "fingerprint": self._data.fingerprint,
            **state.state_dict(),
        }
        if best is not None:
            weights = state.learner.kept_weights(snapshot["learner"], calibrated.shift)
            summary = state.selection.best_summary
            content = bundle.of_epoch(self._bundle, weights, epoch, summary, calibrated)
        self.snapshots.save(snapshot, content, epoch, reason)

    def _found(self, resume: bool) -> dict[str, Any] | None:
        if not (resume and self.snapshots.exists()):
            self.snapshots.begin()
            return None
        found = self.snapshots.load()
        if found.state["fingerprint"] != self._data.fingerprint:
            raise UserError(
                f"run {self._run_id} cannot be resumed: the data set or its split is no longer "
                "the one it was trained on; start a new run instead"
            )
        for message in found.warnings:
            self._emit(RunWarning("snapshot_damaged", message))
        return found.state

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self._state.load_state_dict(state, self._processes.is_main)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(
                f"the snapshot of run {self._run_id} in {self.snapshots.folder} does not fit its "
                f"configuration or this version of Pneumoscope ({reason}); "
                "start a new run instead"
            ) from error

    def _warn_unsaved(self, path: Path, error: OSError) -> None:
        message = (
            f"{path} was not saved ({error}); the one before it is kept, and it is tried again"
        )
        self._emit(RunWarning("checkpoint_failed", message))
