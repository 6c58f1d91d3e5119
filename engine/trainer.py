"""A run, from data set to result: the phases in order, each a method, readable top to bottom."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config import Config, ConfigManager, UserError
from engine import checkpoint, device, metrics, model, results
from engine.data.augment import augment, normalise, to_float
from engine.data.dataset import Batch, EpochBatches, FilmDataset, choose_workers, make_loader
from engine.data.prepare import Prepared, prepare
from engine.events import (
    CheckpointSaved,
    EarlyStoppingTriggered,
    EpochMetrics,
    EventQueue,
    LearningRateChanged,
    RunWarning,
    TrainingComplete,
    TrainingFailed,
    TrainingStarted,
    TrainingStopped,
)
from engine.loop import (
    EpochState,
    EvalFigures,
    NonFiniteLoss,
    TrainFigures,
    evaluate_epoch,
    finite_sums,
    train_one_epoch,
)
from engine.selection import BestByRecall, EarlyStopping, EpochFigures
from engine.sinks.console import ConsoleSink
from engine.sinks.database import DatabaseSink
from engine.sinks.files import FilesSink
from engine.store import create_run_sync, update_run_sync

EVALUATION_BATCH = 2  # times the training batch: no gradients are kept, so more fits


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message names the batch."""


class CentralizedTrainer:
    """Trains one model on one data set and keeps everything about it."""

    def __init__(
        self,
        config: Config | None = None,
        run_name: str = "run",
        run_description: str = "",
        run_id: int | None = None,
    ) -> None:
        self.config = config if config is not None else ConfigManager.load()
        self.run_name = run_name
        self.run_description = run_description
        self.run_id = run_id
        self._prepared: tuple[Path, Prepared] | None = None
        self._stop_reason: str | None = None
        self._stop = threading.Event()

    def stop(self, reason: str = "asked to stop") -> None:
        """Finish the step, save, and end with `training_stopped`. Safe from any thread."""
        self._stop_reason = reason
        self._stop.set()

    def prepare_data(
        self, dataset_path: str | Path, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """Validate the data set, fill the decode cache and split it; the validation report.

        Raises UserError with everything that is wrong with the data set.
        """
        results.check_writable(self.config.output)
        prepared = prepare(dataset_path, self.config, progress)
        self._prepared = (Path(dataset_path).resolve(), prepared)
        return prepared.report

    def train(self, dataset_path: str | Path, resume: bool = False) -> dict[str, Any]:
        """Train to the end, to early stopping, or until `stop`; the results of the kept epoch.

        With `resume`, go on from the last checkpoint of `run_id`. Raises UserError for what the
        user can mend, TrainingDiverged for a loss that is not a number; either is also recorded.
        """
        path = Path(dataset_path).resolve()
        if self._prepared is None or self._prepared[0] != path:
            self.prepare_data(path)
        assert self._prepared is not None
        prepared = self._prepared[1]
        seed_everything(self.config.system.seed)
        if self.run_id is None:
            self.run_id = create_run_sync(
                Path(self.config.output.database),
                run_name=self.run_name,
                run_description=self.run_description,
                config=self.config.to_dict(),
                dataset_path=str(path),
                dataset_fingerprint=prepared.fingerprint,
                status="preparing",
                pid=os.getpid(),
            )
        else:
            update_run_sync(
                Path(self.config.output.database),
                self.run_id,
                config=self.config.to_dict(),
                dataset_path=str(path),
                dataset_fingerprint=prepared.fingerprint,
                pid=os.getpid(),
            )
        results.write_report(self.config.output, self.run_id, prepared.report)
        sinks = [
            DatabaseSink(Path(self.config.output.database)),
            FilesSink(Path(self.config.output.results_dir), Path(self.config.output.log_dir)),
            ConsoleSink(),
        ]
        with EventQueue(sinks, self.run_id) as events:
            try:
                run = Run(self, prepared, events)
                return run.go(resume)
            except BaseException as error:
                results.log_traceback(self.config.output, self.run_id, traceback.format_exc())
                events.emit(TrainingFailed(error=describe_error(error), hint=hint_for(error)))
                raise


class Run:
    """One training: the state that its phases share."""

    def __init__(self, trainer: CentralizedTrainer, prepared: Prepared, events: EventQueue) -> None:
        assert trainer.run_id is not None
        self.trainer, self.data, self.events = trainer, prepared, events
        self.config: Config = trainer.config
        self.run_id: int = trainer.run_id
        system, experiment = self.config.system, self.config.experiment
        train, val = prepared.split.train, prepared.split.val
        self.train_batches = EpochBatches(len(train), system.batch_size, system.seed, shuffle=True)
        self.val_batches = EpochBatches(
            len(val), system.batch_size * EVALUATION_BATCH, system.seed, shuffle=False
        )
        self.runtime = device.resolve(system, len(self.train_batches) * experiment.epochs)
        workers = system.num_workers
        train_set = FilmDataset(prepared.images, prepared.labels, train)
        val_set = FilmDataset(prepared.images, prepared.labels, val)
        if workers == "auto":
            workers = choose_workers(train_set, self.train_batches, self.runtime.device)
        loading = (workers, self.runtime.pin_memory, system.prefetch_factor)
        self.train_loader = make_loader(train_set, self.train_batches, *loading)
        self.val_loader = make_loader(val_set, self.val_batches, *loading)
        network = model.build_model(self.config.model, experiment.dropout_rate)
        self.model = network.to(self.runtime.device, memory_format=self.runtime.memory_format)
        self.step_model: nn.Module = self.model
        if self.runtime.compile:
            self.step_model = torch.compile(self.model)
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
        self.state = EpochState(epoch=1)
        self.training_time = 0.0
        self.writer = checkpoint.CheckpointWriter()
        self.folder = Path(self.config.output.checkpoint_dir) / f"run_{self.run_id}"
        self._last_saved = time.monotonic()

    def go(self, resume: bool) -> dict[str, Any]:
        """Steps 8 and 9 of a run: train, evaluate, select, save, emit; then the results."""
        if resume:
            self._restore()
        self._announce()
        experiment = self.config.experiment
        self._began = time.perf_counter()
        early_stopped = stopped = False
        while self.state.epoch <= experiment.epochs and not (early_stopped or stopped):
            trained = self._train_epoch()
            if trained.stopped:
                stopped = True
                break
            validated = self._validate_epoch()
            if validated.stopped:
                stopped = True
                break
            early_stopped = self._finish_epoch(trained, validated)
            stopped = not early_stopped and self.trainer._stop.is_set()
        if stopped:
            self._save_last("stopped")
        self.writer.wait()
        return self._finish(early_stopped, stopped)

    def _train_epoch(self) -> TrainFigures:
        epoch = self.state.epoch
        frozen = model.frozen_stages(epoch, self.config.model.freeze_epochs)
        self._thaw(frozen)
        model.set_train_mode(self.model, frozen)
        self.train_batches.set_epoch(epoch, skip_batches=self.state.step)
        seed, settings = self.config.system.seed, self.config.augment

        def to_input(batch: Batch) -> torch.Tensor:
            images = batch.images.to(self.runtime.device, non_blocking=True)
            index = batch.index.to(self.runtime.device, non_blocking=True)
            return self._inputs(augment(images, index, seed, epoch, settings))

        try:
            return train_one_epoch(
                self.step_model,
                self.train_loader,
                len(self.train_batches),
                self.config.system.batch_size,
                len(self.data.split.train),
                to_input,
                self.optimizer,
                self.scaler,
                self.runtime,
                self.state,
                gradient_clip=self.config.experiment.gradient_clip,
                accumulate=self.config.experiment.accumulate,
                emit=self.events.emit,
                should_stop=self.trainer._stop.is_set,
                after_step=self._after_step,
            )
        except NonFiniteLoss as error:
            raise TrainingDiverged(self._name_batch(error.step)) from error

    def _validate_epoch(self) -> EvalFigures:
        def to_input(batch: Batch) -> torch.Tensor:
            images = batch.images.to(self.runtime.device, non_blocking=True)
            return self._inputs(to_float(images))

        return evaluate_epoch(
            self.step_model,
            self.val_loader,
            len(self.val_batches),
            to_input,
            self.runtime,
            self.state.epoch,
            emit=self.events.emit,
            should_stop=self.trainer._stop.is_set,
        )

    def _finish_epoch(self, trained: TrainFigures, validated: EvalFigures) -> bool:
        """Select, save, emit and schedule; True where early stopping ends the run."""
        epoch = self.state.epoch
        summary = metrics.summary(validated.scores, validated.labels)
        figures = EpochFigures(
            epoch=epoch,
            recall=summary["recall"],
            specificity=summary["specificity"],
            auroc=summary["auroc"],
            val_loss=validated.loss,
        )
        is_best = self.best.update(figures)
        stop_early = self.early.update(figures)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if is_best:
            self.best_summary = {**summary, "val_loss": validated.loss, "train_loss": trained.loss}
            self._save_best(epoch, validated)
        self.scheduler.step(validated.loss)
        self.state = EpochState(epoch + 1)
        self.training_time += time.perf_counter() - self._began
        self._began = time.perf_counter()
        self._save_last("epoch")
        self.events.emit(
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
            self.events.emit(LearningRateChanged(epoch, previous=learning_rate, current=current))
        if stop_early and epoch < self.config.experiment.epochs:
            assert self.best.best is not None
            patience = self.config.experiment.early_stopping_patience
            self.events.emit(EarlyStoppingTriggered(epoch, self.best.best.epoch, patience))
            return True
        return False

    def _finish(self, early_stopped: bool, stopped: bool) -> dict[str, Any]:
        """Results, files and the end event; every `best_` figure is of the one kept epoch."""
        self.training_time += time.perf_counter() - self._began
        best_epoch = self.best.best.epoch if self.best.best else None
        best_path = str(self.folder / "best_model.pt") if best_epoch else None
        ending: dict[str, Any] = {
            "metrics": {f"best_{k}": self.best_summary.get(k) for k in results.BEST_KEYS},
            "best_epoch": best_epoch,
            "total_epochs_run": self.state.epoch - 1,
            "training_time": self.training_time,
            "early_stopped": early_stopped,
            "best_model_path": best_path,
        }
        outcome = {
            "run_id": self.run_id,
            "status": "stopped" if stopped else "completed",
            **ending.pop("metrics"),
            **ending,
            "selection": self.best.explain(),
            "validation": self.best_summary,
        }
        best_metrics = {k: outcome[k] for k in outcome if k.startswith("best_")}
        ending["metrics"] = {f"best_{k}": best_metrics[f"best_{k}"] for k in results.BEST_KEYS}
        results.write_result(self.config.output, self.run_id, outcome)
        if stopped:
            reason = self.trainer._stop_reason or "asked to stop"
            self.events.emit(TrainingStopped(**ending, reason=reason))
        else:
            self.events.emit(TrainingComplete(**ending))
        return outcome

    def _announce(self) -> None:
        self.events.emit(
            TrainingStarted(
                run_name=self.trainer.run_name,
                config=self.config.to_dict(),
                device=f"{device.describe(self.runtime.device)}, {self.runtime.precision}",
                dataset=self.data.report["counts"],
            )
        )
        for code, message in self.data.warnings:
            self.events.emit(RunWarning(code=code, message=message))

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

    def _save_best(self, epoch: int, validated: EvalFigures) -> None:
        path = self.folder / "best_model.pt"
        content = {
            "model": checkpoint.to_host(self.model.state_dict()),
            "config": self.config.to_dict(),
            "label_names": list(self.data.label_names),
            "epoch": epoch,
            "metrics": results.plain(self.best_summary),
        }
        names = [self.data.names[i] for i in validated.index]
        table = results.scores_table(names, validated.labels, validated.scores)

        def write() -> None:
            checkpoint.save(content, path)
            results.write_scores(self.config.output, self.run_id, table)
            self.events.emit(CheckpointSaved(path=str(path), epoch=epoch, reason="best"))

        self.writer.submit(write)

    def _save_last(self, reason: str) -> None:
        path = self.folder / "last.pt"
        elapsed = time.perf_counter() - self._began
        content = checkpoint.to_host(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "best": self.best.state_dict(),
                "early": self.early.state_dict(),
                "best_summary": results.plain(self.best_summary),
                "random": checkpoint.random_state(self.runtime.device),
                "epoch": self.state.epoch,
                "step": self.state.step,
                "sums": self.state.sums,
                "seconds": self.state.seconds,
                "training_time": self.training_time + elapsed,
                "config": self.config.to_dict(),
                "fingerprint": self.data.fingerprint,
            }
        )
        epoch = self.state.epoch - (1 if self.state.step == 0 else 0)
        self._last_saved = time.monotonic()

        def write() -> None:
            checkpoint.save(content, path, keep=self.folder / "previous.pt")
            self.events.emit(CheckpointSaved(path=str(path), epoch=epoch, reason=reason))

        self.writer.submit(write)

    def _restore(self) -> None:
        """Everything as it was at the last checkpoint. Raises UserError where the data differ."""
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
        self.training_time = saved["training_time"]
        checkpoint.set_random_state(saved["random"], self.runtime.device)

    def _name_batch(self, step: int) -> str:
        films = [self.data.names[i] for i in self._films_of(step)]
        shown = ", ".join(films[:8]) + (f" and {len(films) - 8} more" if len(films) > 8 else "")
        return (
            f"the loss is not a finite number in epoch {self.state.epoch}, step {step}, "
            f"on the batch of {shown}"
        )

    def _films_of(self, step: int) -> list[int]:
        self.train_batches.set_epoch(self.state.epoch, skip_batches=step - 1)
        return [int(self.data.split.train[p]) for p in next(iter(self.train_batches))]


def seed_everything(seed: int) -> None:
    """Seed every global random generator."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def describe_error(error: BaseException) -> str:
    """One line for a person."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def hint_for(error: BaseException) -> str | None:
    """What to try, where something is known to help."""
    if isinstance(error, TrainingDiverged):
        return "lower experiment.learning_rate, or set system.precision=fp32"
    if isinstance(error, torch.OutOfMemoryError):
        return "lower system.batch_size, and raise experiment.accumulate by the same factor"
    return None
