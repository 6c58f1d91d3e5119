"""The epochs of one run of one prepared data set: train, evaluate, select, save, emit."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from config import Config, UserError
from config.errors import first_line
from engine import device, metrics
from engine.data.augment import epoch_parameters
from engine.data.dataset import Batch
from engine.data.inputs import evaluation_inputs, training_inputs
from engine.data.loading import batch_names, make_loaders
from engine.data.prepare import Prepared
from engine.inference import bundle
from engine.records import checkpoint, results
from engine.records.snapshots import Snapshots
from engine.stop import StopRequest
from engine.stream.events import (
    CheckpointSaved,
    EarlyStoppingTriggered,
    Event,
    LearningRateChanged,
    RunWarning,
    TrainingProgress,
    TrainingStarted,
)
from engine.threads import Threads
from engine.training.history import History
from engine.training.learner import Learner
from engine.training.loop import EvalFigures, TrainFigures, evaluate_epoch, train_one_epoch
from engine.training.progress import Emit, EpochState, NonFiniteLoss, finite_sums
from engine.training.selection import Selection


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message names the batch."""


class Run:
    """One training: the state that its phases share."""

    def __init__(
        self,
        run_id: int,
        run_uid: str,
        run_name: str,
        config: Config,
        data: Prepared,
        network: nn.Module,
        emit: Emit,
        stop: StopRequest,
    ) -> None:
        self.run_id, self.run_uid, self.run_name = run_id, run_uid, run_name
        self.config, self.data, self.emit, self.stop = config, data, emit, stop
        steps = math.ceil(len(data.split.train) / config.system.batch_size)
        freezes = config.model.freeze_epochs > 0
        self.runtime = device.resolve(config.system, steps * config.experiment.epochs, freezes)
        self.loaders = make_loaders(config, data, self.runtime)
        self.learner = Learner(network, config, self.runtime)
        self.runtime = dataclasses.replace(self.runtime, compile=self.learner.is_compiled)
        self.threads = Threads(config.system, self.runtime.device)
        self.selection = Selection(config.experiment)
        self.history = History(emit)
        self.snapshots = Snapshots(
            Path(config.output.checkpoint_dir) / f"run_{run_id}",
            run_uid,
            on_saved=lambda path, epoch, reason: emit(CheckpointSaved(str(path), epoch, reason)),
            on_failed=self._warn_unsaved,
            scores_path=results.scores_path(config.output, run_id),
        )
        self.bundle = bundle.describe(config, data, run_uid)  # what all of its bundles share
        self.kept_scores: str | None = None  # the best epoch's scores of the val part, as CSV
        self.state = EpochState(epoch=1)
        self.training_time = 0.0  # seconds, before `_began`
        self._began = self._epoch_began = time.perf_counter()
        self._last_saved = time.monotonic()

    def train(self, resume: bool) -> bool:
        """Train, evaluate, select, save and emit until the end; False where it was stopped."""
        self._announce()
        if resume and self.snapshots.exists():
            self._restore()
        else:
            self.snapshots.begin()
            self._warn()
        self._began = time.perf_counter()
        if not self.history:
            self._save("start")
        while not self._is_done():
            trained = self._train_epoch()
            if trained.stopped:
                break
            validated = self.evaluate(self.loaders.val, len(self.loaders.val_batches))
            if validated.stopped:
                break
            self._finish_epoch(trained, validated)
            if self.stop.is_set():
                break
        if not self._is_done():
            self._save("stopped")
        return self._is_done()

    def evaluate(self, loader: Iterable[Batch], steps: int) -> EvalFigures:
        """Score every image of `loader` with the present weights."""
        self.threads.balance()
        return evaluate_epoch(
            self.learner.model,
            loader,
            steps,
            lambda batch: evaluation_inputs(batch.images, self.runtime),
            self.runtime,
            self.state.epoch,
            emit=self._emit_progress,
            should_stop=self.stop.is_set,
        )

    def elapsed(self) -> float:
        """Seconds of training so far, in all processes that had the run."""
        return self.training_time + time.perf_counter() - self._began

    def _is_done(self) -> bool:
        return self.selection.stopped_early or self.state.epoch > self.config.experiment.epochs

    def _train_epoch(self) -> TrainFigures:
        epoch, seed, settings = self.state.epoch, self.config.system.seed, self.config.augment
        self._epoch_began = time.perf_counter() - self.state.seconds
        self.learner.begin_epoch(epoch)
        self.loaders.train_batches.set_epoch(epoch, skip_batches=self.state.step)
        side = self.config.data.image_size
        table = epoch_parameters(len(self.data.labels), seed, epoch, settings, side)
        table = table.to(self.runtime.device)
        try:
            return train_one_epoch(
                self.learner.step_model,
                self.loaders.train,
                self.loaders.train_batches.sizes(),
                lambda batch: training_inputs(batch, table, self.runtime, seed, settings),
                self.learner.optimizer,
                self.learner.scaler,
                self.runtime,
                self.state,
                gradient_clip=self.config.experiment.gradient_clip,
                accumulate=self.config.experiment.accumulate,
                emit=self._emit_progress,
                should_stop=self.stop.is_set,
                after_step=self._after_step,
            )
        except NonFiniteLoss as error:
            names = batch_names(self.data, self.loaders.train_batches, epoch, error.step)
            raise TrainingDiverged(
                f"the loss is not a finite number in epoch {epoch}, step {error.step}, on the "
                f"batch of {names}"
            ) from error

    def _finish_epoch(self, trained: TrainFigures, validated: EvalFigures) -> None:
        """Select, schedule, save and emit."""
        epoch, experiment = self.state.epoch, self.config.experiment
        summary = metrics.summary(
            validated.scores, validated.labels, target_specificity=experiment.target_specificity
        )
        summary |= {"val_loss": validated.loss, "train_loss": trained.loss}
        is_best = self.selection.update(epoch, summary, is_last=epoch >= experiment.epochs)
        learning_rate = self.learner.learning_rate
        self.learner.end_epoch(validated.loss)
        self.state = EpochState(epoch + 1)
        self.history.record_epoch(epoch, trained, validated, summary, learning_rate, is_best)
        current = self.learner.learning_rate
        if current < learning_rate:
            self.history.record(LearningRateChanged(epoch, learning_rate, current))
        if self.selection.stopped_early:
            assert self.selection.best_epoch is not None
            patience = experiment.early_stopping_patience
            best_epoch = self.selection.best_epoch
            self.history.record(EarlyStoppingTriggered(epoch, best_epoch, patience))
        self._save("epoch", validated if is_best else None)

    def _after_step(self, state: EpochState) -> None:
        self.threads.balance()
        minutes = (time.monotonic() - self._last_saved) / 60
        if minutes >= self.config.experiment.checkpoint_minutes:
            finite_sums(state)  # never keep weights that a bad loss has reached
            self._save("time")

    def _save(self, reason: str, best: EvalFigures | None = None) -> None:
        """A snapshot of everything that decides how the run continues, in the background.

        `best` are the figures of an epoch that has just become the best: its bundle comes too.
        """
        self._last_saved = time.monotonic()
        learner, content = self.learner.state_dict(), None
        if best is not None:
            names = [self.data.names[i] for i in best.index]
            self.kept_scores = results.scores_table(names, best.labels, best.scores)
            epoch, summary = self.state.epoch - 1, self.selection.best_summary
            content = bundle.of_epoch(
                self.bundle, learner["model"], epoch, summary, best.scores, best.labels
            )
        snapshot = {
            "run_uid": self.run_uid,
            "best_epoch": self.selection.best_epoch,
            "scores": self.kept_scores,
            "learner": learner,
            "selection": self.selection.state_dict(),
            "history": self.history.state_dict(),
            "random": checkpoint.random_state(self.runtime.device),
            "state": dict(vars(self.state)),
            "training_time": self.elapsed(),
            "config": self.config.to_dict(),
            "fingerprint": self.data.fingerprint,
        }
        self.snapshots.save(snapshot, content, self.state.epoch - 1, reason)

    def _restore(self) -> None:
        """Everything as it was at the last snapshot. Raises UserError where it does not fit."""
        found = self.snapshots.load()
        saved = found.state
        if saved["fingerprint"] != self.data.fingerprint:
            raise UserError(
                f"run {self.run_id} cannot be resumed: the data set or its split is no longer the "
                "one it was trained on; start a new run instead"
            )
        try:
            self.state = EpochState(**saved["state"])
            self.learner.load_state_dict(saved["learner"])
            self.selection.load_state_dict(saved["selection"])
            checkpoint.set_random_state(saved["random"], self.runtime.device)
            self.history.load_state_dict(saved["history"], self.state.epoch - 1)
            self.training_time = float(saved["training_time"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(
                f"the snapshot of run {self.run_id} in {self.snapshots.folder} does not fit its "
                f"configuration or this version of Pneumoscope ({reason}); "
                "start a new run instead"
            ) from error
        self.kept_scores = saved["scores"]
        if saved["best_epoch"] is None:
            self.selection.forget_best()
        for message in found.warnings:
            self.emit(RunWarning("snapshot_damaged", message))

    def _announce(self) -> None:
        self.emit(
            TrainingStarted(
                run_name=self.run_name,
                config=self.config.to_dict(),
                device=f"{device.describe(self.runtime.device)}, {self.runtime.precision}",
                dataset=self.data.report["counts"],
            )
        )
        for code, message in self.learner.warnings:
            self.emit(RunWarning(code=code, message=message))

    def _warn(self) -> None:
        """Of what is unusual in the data; a resumed run has these warnings in its log already."""
        for code, message in self.data.warnings:
            self.emit(RunWarning(code=code, message=message))

    def _emit_progress(self, event: Event) -> None:
        """Add what the loop cannot know: how long the run will take."""
        mean = self.history.seconds_per_epoch()
        if isinstance(event, TrainingProgress) and mean is not None:
            epochs = 0 if self._is_done() else self.config.experiment.epochs - event.epoch + 1
            left = epochs * mean - (time.perf_counter() - self._epoch_began)
            event = dataclasses.replace(event, run_eta_seconds=max(left, event.eta_seconds))
        self.emit(event)

    def _warn_unsaved(self, path: Path, error: OSError) -> None:
        message = (
            f"{path} was not saved ({error}); the one before it is kept, and it is tried again"
        )
        self.emit(RunWarning("checkpoint_failed", message))
