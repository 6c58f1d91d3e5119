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
    """After preparation, before the first step."""

    name: ClassVar[str] = "training_started"
    run_name: str
    config: dict[str, Any]  # resolved, as the run keeps it: section -> key -> value
    device: str  # for a person: name and precision
    dataset: dict[str, Any]  # part of the split -> label -> images
    world_size: int = 1  # processes that train together


@dataclass(frozen=True)
class TrainingResumed(Event):
    """After `training_started`, where a run continues: its log now ends with this epoch.

    What the log holds of later epochs is withdrawn; they are trained again.
    """

    name: ClassVar[str] = "training_resumed"
    epoch: int  # the last one that the snapshot contains whole; 0 before the first
    history: list[list[Any]]  # [event name, its fields] of each epoch so far; not kept in the log


@dataclass(frozen=True)
class TrainingProgress(Event):
    """At most four a second; transient: a later one replaces an earlier one."""

    name: ClassVar[str] = "training_progress"
    phase: str  # train, validate or test
    epoch: int  # 1-based
    step: int  # batches done in this phase
    steps: int  # batches of this phase
    loss: float  # mean over the images of this phase so far
    images_per_second: float  # since this process began the phase
    eta_seconds: float  # until the end of this phase
    run_eta_seconds: float | None = None  # until the last configured epoch


@dataclass(frozen=True)
class EpochMetrics(Event):
    """Once per epoch. `val_` figures are of the validation part, at threshold 0.5."""

    name: ClassVar[str] = "training_metrics_update"
    epoch: int  # 1-based
    train_loss: float  # mean over the epoch, while the weights changed
    val_loss: float
    train_accuracy: float
    val_accuracy: float
    val_precision: float
    val_recall: float
    val_specificity: float
    val_f1: float
    val_auroc: float
    val_recall_at_specificity: float  # where the threshold gives experiment.target_specificity
    learning_rate: float  # of this epoch's steps
    epoch_seconds: float  # training and validation
    train_seconds: float  # training alone
    is_best: bool  # its weights are the ones kept so far


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint has been written completely."""

    name: ClassVar[str] = "checkpoint_saved"
    path: str
    epoch: int  # the last one that the checkpoint contains whole
    reason: str  # start, best, epoch, time or stopped


@dataclass(frozen=True)
class LearningRateChanged(Event):
    """The scheduler cut the learning rate."""

    name: ClassVar[str] = "learning_rate_changed"
    epoch: int  # after which it was cut
    previous: float
    current: float


@dataclass(frozen=True)
class EarlyStoppingTriggered(Event):
    """No improvement for `patience` epochs: the run ends."""

    name: ClassVar[str] = "early_stopping_triggered"
    epoch: int  # the last one trained
    best_epoch: int  # the kept one
    patience: int  # epochs


@dataclass(frozen=True)
class SystemMetrics(Event):
    """What the machine does, every ten seconds; transient. None where it is unknown."""

    name: ClassVar[str] = "system_metrics"
    cpu_percent: float | None  # of all cores of the machine, 0 to 100
    memory_bytes: int | None  # resident, of this process and its children
    gpu_percent: float | None  # of the run's GPU, 0 to 100
    gpu_memory_bytes: int | None  # used on the run's GPU, by anybody
    gpu_watts: float | None
    disk_free_bytes: int | None  # where the checkpoints are written


@dataclass(frozen=True)
class TrainingComplete(Event):
    """The run reached its end. `best_` figures are of the one kept epoch, validation part, at the
    threshold of `operating_point`."""

    name: ClassVar[str] = "training_complete"
    metrics: dict[str, float | None]  # best_accuracy, best_precision, best_recall, ...
    best_epoch: int | None
    total_epochs_run: int  # whole epochs, those before a resume included
    training_time: float  # seconds, of all processes that had the run
    early_stopped: bool
    best_model_path: str | None  # the bundle
    # Of the kept epoch on the test part: name -> figure, and `intervals`: name -> [low, high].
    # None where there is no test part, and for a run that did not reach its end.
    test: dict[str, Any] | None = dataclasses.field(default=None, kw_only=True)
    # rule, threshold and the part that it was chosen on. None: 0.5, which nothing chose.
    operating_point: dict[str, Any] | None = dataclasses.field(default=None, kw_only=True)
    # A paragraph for a person: what the model finds and misses. None as for `test`.
    conclusion: str | None = dataclasses.field(default=None, kw_only=True)


@dataclass(frozen=True)
class TrainingStopped(TrainingComplete):
    """A person or a signal ended the run; it can be resumed."""

    name: ClassVar[str] = "training_stopped"
    reason: str


@dataclass(frozen=True)
class TrainingInterrupted(Event):
    """The worker is gone without a word; the run can be resumed."""

    name: ClassVar[str] = "training_interrupted"
    reason: str


@dataclass(frozen=True)
class TrainingFailed(Event):
    """The run ended with an error."""

    name: ClassVar[str] = "training_failed"
    error: str  # one line, and a dead worker's last output
    hint: str | None  # what to try


@dataclass(frozen=True)
class RunWarning(Event):
    """Something a person should know: leakage, no patient ids, a sink that fails."""

    name: ClassVar[str] = "warning"
    code: str  # stable, for programs
    message: str  # for people


TRANSIENT: tuple[type[Event], ...] = (TrainingProgress, SystemMetrics)


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
