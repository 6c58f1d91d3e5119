"""Every configuration key once: its type, default, range and meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import ConfigError
from config.rules import Rule, convert, require_known, show, shown

AUTO = "auto"
# torchvision's, which a test compares; named here so that a mistake is found without torch.
BACKBONES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)


def _key(default: Any, kind: str, meaning: str, **limits: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(kind, meaning, **limits)})


@dataclass(frozen=True)
class System:
    """How the work is done."""

    batch_size: int = _key(32, "int", "images in a training batch", low=1, high=65536)
    num_workers: int | str = _key(
        AUTO, "int", "processes that load batches; auto measures", low=0, high=256, choices=(AUTO,)
    )
    prefetch_factor: int = _key(4, "int", "batches each worker keeps ready", low=1, high=1024)
    pin_memory: bool | str = _key(
        AUTO, "bool", "page-locked batches; auto: where there is a GPU", choices=(AUTO,)
    )
    validation_split: float = _key(
        0.2, "float", "share of the images for validation", low=0, high=0.9, above_low=True
    )
    test_split: float = _key(
        0.0,
        "float",
        "share of the images for the test part, scored once at the end",
        low=0,
        high=0.9,
    )
    seed: int = _key(42, "int", "seed of everything random", low=0, high=2**32 - 1)
    device: str = _key(
        AUTO, "str", "auto, cpu, cuda, cuda:N or mps", pattern=r"auto|cpu|mps|cuda(:\d+)?"
    )
    precision: str = _key(
        AUTO, "str", "arithmetic of the network", choices=(AUTO, "bf16", "fp16", "fp32")
    )
    compile: str = _key(
        AUTO, "str", "torch.compile; auto: where it pays", choices=(AUTO, "on", "off")
    )
    threads: int | str = _key(
        AUTO,
        "int",
        "of the arithmetic on a CPU; auto: the cores, divided among the runs on this machine",
        low=1,
        high=1024,
        choices=(AUTO,),
    )
    deterministic: bool = _key(False, "bool", "the same bits every time, on a GPU too; slower")


@dataclass(frozen=True)
class Experiment:
    """What is trained, for how long, and which epoch is kept."""

    learning_rate: float = _key(
        0.001, "float", "learning rate of AdamW", low=0, high=10, above_low=True
    )
    epochs: int = _key(50, "int", "epochs at most", low=1, high=100_000)
    weight_decay: float = _key(
        0.0001, "float", "weight decay of AdamW; not applied to norms and biases", low=0, high=10
    )
    dropout_rate: float = _key(0.3, "float", "dropout in the head", low=0, high=0.95)
    early_stopping_patience: int = _key(
        7, "int", "epochs without improvement before the end", low=1, high=100_000
    )
    early_stopping_min_delta: float = _key(
        0.001, "float", "the least that counts as improvement", low=0, high=1
    )
    min_epochs: int = _key(3, "int", "epochs before early stopping may act", low=1, high=100_000)
    reduce_lr_patience: int = _key(
        3,
        "int",
        "epochs without a lower validation loss before the rate is cut",
        low=0,
        high=100_000,
    )
    reduce_lr_factor: float = _key(
        0.5, "float", "what the rate is multiplied by then", low=0, high=0.999, above_low=True
    )
    gradient_clip: float = _key(1.0, "float", "largest gradient norm; 0 is no limit", low=0)
    accumulate: int = _key(1, "int", "batches per optimizer step", low=1, high=65536)
    min_specificity: float = _key(
        0.5, "float", "an epoch below it is not eligible as the best", low=0, high=1
    )
    target_specificity: float = _key(
        0.9, "float", "val_recall_at_specificity is the recall at this one", low=0, high=1
    )
    checkpoint_minutes: float = _key(
        10.0, "float", "minutes between checkpoints within an epoch", low=0
    )


@dataclass(frozen=True)
class Model:
    """The network."""

    backbone: str = _key("resnet50", "str", "a torchvision ResNet", choices=BACKBONES)
    weights: str = _key("imagenet", "str", "imagenet, none, or the path of a checkpoint")
    head_sizes: tuple[int, ...] = _key((256, 64), "ints", "widths of the head's layers", low=1)
    freeze_epochs: int = _key(
        0,
        "int",
        "epochs with a frozen backbone; then one more stage is trained each epoch",
        low=0,
        high=100_000,
    )


@dataclass(frozen=True)
class Data:
    """The data set and how it is read."""

    image_size: int = _key(
        224, "int", "side of the square the images are resized to", low=32, high=2048
    )
    positive_label: str = _key("PNEUMONIA", "str", "the class that recall refers to", longest=100)
    filename_column: str = _key(
        AUTO, "str", "column of the file names; auto finds the usual names", longest=100
    )
    label_column: str = _key(
        AUTO, "str", "column of the labels; auto finds the usual names", longest=100
    )
    patient_column: str = _key(
        AUTO, "str", "column of the patient ids; auto finds the usual names", longest=100
    )
    unreadable: str = _key(
        "error", "str", "what an unreadable or missing image does", choices=("error", "skip")
    )
    max_unpacked_gb: float = _key(
        50.0, "float", "largest unpacked size of a ZIP", low=0, above_low=True
    )
    decode_memory_gb: float = _key(
        0.25, "float", "memory that decoding threads share", low=0.01, high=10_000
    )
    cache_max_gb: float = _key(50.0, "float", "largest decode cache", low=0, above_low=True)
    residency: str = _key(
        AUTO,
        "str",
        "where the decoded images are kept; auto: on the GPU where they fit",
        choices=(AUTO, "host", "device"),
    )


@dataclass(frozen=True)
class Augment:
    """Random changes to the training images; 0 switches one off."""

    flip: float = _key(0.0, "float", "probability of a mirror image", low=0, high=1)
    rotate: float = _key(7.0, "float", "degrees to either side at most", low=0, high=180)
    translate: float = _key(0.05, "float", "shift at most, as a share of the side", low=0, high=0.5)
    scale: float = _key(0.1, "float", "zoom in or out at most", low=0, high=0.9)
    brightness: float = _key(0.1, "float", "added at most, of the range 0 to 1", low=0, high=1)
    contrast: float = _key(0.1, "float", "change of contrast at most", low=0, high=0.9)
    noise: float = _key(
        0.02, "float", "standard deviation at most, of the range 0 to 1", low=0, high=1
    )
    erase: float = _key(0.0, "float", "probability of an erased rectangle", low=0, high=1)


@dataclass(frozen=True)
class Output:
    """Where things are left."""

    checkpoint_dir: str = _key("output/checkpoints", "str", "folder of the checkpoints")
    log_dir: str = _key("output/logs", "str", "folder of the logs")
    results_dir: str = _key("output/results", "str", "folder of the results")
    database: str = _key("output/pneumoscope.db", "str", "the SQLite database")
    cache_dir: str = _key("output/cache", "str", "folder of the decode cache")
    allow_network_database: bool = _key(
        False, "bool", "accept a database on NFS, Lustre and the like, used by one machine alone"
    )
    keep_snapshots: bool = _key(
        False, "bool", "keep last.pt and previous.pt of a completed run, which nothing resumes"
    )


@dataclass(frozen=True)
class Config:
    """The whole configuration of a run; frozen."""

    system: System = field(default_factory=System)
    experiment: Experiment = field(default_factory=Experiment)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    output: Output = field(default_factory=Output)
    # dotted key -> default, FILE:LINE, environment NAME, or override
    provenance: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values, as JSON and YAML have them."""
        return {
            name: {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in dataclasses.asdict(getattr(self, name)).items()
            }
            for name in SECTIONS
        }

    def absolute(self) -> Config:
        """With every path made absolute: a stored configuration means the same from any folder."""
        folders: dict[str, Any] = {
            key: str(Path(value).absolute())
            for key, value in dataclasses.asdict(self.output).items()
            if isinstance(value, str)
        }
        output = dataclasses.replace(self.output, **folders)
        model = self.model
        if model.weights not in ("imagenet", "none"):
            model = dataclasses.replace(model, weights=str(Path(model.weights).absolute()))
        return dataclasses.replace(self, model=model, output=output)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> Config:
        """The inverse of `to_dict`; missing keys get their defaults. Raises ConfigError."""
        source = "stored configuration"
        flat: dict[str, tuple[Any, str]] = {}
        for section, keys in values.items():
            require_known(section, list(SECTIONS), "section", source)
            if not isinstance(keys, Mapping):
                raise ConfigError(f"{source}: {section} should hold keys with values")
            for key, value in keys.items():
                require_known(f"{section}.{key}", list(RULES), "key", source)
                flat[f"{section}.{key}"] = (value, source)
        return build(flat)


