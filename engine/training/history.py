"""What a run's epochs have emitted: kept in its snapshots, restored by a resumed run."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from engine.stream.events import (
    EarlyStoppingTriggered,
    EpochMetrics,
    LearningRateChanged,
    TrainingResumed,
)
from engine.training.loop import EvalFigures, TrainFigures
from engine.training.progress import Emit

FIGURES = (
    *("accuracy", "precision", "recall", "specificity", "f1", "auroc"),
    "recall_at_specificity",
)
EpochEvent = EpochMetrics | LearningRateChanged | EarlyStoppingTriggered
KINDS: dict[str, type[EpochEvent]] = {
    kind.name: kind for kind in (EpochMetrics, LearningRateChanged, EarlyStoppingTriggered)
}


class History:
    """The per-epoch events, in order."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._events: list[tuple[str, dict[str, Any]]] = []  # name, fields
        self._seconds, self._epochs = 0.0, 0

    def __len__(self) -> int:
        return len(self._events)

    def record(self, event: EpochEvent) -> None:
        """Keep and emit one event."""
        self._keep(event)
        self._emit(event)

    def record_epoch(
        self,
        epoch: int,
        trained: TrainFigures,
        validated: EvalFigures,
        summary: dict[str, Any],
        learning_rate: float,
        is_best: bool,
    ) -> None:
        """Keep and emit an epoch's figures; `summary` is `metrics.summary` of the val part."""
        shown: dict[str, Any] = {f"val_{name}": summary[name] for name in FIGURES}
        self.record(
            EpochMetrics(
                epoch=epoch,
                train_loss=trained.loss,
                val_loss=validated.loss,
                train_accuracy=trained.accuracy,
                **shown,
                learning_rate=learning_rate,
                epoch_seconds=trained.seconds + validated.seconds,
                train_seconds=trained.seconds,
                is_best=is_best,
            )
        )

    def seconds_per_epoch(self) -> float | None:
        """The mean so far, training and validation; None before the first."""
        return self._seconds / self._epochs if self._epochs else None

    def state_dict(self) -> str:
        """JSON text: one value in a snapshot, however many epochs there were."""
        return json.dumps(self._events)

    def load_state_dict(self, state: str, epoch: int) -> None:
        """Take over what `state_dict` kept; `epoch` is the last whole one.

        Emits `training_resumed` once, from which the sinks restore all of it.
        """
        for name, fields in json.loads(state):
            self._keep(KINDS[name](**fields))
        self._emit(TrainingResumed(epoch, [list(event) for event in self._events]))

    def _keep(self, event: EpochEvent) -> None:
        self._events.append((event.name, dataclasses.asdict(event)))
        if isinstance(event, EpochMetrics) and math.isfinite(event.epoch_seconds):
            self._seconds += event.epoch_seconds
            self._epochs += 1
