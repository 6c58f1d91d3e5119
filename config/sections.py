"""The keys of each section, but for the data set's: type, default, range and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from config.rules import AUTO, key

# torchvision's, which a test compares; named here so that a mistake is found without torch.
BACKBONES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)


@dataclass(frozen=True)
class System:
    """How the work is done."""

    batch_size: int = key(32, "int", "images in a training batch", low=1, high=65536)
    batch_per: str = key(
        "run",
        "str",
        "whose batch_size is: of all processes of a run together, or of each",
        choices=("run", "process"),
    )
    num_workers: int | str = key(
        AUTO, "int", "processes that load batches; auto measures", low=0, high=256, choices=(AUTO,)
    )
    prefetch_factor: int = key(4, "int", "batches each worker keeps ready", low=1, high=1024)
    pin_memory: bool | str = key(
        AUTO, "bool", "page-locked batches; auto: where there is a GPU", choices=(AUTO,)
    )
    validation_split: float = key(
        0.2, "float", "share of the images for validation", low=0, high=0.9, above_low=True
    )
    test_split: float = key(
        0.0,
        "float",
        "share of the images for the test part, scored once at the end",
        low=0,
        high=0.9,
    )
    seed: int = key(42, "int", "seed of everything random", low=0, high=2**32 - 1)
    device: str = key(
        AUTO,
        "str",
        "where the network runs; auto: on a GPU where there is one",
        pattern=r"auto|cpu|mps|cuda(:\d+)?",
        form="auto, cpu, cuda, cuda:N or mps",
    )
    precision: str = key(
        AUTO, "str", "arithmetic of the network", choices=(AUTO, "bf16", "fp16", "fp32")
    )
    compile: str = key(
        AUTO, "str", "torch.compile; auto: where it pays", choices=(AUTO, "on", "off")
    )
    threads: int | str = key(
        AUTO,
        "int",
        "threads of the arithmetic on a CPU; auto: the cores, divided among the runs here",
        low=1,
        high=1024,
        choices=(AUTO,),
    )
    deterministic: bool = key(False, "bool", "equal runs give equal bits, on a GPU too; slower")


@dataclass(frozen=True)
class Experiment:
    """What is trained, for how long, and which epoch is kept."""

    learning_rate: float = key(
        0.001, "float", "learning rate of AdamW", low=0, high=10, above_low=True
    )
    epochs: int = key(50, "int", "epochs at most", low=1, high=100_000)
    weight_decay: float = key(
        0.0001, "float", "weight decay of AdamW; not applied to norms and biases", low=0, high=10
    )
    dropout_rate: float = key(0.3, "float", "dropout in the head", low=0, high=0.95)
    early_stopping_patience: int = key(
        7, "int", "epochs without improvement before the end", low=1, high=100_000
    )
    early_stopping_min_delta: float = key(
        0.001, "float", "the least that counts as improvement", low=0, high=1
    )
    min_epochs: int = key(3, "int", "epochs before early stopping may act", low=1, high=100_000)
    reduce_lr_patience: int = key(
        3,
        "int",
        "epochs without a lower validation loss before the rate is cut",
        low=0,
        high=100_000,
    )
    reduce_lr_factor: float = key(
        0.5, "float", "what the rate is multiplied by then", low=0, high=0.999, above_low=True
    )
    gradient_clip: float = key(1.0, "float", "largest gradient norm; 0 is no limit", low=0)
    accumulate: int = key(1, "int", "batches per optimizer step", low=1, high=65536)
    selection: str = key(
        "recall_at_specificity",
        "str",
        "which epoch is kept: by the recall where the specificity is target_specificity, by the "
        "recall at 0.5, or by the AUROC",
        choices=("recall_at_specificity", "recall", "auroc"),
    )
    min_specificity: float = key(
        0.5, "float", "with selection=recall, an epoch below it is not eligible", low=0, high=1
    )
    target_specificity: float = key(
        0.9,
        "float",
        "specificity on the validation part at which epochs are compared",
        low=0,
        high=1,
    )
    operating_point: str = key(
        AUTO,
        "str",
        "rule of the model's threshold; auto: specificity>= target_specificity",
        pattern=r"auto|youden|default_0\.5|(specificity|sensitivity)>=(0?\.\d+|0|1|1\.0+)",
        form="auto, youden, default_0.5, specificity>=S or sensitivity>=S",
    )
    checkpoint_minutes: float = key(
        10.0, "float", "minutes between checkpoints within an epoch", low=0
    )


@dataclass(frozen=True)
class Model:
    """The network."""

    backbone: str = key("resnet50", "str", "a torchvision ResNet", choices=BACKBONES)
    weights: str = key("imagenet", "str", "imagenet, none, or the path of a checkpoint")
    head_sizes: tuple[int, ...] = key((256, 64), "ints", "widths of the head's layers", low=1)
    stem: str = key(
        AUTO,
        "str",
        "first layers: torchvision's, or 3x3 without pooling; auto: the latter below 32 pixels",
        choices=(AUTO, "standard", "small"),
    )
    grey_input: bool = key(
        False, "bool", "the first layer takes one channel; pretrained filters are summed"
    )
    freeze_epochs: int = key(
        0,
        "int",
        "epochs with a frozen backbone; then one more stage is trained each epoch",
        low=0,
        high=100_000,
    )


@dataclass(frozen=True)
class Augment:
    """Random changes to the training images; 0 switches one off."""

    flip: float = key(0.0, "float", "probability of a mirror image", low=0, high=1)
    rotate: float = key(7.0, "float", "degrees to either side at most", low=0, high=180)
    translate: float = key(0.05, "float", "shift at most, as a share of the side", low=0, high=0.5)
    scale: float = key(0.1, "float", "zoom in or out at most", low=0, high=0.9)
    brightness: float = key(0.1, "float", "added at most, of the range 0 to 1", low=0, high=1)
    contrast: float = key(0.1, "float", "change of contrast at most", low=0, high=0.9)
    noise: float = key(
        0.02, "float", "standard deviation at most, of the range 0 to 1", low=0, high=1
    )
    erase: float = key(0.0, "float", "probability of an erased rectangle", low=0, high=1)


@dataclass(frozen=True)
class Output:
    """Where things are left."""

    checkpoint_dir: str = key("output/checkpoints", "str", "folder of the checkpoints")
    log_dir: str = key("output/logs", "str", "folder of the logs")
    results_dir: str = key("output/results", "str", "folder of the results")
    database: str = key("output/pneumoscope.db", "str", "the SQLite database")
    cache_dir: str = key("output/cache", "str", "folder of the decode cache")
    allow_network_database: bool = key(
        False, "bool", "accept a database on NFS, Lustre and the like, used by one machine alone"
    )
    tensorboard: bool = key(False, "bool", "write the figures of each epoch for TensorBoard, too")
    keep_snapshots: bool = key(
        False, "bool", "keep last.pt and previous.pt of a completed run, which nothing resumes"
    )


@dataclass(frozen=True)
class Report:
    """The report that a run leaves."""

    images: bool = key(True, "bool", "show the surest mistakes' images in the report")