SECTIONS: dict[str, type] = {
    "system": System,
    "experiment": Experiment,
    "model": Model,
    "data": Data,
    "augment": Augment,
    "output": Output,
}
RULES: dict[str, Rule] = {
    f"{section}.{entry.name}": entry.metadata["rule"]
    for section, owner in SECTIONS.items()
    for entry in dataclasses.fields(owner)
}
DEFAULTS: dict[str, Any] = {
    f"{section}.{entry.name}": entry.default
    for section, owner in SECTIONS.items()
    for entry in dataclasses.fields(owner)
}


class KeyDescription(NamedTuple):
    """One line of the reference."""

    key: str
    default: str
    allowed: str
    meaning: str


def describe() -> list[KeyDescription]:
    """Every key with default, allowed values and meaning, in the order of the schema."""
    return [
        KeyDescription(key, show(DEFAULTS[key]), rule.allowed(), rule.meaning)
        for key, rule in RULES.items()
    ]


def build(values: Mapping[str, tuple[Any, str]]) -> Config:
    """A Config from dotted keys to (value, where it comes from). Raises ConfigError."""
    checked = {key: check(key, value, source) for key, (value, source) in values.items()}
    sections: dict[str, Any] = {}
    for name, owner in SECTIONS.items():
        names = [entry.name for entry in dataclasses.fields(owner)]
        sections[name] = owner(
            **{n: checked[f"{name}.{n}"] for n in names if f"{name}.{n}" in checked}
        )
    system = sections["system"]
    if system.validation_split + system.test_split >= 1:
        raise ConfigError(
            "system.validation_split and system.test_split together must leave images to train on "
            f"(they are {system.validation_split:g} and {system.test_split:g})"
        )
    provenance = {key: values[key][1] if key in values else "default" for key in RULES}
    return Config(**sections, provenance=provenance)


def check(key: str, value: Any, source: str) -> Any:
    """The value as the schema has it. Raises ConfigError, naming key and place."""
    rule = RULES[key]
    result = convert(rule, value)
    if result is None:
        allowed = rule.allowed()
        if rule.kind == "str" and isinstance(value, str) and not value.isprintable():
            allowed += ", without control characters"
        raise ConfigError(f"{source}: {key} is {shown(value)}, but must be {allowed}")
    return result
