"""The epochs of one run of one prepared data set: train, evaluate, select, save, emit."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config import Config, UserError
from engine import device, metrics
from engine.data.dataset import Batch
from engine.data.inputs import evaluation_inputs, training_inputs
from engine.data.loading import make_loaders
from engine.data.prepare import Prepared
from engine.inference.bundle import bundle_of
from engine.records import checkpoint, results
from engine.records.snapshots import Snapshots
from engine.stop import StopRequest
from engine.stream.events import (
    CheckpointSaved,
    EarlyStoppingTriggered,
    EpochMetrics,
    LearningRateChanged,
    RunWarning,
    TrainingComplete,
    TrainingStarted,
    TrainingStopped,
)
from engine.training.learner import Learner
from engine.training.loop import EvalFigures, TrainFigures, evaluate_epoch, train_one_epoch
from engine.training.progress import Emit, EpochState, NonFiniteLoss, finite_sums
from engine.training.selection import EpochFigures, Selection

EpochEvent = EpochMetrics | LearningRateChanged | EarlyStoppingTriggered
EPOCH_EVENTS: dict[str, type[EpochEvent]] = {
    kind.name: kind for kind in (EpochMetrics, LearningRateChanged, EarlyStoppingTriggered)
}


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
        self.config = config
        self.data, self.emit, self.stop = data, emit, stop
        steps = math.ceil(len(data.split.train) / config.system.batch_size)
        self.runtime = device.resolve(config.system, steps * config.experiment.epochs)
        self.loaders = make_loaders(config, data, self.runtime)
        self.learner = Learner(network, config, self.runtime)
        self.selection = Selection(config.experiment)
        folder = Path(config.output.checkpoint_dir) / f"run_{run_id}"
        self.snapshots = Snapshots(folder, self._on_saved, self._on_save_failed)
        self.history: list[EpochEvent] = []  # re-emitted by a resumed run
        self.state = EpochState(epoch=1)
        self.training_time = 0.0  # seconds, before `_began`
        self._began = time.perf_counter()
        self._last_saved = time.monotonic()

    def go(self, resume: bool) -> dict[str, Any]:
        """Train, evaluate, select, save and emit until the end; the results."""
        self._announce()
        if resume:
            self._restore()
        self._began = time.perf_counter()
        if not self.history:
            self._save_last("start")
        stopped = False
        while not (self._is_done() or stopped):
            trained = self._train_epoch()
            validated = None if trained.stopped else self._evaluate_epoch()
            if validated is None or validated.stopped:
                stopped = True
                break
            self._finish_epoch(trained, validated)
            stopped = self.stop.is_set() and not self._is_done()
        if stopped:
            self._save_last("stopped")
        self.snapshots.finish()
        return self._finish(stopped)

    def _is_done(self) -> bool:
        return self.selection.stopped_early or self.state.epoch > self.config.experiment.epochs

    def _train_epoch(self) -> TrainFigures:
        epoch, seed, settings = self.state.epoch, self.config.system.seed, self.config.augment
        self.learner.begin_epoch(epoch)
        self.loaders.train_batches.set_epoch(epoch, skip_batches=self.state.step)

        def to_input(batch: Batch) -> torch.Tensor:
            return training_inputs(batch, self.runtime, seed, epoch, settings)

        try:
            return train_one_epoch(
                self.learner.model,
                self.loaders.train,
                self.loaders.train_batches.sizes(),
                to_input,
                self.learner.optimizer,
                self.learner.scaler,
                self.runtime,
                self.state,
                gradient_clip=self.config.experiment.gradient_clip,
                accumulate=self.config.experiment.accumulate,
                emit=self.emit,
                should_stop=self.stop.is_set,
                after_step=self._after_step,
            )
        except NonFiniteLoss as error:
            raise TrainingDiverged(self._name_batch(error.step)) from error

    def _evaluate_epoch(self) -> EvalFigures:
        return evaluate_epoch(
            self.learner.model,
            self.loaders.val,
            len(self.loaders.val_batches),
            lambda batch: evaluation_inputs(batch.images, self.runtime),
            self.runtime,
            self.state.epoch,
            emit=self.emit,
            should_stop=self.stop.is_set,
        )

    def _finish_epoch(self, trained: TrainFigures, validated: EvalFigures) -> None:
        """Select, schedule, save and emit."""
        epoch, experiment = self.state.epoch, self.config.experiment
        summary = metrics.summary(
            validated.scores, validated.labels, target_specificity=experiment.target_specificity
        )
        summary |= {"val_loss": validated.loss, "train_loss": trained.loss}
        figures = EpochFigures(
            epoch=epoch,
            recall=summary["recall"],
            specificity=summary["specificity"],
            auroc=summary["auroc"],
            val_loss=validated.loss,
        )
        is_best = self.selection.update(figures, summary, is_last=epoch >= experiment.epochs)
        if is_best:
            self._save_best(epoch, validated)
        learning_rate = self.learner.learning_rate
        self.learner.end_epoch(validated.loss)
        self.state = EpochState(epoch + 1)
        self._record(
            EpochMetrics(
                epoch=epoch,
                train_loss=trained.loss,
                val_loss=validated.loss,
                train_accuracy=trained.accuracy,
                val_accuracy=summary["accuracy"],
                val_precision=summary["precision"],
                val_recall=summary["recall"],
                val_specificity=summary["specificity"],
                val_f1=summary["f1"],
                val_auroc=summary["auroc"],
                learning_rate=learning_rate,
                val_recall_at_specificity=summary["recall_at_specificity"],
                epoch_seconds=trained.seconds + validated.seconds,
                train_seconds=trained.seconds,
                is_best=is_best,
            )
        )
        current = self.learner.learning_rate
        if current < learning_rate:
            self._record(LearningRateChanged(epoch, previous=learning_rate, current=current))
        if self.selection.stopped_early:
            assert self.selection.best_epoch is not None
            patience = experiment.early_stopping_patience
            self._record(EarlyStoppingTriggered(epoch, self.selection.best_epoch, patience))
        self._save_last("epoch")

    def _record(self, event: EpochEvent) -> None:
        self.history.append(event)
        self.emit(event)

    def _finish(self, stopped: bool) -> dict[str, Any]:
        """Results, files and the end event; every `best_` figure is of the one kept epoch."""
        selection, best_epoch = self.selection, self.selection.best_epoch
        figures = {f"best_{name}": selection.best_summary.get(name) for name in results.BEST_KEYS}
        ending: dict[str, Any] = {
            "best_epoch": best_epoch,
            "total_epochs_run": self.state.epoch - 1,
            "training_time": self._elapsed(),
            "early_stopped": selection.stopped_early,
            "best_model_path": str(self.snapshots.best_path) if best_epoch else None,
        }
        outcome = {
            "run_id": self.run_id,
            "status": "stopped" if stopped else "completed",
            **figures,
            **ending,
            "selection": selection.keeper.explain(),
            "validation": selection.best_summary,
        }
        results.write_result(self.config.output, self.run_id, outcome)
        if best_epoch and not selection.keeper.eligible_seen:
            self.emit(RunWarning("no_eligible_epoch", selection.keeper.explain()))
        if stopped:
            self.emit(TrainingStopped(metrics=figures, **ending, reason=self.stop.reason))
        else:
            self.emit(TrainingComplete(metrics=figures, **ending))
        return outcome

    def _announce(self) -> None:
        self.emit(
            TrainingStarted(
                run_name=self.run_name,
                config=self.config.to_dict(),
                device=f"{device.describe(self.runtime.device)}, {self.runtime.precision}",
                dataset=self.data.report["counts"],
            )
        )
        for code, message in self.data.warnings:
            self.emit(RunWarning(code=code, message=message))

    def _after_step(self, state: EpochState) -> None:
        minutes = (time.monotonic() - self._last_saved) / 60
        if minutes >= self.config.experiment.checkpoint_minutes:
            finite_sums(state)  # never keep weights that a bad loss has reached
            self._save_last("time")

    def _on_saved(self, path: Path, epoch: int, reason: str) -> None:
        self.emit(CheckpointSaved(str(path), epoch, reason))

    def _on_save_failed(self, path: Path, error: OSError) -> None:
        message = f"{path} was not saved ({error}); the one before it is kept"
        self.emit(RunWarning("checkpoint_failed", message))

    def _elapsed(self) -> float:
        return self.training_time + time.perf_counter() - self._began

    def _save_best(self, epoch: int, validated: EvalFigures) -> None:
        names = [self.data.names[i] for i in validated.index]
        table = results.scores_table(names, validated.labels, validated.scores)
        content = bundle_of(
            self.learner.model, self.config, self.data, epoch, self.selection.best_summary
        )
        self.snapshots.save_best(
            content, epoch, lambda: results.write_scores(self.config.output, self.run_id, table)
        )

    def _save_last(self, reason: str) -> None:
        self._last_saved = time.monotonic()
        epoch = self.state.epoch - (1 if self.state.step == 0 else 0)
        self.snapshots.save_last(checkpoint.to_host(self._snapshot()), epoch, reason)

    def _snapshot(self) -> dict[str, Any]:
        """Everything that decides how the run continues."""
        return {
            "run_uid": self.run_uid,
            "learner": self.learner.state_dict(),
            "selection": self.selection.state_dict(),
            "history": [[event.name, dataclasses.asdict(event)] for event in self.history],
            "random": checkpoint.random_state(self.runtime.device),
            "state": dataclasses.asdict(self.state),
            "training_time": self._elapsed(),
            "config": self.config.to_dict(),
            "fingerprint": self.data.fingerprint,
        }

    def _restore(self) -> None:
        """Everything as it was at the last snapshot; where there is none, the run begins anew.

        Raises UserError where the data differ.
        """
        saved = self.snapshots.load_last()
        if saved is None:
            return
        if saved["fingerprint"] != self.data.fingerprint:
            raise UserError(
                f"run {self.run_id} cannot be resumed: the data set or its split is no longer the "
                "one it was trained on; start a new run instead"
            )
        self.state = EpochState(**saved["state"])
        self.learner.load_state_dict(saved["learner"])
        self.selection.load_state_dict(saved["selection"])
        for name, fields in saved["history"]:  # the sinks know what they have already
            self._record(EPOCH_EVENTS[name](**fields))
        self.training_time = saved["training_time"]
        checkpoint.set_random_state(saved["random"], self.runtime.device)

    def _name_batch(self, step: int) -> str:
        self.loaders.train_batches.set_epoch(self.state.epoch, skip_batches=step - 1)
        places = next(iter(self.loaders.train_batches))
        images = [self.data.names[i] for i in self.data.split.train[places]]
        shown = ", ".join(images[:8]) + (f" and {len(images) - 8} more" if images[8:] else "")
        return (
            f"the loss is not a finite number in epoch {self.state.epoch}, step {step}, "
            f"on the batch of {shown}"
        )
