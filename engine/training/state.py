"""Everything that decides how a training continues, saved and restored as a whole."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from config.schema import Experiment
from engine.records import checkpoint
from engine.stream.events import Event, TrainingProgress
from engine.training.history import History
from engine.training.learner import Learner
from engine.training.progress import CORRECT, LOSS, REST, Emit, EpochState
from engine.training.selection import Selection


class TrainingState:
    """Learner, selection, history, position and clock of one training."""

    def __init__(self, learner: Learner, experiment: Experiment, emit: Emit) -> None:
        self.learner = learner
        self.selection = Selection(experiment)
        self.history = History(emit)
        self.position = EpochState(epoch=1)  # of the next step
        self.kept_scores: str | None = None  # the best epoch's scores of the val part, as CSV
        self._epochs = experiment.epochs
        self._seconds = 0.0  # of training before `_began`, in processes that had the run earlier
        self._began = self._epoch_began = time.perf_counter()

    @property
    def is_done(self) -> bool:
        """Whether no epoch is left to train."""
        return self.selection.stopped_early or self.position.epoch > self._epochs

    def start_clock(self) -> None:
        """From now on, time counts as training."""
        self._began = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of training so far, in all processes that had the run."""
        return self._seconds + time.perf_counter() - self._began

    def begin_epoch(self) -> None:
        """Prepare the learner for the epoch of `position`, new or continued."""
        self._epoch_began = time.perf_counter() - self.position.seconds
        self.learner.begin_epoch(self.position.epoch, self.position.step)

    def with_time_left(self, event: Event) -> Event:
        """A progress event with how long the run will take, which the loop cannot know."""
        mean = self.history.seconds_per_epoch()
        if not isinstance(event, TrainingProgress) or mean is None:
            return event
        epochs = 0 if self.is_done else self._epochs - event.epoch + 1
        left = epochs * mean - (time.perf_counter() - self._epoch_began)
        return dataclasses.replace(event, run_eta_seconds=max(left, event.eta_seconds))

    def state_dict(self) -> dict[str, Any]:
        """What a snapshot keeps of a training; tensors on the device."""
        return {
            "best_epoch": self.selection.best_epoch,
            "scores": self.kept_scores,
            "learner": self.learner.state_dict(),
            "selection": self.selection.state_dict(),
            "history": self.history.state_dict(),
            "random": checkpoint.random_state(self.learner.device),
            "state": dict(vars(self.position)),
            "training_time": self.elapsed(),
        }

    def load_state_dict(self, state: dict[str, Any], is_main: bool = True) -> None:
        """Continue from `state_dict`, as process 0 of the training or as another.

        Raises AttributeError, KeyError, TypeError, ValueError or RuntimeError where it is of
        another configuration or version.
        """
        self.position = EpochState(**state["state"])
        if not is_main:  # process 0 has what all of them have added up
            self.position.sums[[LOSS, CORRECT, REST]] = 0
            self.position.images = 0
        self.learner.load_state_dict(state["learner"])
        self.selection.load_state_dict(state["selection"])
        checkpoint.set_random_state(state["random"], self.learner.device)
        self.history.load_state_dict(state["history"], self.position.epoch - 1)
        self._seconds = float(state["training_time"])
        self.kept_scores = state["scores"]
        if state["best_epoch"] is None:
            self.selection.forget_best()
