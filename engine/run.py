"""One training of one prepared data set: train, evaluate, select, save, emit."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config import Config, UserError
from engine import checkpoint, device, metrics, model, results
from engine.data.augment import augment, normalise, to_float
from engine.data.dataset import Batch
from engine.data.loading import make_loaders
from engine.data.prepare import Prepared
from engine.events import (
    CheckpointSaved,
    EarlyStoppingTriggered,
    EpochMetrics,
    LearningRateChanged,
    RunWarning,
    TrainingComplete,
    TrainingStarted,
    TrainingStopped,
)
from engine.loop import (
    Emit,
    EpochState,
    EvalFigures,
    NonFiniteLoss,
    TrainFigures,
    evaluate_epoch,
    finite_sums,
    train_one_epoch,
)
from engine.selection import BestByRecall, EarlyStopping, EpochFigures
from engine.stop import StopRequest

Told = EpochMetrics | LearningRateChanged | EarlyStoppingTriggered
TOLD: dict[str, type[Told]] = {
    kind.name: kind for kind in (EpochMetrics, LearningRateChanged, EarlyStoppingTriggered)
}


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message names the batch."""


class Run:
    """One training: the state that its phases share."""

    def __init__(
        self,
        run_id: int,
        run_name: str,
        config: Config,
        data: Prepared,
        network: nn.Module,
        emit: Emit,
        stop: StopRequest,
    ) -> None:
        self.run_id, self.run_name, self.config = run_id, run_name, config
        self.data, self.emit, self.stop = data, emit, stop
        experiment = config.experiment
        steps = math.ceil(len(data.split.train) / config.system.batch_size)
        self.runtime = device.resolve(config.system, steps * experiment.epochs)
        self.loaders = make_loaders(config, data, self.runtime)
        self.model = network
        self.model.to(self.runtime.device).to(memory_format=self.runtime.memory_format)
        if self.runtime.compile:
            self.model.compile()
        self.scaler = self.runtime.scaler()
        self.optimizer = self._new_optimizer()
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            factor=experiment.reduce_lr_factor,
            patience=experiment.reduce_lr_patience,
        )
        self.best = BestByRecall(experiment.min_specificity)
        self.early = EarlyStopping(
            experiment.early_stopping_patience,
            experiment.early_stopping_min_delta,
            experiment.min_epochs,
            experiment.min_specificity,
        )
        self.best_summary: dict[str, Any] = {}
        self.story: list[Told] = []  # what epochs have told: a resumed run tells it again
        self.state = EpochState(epoch=1)
        self.training_time = 0.0  # seconds, before `_began`
        self.writer = checkpoint.CheckpointWriter()
        self.folder = Path(config.output.checkpoint_dir) / f"run_{run_id}"
        self._began = time.perf_counter()
        self._last_saved = time.monotonic()
        self._unsaved_best: Callable[[], None] | None = None

    def go(self, resume: bool) -> dict[str, Any]:
        """Steps 8 and 9 of a run: train, evaluate, select, save, emit; then the results."""
        self._announce()
        early_stopped = self._restore() if resume else False
        self._began = time.perf_counter()
        if not self.story:
            self._save_last("start")
        stopped = False
        while self.state.epoch <= self.config.experiment.epochs and not (early_stopped or stopped):
            trained = self._train_epoch()
            validated = None if trained.stopped else self._validate_epoch()
            if validated is None or validated.stopped:
                stopped = True
                break
            early_stopped = self._finish_epoch(trained, validated)
            last = self.state.epoch > self.config.experiment.epochs
            stopped = self.stop.is_set() and not (early_stopped or last)
        if stopped:
            self._save_last("stopped")
        self.writer.wait()
        if self._unsaved_best is not None:
            self._unsaved_best()  # once more, and now its error counts: nothing else holds it
        return self._finish(early_stopped, stopped)

    def _train_epoch(self) -> TrainFigures:
        epoch = self.state.epoch
        frozen = model.frozen_stages(epoch, self.config.model.freeze_epochs)
        self._thaw(frozen)
        model.set_train_mode(self.model, frozen)
        self.loaders.train_batches.set_epoch(epoch, skip_batches=self.state.step)
        seed, settings = self.config.system.seed, self.config.augment

        def to_input(batch: Batch) -> torch.Tensor:
            images = batch.images.to(self.runtime.device, non_blocking=True)
            index = batch.indices.to(self.runtime.device, non_blocking=True)
            return self._inputs(augment(images, index, seed, epoch, settings))

        try:
            return train_one_epoch(
                self.model,
                self.loaders.train,
                self.loaders.train_batches.sizes(),
                to_input,
                self.optimizer,
                self.scaler,
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

    def _validate_epoch(self) -> EvalFigures:
        def to_input(batch: Batch) -> torch.Tensor:
            images = batch.images.to(self.runtime.device, non_blocking=True)
            return self._inputs(to_float(images))

        return evaluate_epoch(
            self.model,
            self.loaders.val,
            len(self.loaders.val_batches),
            to_input,
            self.runtime,
            self.state.epoch,
            emit=self.emit,
            should_stop=self.stop.is_set,
        )

    def _finish_epoch(self, trained: TrainFigures, validated: EvalFigures) -> bool:
        """Select, schedule, save and emit; True where early stopping ends the run."""
        epoch, experiment = self.state.epoch, self.config.experiment
        summary = metrics.summary(validated.scores, validated.labels)
        figures = EpochFigures(
            epoch=epoch,
            recall=summary["recall"],
            specificity=summary["specificity"],
            auroc=summary["auroc"],
            val_loss=validated.loss,
        )
        is_best = self.best.update(figures)
        early_stopped = self.early.update(figures) and epoch < experiment.epochs
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if is_best:
            self.best_summary = {**summary, "val_loss": validated.loss, "train_loss": trained.loss}
            self._save_best(epoch, validated)
        self.scheduler.step(validated.loss)
        self.state = EpochState(epoch + 1)
        self._tell(
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
                epoch_seconds=trained.seconds,
                is_best=is_best,
            )
        )
        current = self.optimizer.param_groups[0]["lr"]
        if current < learning_rate:
            self._tell(LearningRateChanged(epoch, previous=learning_rate, current=current))
        if early_stopped:
            assert self.best.best is not None
            patience = experiment.early_stopping_patience
            self._tell(EarlyStoppingTriggered(epoch, self.best.best.epoch, patience))
        self._save_last("epoch", early_stopped)
        return early_stopped

    def _tell(self, event: Told) -> None:
        self.story.append(event)
        self.emit(event)

    def _finish(self, early_stopped: bool, stopped: bool) -> dict[str, Any]:
        """Results, files and the end event; every `best_` figure is of the one kept epoch."""
        best_epoch = self.best.best.epoch if self.best.best else None
        figures = {f"best_{name}": self.best_summary.get(name) for name in results.BEST_KEYS}
        ending: dict[str, Any] = {
            "best_epoch": best_epoch,
            "total_epochs_run": self.state.epoch - 1,
            "training_time": self._elapsed(),
            "early_stopped": early_stopped,
            "best_model_path": str(self.folder / "best_model.pt") if best_epoch else None,
        }
        outcome = {
            "run_id": self.run_id,
            "status": "stopped" if stopped else "completed",
            **figures,
            **ending,
            "selection": self.best.explain(),
            "validation": self.best_summary,
        }
        results.write_result(self.config.output, self.run_id, outcome)
        if best_epoch and not self.best.eligible_seen:
            self.emit(RunWarning("no_eligible_epoch", self.best.explain()))
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

    def _inputs(self, grey: torch.Tensor) -> torch.Tensor:
        return normalise(grey).contiguous(memory_format=self.runtime.memory_format)

    def _new_optimizer(self) -> torch.optim.AdamW:
        experiment = self.config.experiment
        model.thaw(self.model, model.frozen_stages(1, self.config.model.freeze_epochs))
        groups = list(model.parameter_groups(self.model, experiment.weight_decay, set()))
        return torch.optim.AdamW(groups, lr=experiment.learning_rate, fused=True)

    def _thaw(self, frozen: tuple[str, ...]) -> None:
        """Give the optimizer what is no longer frozen, at the learning rate of the rest."""
        model.thaw(self.model, frozen)
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        rate = self.optimizer.param_groups[0]["lr"]
        decay = self.config.experiment.weight_decay
        for group in model.parameter_groups(self.model, decay, known):
            self.optimizer.add_param_group({**group, "lr": rate})

    def _after_step(self, state: EpochState) -> None:
        minutes = (time.monotonic() - self._last_saved) / 60
        if minutes >= self.config.experiment.checkpoint_minutes:
            finite_sums(state)  # never keep weights that a bad loss has reached
            self._save_last("time")

    def _elapsed(self) -> float:
        return self.training_time + time.perf_counter() - self._began

    def _save_best(self, epoch: int, validated: EvalFigures) -> None:
        content = {
            "model": checkpoint.to_host(self.model.state_dict()),
            "config": self.config.to_dict(),
            "label_names": list(self.data.label_names),
            "epoch": epoch,
            "metrics": results.plain(self.best_summary),
        }
        names = [self.data.names[i] for i in validated.index]
        table = results.scores_table(names, validated.labels, validated.scores)
        path = self.folder / "best_model.pt"

        def write() -> None:
            checkpoint.save(content, path)
            results.write_scores(self.config.output, self.run_id, table)
            self._unsaved_best = None

        self.writer.wait()
        self._unsaved_best = write
        self._write(write, CheckpointSaved(path=str(path), epoch=epoch, reason="best"))

    def _save_last(self, reason: str, early_stopped: bool = False) -> None:
        content = checkpoint.to_host(self._snapshot(early_stopped))
        epoch = self.state.epoch - (1 if self.state.step == 0 else 0)
        path = self.folder / "last.pt"
        self._last_saved = time.monotonic()

        def write() -> None:
            if self._unsaved_best is not None:
                self._unsaved_best()  # `last.pt` must never know of a better model than there is
            checkpoint.save(content, path, keep=self.folder / "previous.pt")

        self._write(write, CheckpointSaved(path=str(path), epoch=epoch, reason=reason))

    def _write(self, write: Callable[[], None], done: CheckpointSaved) -> None:
        """In the background; a disk that is full costs a checkpoint, not the run."""

        def attempt() -> None:
            try:
                write()
            except OSError as error:
                message = f"{done.path} was not saved ({error}); the one before it stands"
                self.emit(RunWarning("checkpoint_failed", message))
            else:
                self.emit(done)

        self.writer.submit(attempt)

    def _snapshot(self, early_stopped: bool) -> dict[str, Any]:
        """Everything that decides how the run goes on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best.state_dict(),
            "early": self.early.state_dict(),
            "early_stopped": early_stopped,
            "best_summary": results.plain(self.best_summary),
            "story": [[event.name, dataclasses.asdict(event)] for event in self.story],
            "random": checkpoint.random_state(self.runtime.device),
            "epoch": self.state.epoch,
            "step": self.state.step,
            "sums": self.state.sums,
            "seconds": self.state.seconds,
            "training_time": self._elapsed(),
            "config": self.config.to_dict(),
            "fingerprint": self.data.fingerprint,
        }

    def _restore(self) -> bool:
        """Everything as it was at the last checkpoint; whether early stopping had ended the run.

        A run that was killed before its first checkpoint begins anew. Raises UserError where the
        data differ.
        """
        if not (self.folder / "last.pt").exists() and not (self.folder / "previous.pt").exists():
            return False
        saved = checkpoint.load_last(self.folder)
        if saved["fingerprint"] != self.data.fingerprint:
            raise UserError(
                f"run {self.run_id} cannot go on: the data set or its split is no longer the one "
                "it was trained on; start a new run instead"
            )
        self.state = EpochState(saved["epoch"], saved["step"], saved["sums"], saved["seconds"])
        at = self.state.epoch if self.state.step else max(1, self.state.epoch - 1)
        for epoch in range(1, at + 1):  # the optimizer's groups in the order they thawed
            self._thaw(model.frozen_stages(epoch, self.config.model.freeze_epochs))
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        self.best.load_state_dict(saved["best"])
        self.early.load_state_dict(saved["early"])
        self.best_summary = saved["best_summary"]
        for name, fields in saved["story"]:  # the sinks know what they have already
            self._tell(TOLD[name](**fields))
        self.training_time = saved["training_time"]
        checkpoint.set_random_state(saved["random"], self.runtime.device)
        return bool(saved["early_stopped"])

    def _name_batch(self, step: int) -> str:
        self.loaders.train_batches.set_epoch(self.state.epoch, skip_batches=step - 1)
        places = next(iter(self.loaders.train_batches))
        films = [self.data.names[i] for i in self.data.split.train[places]]
        shown = ", ".join(films[:8]) + (f" and {len(films) - 8} more" if len(films) > 8 else "")
        return (
            f"the loss is not a finite number in epoch {self.state.epoch}, step {step}, "
            f"on the batch of {shown}"
        )
