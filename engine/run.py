"""The epochs of one run of one prepared data set: train, evaluate, select, save, emit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from config import Config
from engine import device, metrics
from engine.data.augment import epoch_parameters
from engine.data.dataset import Batch
from engine.data.inputs import evaluation_inputs, training_inputs
from engine.data.loading import batch_names, batch_of_all, make_loaders
from engine.data.prepare import Prepared
from engine.distributed import ALONE, Processes, stream_seed
from engine.metrics.calibrated import (
    Calibrated,
    at_operating_point,
    calibrate,
    wanted_rule,
)
from engine.model.resnet import stem_of
from engine.saving import Saving
from engine.stop import StopRequest
from engine.stream.events import (
    EarlyStoppingTriggered,
    Event,
    LearningRateChanged,
    RunWarning,
    TrainingStarted,
)
from engine.threads import Threads
from engine.training.learner import Learner
from engine.training.loop import EvalFigures, TrainFigures, evaluate_epoch, train_one_epoch
from engine.training.progress import Emit, EpochState, NonFiniteLoss, join_sums
from engine.training.recipe import side_of
from engine.training.state import TrainingState


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
        processes: Processes = ALONE,
    ) -> None:
        """Of several processes each makes one, and calls its methods together with the others.

        Raises UserError.
        """
        self.processes = processes
        self.run_id, self.run_uid, self.run_name = run_id, run_uid, run_name
        self.config, self.data, self.emit, self.stop = config, data, emit, stop
        steps = math.ceil(len(data.split.train) / batch_of_all(config.system, processes))
        freezes = config.model.freeze_epochs > 0
        self._channels = 1 if config.model.grey_input else 3
        self.runtime = device.resolve(config.system, steps * config.experiment.epochs, freezes)
        self.loaders = make_loaders(config, data, self.runtime, processes)
        positive_share = float(data.labels[data.split.train].mean())
        learner = Learner(network, config, self.runtime, steps, positive_share, processes)
        self.runtime = dataclasses.replace(self.runtime, compile=learner.is_compiled)
        self.threads = Threads(config.system, self.runtime.device)
        self.state = TrainingState(learner, config.experiment, emit)
        self.saving = Saving(run_id, run_uid, config, data, self.state, emit, processes)
        self._stopping = False  # all processes, at the same step

    def train(self, resume: bool) -> bool:
        """Train, evaluate, select, save and emit until the end; False where it was stopped."""
        self._announce()
        if self.saving.begin(resume):
            self._check_position()
        else:
            self._warn()
        self.state.start_clock()
        if not self.state.history:
            self.saving.save("start")
        while not self.state.is_done:
            trained = self.train_epoch()
            if trained.stopped:
                break
            validated = self._validate()
            if validated.stopped:
                break
            self._finish_epoch(trained, validated)
            if self.processes.any([self.stop.is_set()])[0]:
                break
        if not self.state.is_done:
            self.saving.save("stopped")
        return self.state.is_done

    def _validate(self) -> EvalFigures:
        epoch = self.state.position.epoch
        self.state.learner.share_statistics()
        batches = len(self.loaders.val_batches)
        return self.evaluate(self.loaders.val, batches, epoch, processes=self.processes)

    def evaluate(
        self,
        loader: Iterable[Batch],
        steps: int,
        epoch: int,
        phase: str = "validate",
        model: nn.Module | None = None,
        processes: Processes = ALONE,
    ) -> EvalFigures:
        """Score every image of `loader` with the weights of `epoch`: `model`, else the present.

        With `processes` each has a part of the images, and all get the figures of the whole.
        """
        self.threads.balance()
        in_use = self.state.learner.in_use() if model is None else nullcontext(model)
        with in_use as network:
            return evaluate_epoch(
                network,
                loader,
                steps,
                lambda batch: evaluation_inputs(batch.images, self.runtime, self._channels),
                self.runtime,
                epoch,
                phase,
                emit=self._emit_progress,
                should_stop=self.stop.is_set,
                average_views=self.config.recipe.average_views,
                processes=processes,
            )

    def train_epoch(self) -> TrainFigures:
        """Train the epoch of the state's position, from its step on. Raises TrainingDiverged."""
        position, learner = self.state.position, self.state.learner
        epoch, seed, settings = position.epoch, self.config.system.seed, self.config.augment
        self.state.begin_epoch()
        self.loaders.train_batches.set_epoch(epoch, skip_batches=position.step)
        side = side_of(epoch, self.config.recipe, self.config.data.image_size)
        table = epoch_parameters(len(self.data.labels), seed, epoch, settings, side)
        table = table.to(self.runtime.device)

        def to_input(batch: Batch) -> torch.Tensor:
            if not self.processes.is_alone:  # dropout's own stream in each, whatever was before
                rank, count = self.processes.rank, self.processes.count
                torch.manual_seed(stream_seed(seed, epoch, position.step, rank, count))
            return training_inputs(batch, table, self.runtime, seed, settings, self._channels, side)

        try:
            return train_one_epoch(
                learner.step_model,
                self.loaders.train,
                self.loaders.train_batches.sizes(),
                to_input,
                learner.optimizer,
                learner.scaler,
                self.runtime,
                position,
                gradient_clip=self.config.experiment.gradient_clip,
                accumulate=self.config.experiment.accumulate,
                emit=self._emit_progress,
                should_stop=lambda: self._stopping,
                after_step=self._after_step,
                objective=learner.objective,
                processes=self.processes,
                hold=learner.hold,
            )
        except NonFiniteLoss as error:
            names = batch_names(self.data, self.loaders.train_batches, epoch, error.step)
            raise TrainingDiverged(
                f"the loss is not a finite number in epoch {epoch}, step {error.step}, on the "
                f"batch of {names}"
            ) from error

    def _finish_epoch(self, trained: TrainFigures, validated: EvalFigures) -> None:
        """Select, schedule, save and emit."""
        state, experiment = self.state, self.config.experiment
        epoch, learner, selection = state.position.epoch, state.learner, state.selection
        summary = metrics.summary(
            validated.scores, validated.labels, target_specificity=experiment.target_specificity
        )
        summary |= {"val_loss": validated.loss, "train_loss": trained.loss}
        best = None
        is_best = selection.update(epoch, summary, is_last=epoch >= experiment.epochs)
        if is_best:
            best = validated, self._calibrate(validated, summary)
        learning_rate = learner.learning_rate
        learner.end_epoch(validated.loss)
        state.position = EpochState(epoch + 1)
        state.history.record_epoch(epoch, trained, validated, summary, learning_rate, is_best)
        if learner.learning_rate < learning_rate:
            change = LearningRateChanged(epoch, learning_rate, learner.learning_rate)
            state.history.record(change)
        if selection.stopped_early:
            assert selection.best_epoch is not None
            patience = experiment.early_stopping_patience
            state.history.record(EarlyStoppingTriggered(epoch, selection.best_epoch, patience))
        self.saving.save("epoch", best)

    def _calibrate(self, validated: EvalFigures, summary: dict[str, Any]) -> Calibrated:
        """Temperature and operating points of the epoch to keep, whose figures are at 0.5.

        From now on its figures are those of calibrated scores at the default operating point.
        """
        experiment = self.config.experiment
        wanted = wanted_rule(experiment.operating_point, experiment.target_specificity)
        found = calibrate(validated.scores, validated.labels, wanted)
        losses = {name: summary[name] for name in ("val_loss", "train_loss")}
        self.state.selection.best_summary = losses | at_operating_point(
            found.scores,
            validated.labels,
            found.points[found.default],
            experiment.target_specificity,
            self.data.owners(validated.index),
        )
        self.state.selection.best_summary["operating_point"]["unmet"] = found.unmet
        return found

    def _after_step(self, position: EpochState) -> None:
        self.threads.balance()
        self.state.learner.after_step(position.step)
        flags = [self.stop.is_set(), self.saving.is_due()]
        self._stopping, is_due = self.processes.any(flags)
        if is_due:
            join_sums(position, self.processes)  # never keep weights that a bad loss has reached
            self.saving.save("time")

    def _check_position(self) -> None:
        """In the middle of an epoch, only batches of the same size can be continued."""
        position = self.state.position
        sizes = self.loaders.train_batches.sizes()
        seen = self.processes.share(position.images)
        if position.step and seen != sum(sizes[: position.step]):
            self.state.position = EpochState(position.epoch)
            message = (
                f"the batches have another size than when the run was saved: epoch "
                f"{position.epoch} begins again, from the weights of its step {position.step}"
            )
            self.emit(RunWarning("epoch_restarted", message))

    def _announce(self) -> None:
        self.emit(
            TrainingStarted(
                run_name=self.run_name,
                config=self.config.to_dict(),
                device=self._device_text(),
                dataset=self.data.report["counts"],
            )
        )
        for code, message in self.state.learner.warnings:
            self.emit(RunWarning(code=code, message=message))

    def _device_text(self) -> str:
        text = f"{device.describe(self.runtime.device)}, {self.runtime.precision}"
        if self.processes.is_alone:
            return text
        batch = batch_of_all(self.config.system, self.processes)
        return f"{text}, {self.processes.count} processes, {batch} images a step together"

    def _warn(self) -> None:
        """Of what is unusual in the data; a resumed run has these warnings in its log already."""
        for code, message in self.data.warnings:
            self.emit(RunWarning(code=code, message=message))
        model, side = self.config.model, self.config.data.image_size
        if model.stem == "auto" and stem_of(model, side) == "small":
            message = (
                f"for images of {side} pixels the network begins with a 3x3 convolution and does "
                "not pool (model.stem)"
            )
            self.emit(RunWarning("small_stem", message))

    def _emit_progress(self, event: Event) -> None:
        self.emit(self.state.with_time_left(event))
