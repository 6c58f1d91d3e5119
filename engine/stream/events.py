"""The types of the one stream: what happens in a run, as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from engine.files import jsonable


class Event:
    """Something that happened in a run; plain numbers and text only."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            _require_plain(f"{type(self).__name__}.{field.name}", getattr(self, field.name))

    def payload(self) -> dict[str, Any]:
        """The fields as JSON has them; non-finite numbers are None."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: jsonable(getattr(self, field.name)) for field in fields}


@dataclass(frozen=True)
class TrainingStarted(Event):
    """After preparation."""

    name: ClassVar[str] = "training_started"
    run_name: str
    config: dict[str, Any]
    device: str
    dataset: dict[str, Any]


@dataclass(frozen=True)
class TrainingProgress(Event):
    """At most four a second; a later one replaces an earlier one."""

    name: ClassVar[str] = "training_progress"
    phase: str  # train or validate
    epoch: int
    step: int
    steps: int
    loss: float
    images_per_second: float
    eta_seconds: float  # until the end of this phase


@dataclass(frozen=True)
class EpochMetrics(Event):
    """Once per epoch."""

    name: ClassVar[str] = "training_metrics_update"
    epoch: int
    train_loss: float
    val_loss: float
    train_accuracy: float
    val_accuracy: float
    val_precision: float
    val_recall: float
    val_specificity: float
    val_f1: float
    val_auroc: float
    learning_rate: float
    epoch_seconds: float
    is_best: bool


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint stands whole on the disk."""

    name: ClassVar[str] = "checkpoint_saved"
    path: str
    epoch: int
    reason: str  # best, epoch, time or stopped


@dataclass(frozen=True)
class LearningRateChanged(Event):
    """The scheduler cut the learning rate."""

    name: ClassVar[str] = "learning_rate_changed"
    epoch: int
    previous: float
    current: float


@dataclass(frozen=True)
class EarlyStoppingTriggered(Event):
    """No improvement for `patience` epochs."""

    name: ClassVar[str] = "early_stopping_triggered"
    epoch: int
    best_epoch: int
    patience: int


@dataclass(frozen=True)
class TrainingComplete(Event):
    """The run came to its end."""

    name: ClassVar[str] = "training_complete"
    metrics: dict[str, float | None]
    best_epoch: int | None
    total_epochs_run: int
    training_time: float
    early_stopped: bool
    best_model_path: str | None


@dataclass(frozen=True)
class TrainingStopped(TrainingComplete):
    """A person or a signal ended the run; it can go on."""

    name: ClassVar[str] = "training_stopped"
    reason: str


@dataclass(frozen=True)
class TrainingFailed(Event):
    """The run cannot go on."""

    name: ClassVar[str] = "training_failed"
    error: str
    hint: str | None


@dataclass(frozen=True)
class RunWarning(Event):
    """Something a person should know: leakage, no patient ids, a sink in trouble."""

    name: ClassVar[str] = "warning"
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Stamped:
    """An event with its run and its time (UTC, ISO 8601)."""

    run_id: int
    at: str
    event: Event


def _require_plain(where: str, value: Any) -> None:
    """A tensor in an event would be a hidden wait for the device."""
    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(f"{where}[{key!r}]", item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(where, item)
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{where} is a {type(value).__name__}; events carry plain values only")
