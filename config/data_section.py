"""The keys of the data set: type, default, range and meaning."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.rules import AUTO, Rule, key

POLICIES = ("error", "drop", "positive", "negative")


@dataclass(frozen=True)
class Data:
    """The data set and how it is read."""

    image_size: int = key(
        224, "int", "side of the square the images are resized to", low=28, high=2048
    )
    fit: str = key(
        "squash",
        "str",
        "squash makes both sides equal; pad keeps the aspect ratio, with black beside the image",
        choices=("squash", "pad"),
    )
    positive_label: str = key("PNEUMONIA", "str", "the class that recall refers to", longest=100)
    layout: str = key(
        AUTO, "str", "auto fills these keys where it knows the data set", choices=(AUTO, "none")
    )
    table: str = key(
        AUTO, "str", "the table, or several: train=a.csv,val=b.csv; auto finds it", longest=1000
    )
    header: str = key(
        AUTO, "str", "columns of a table without a first line of names: a,b,c", longest=1000
    )
    join: str = key("none", "str", "tables whose columns are added: a.csv,b.csv", longest=1000)
    filename_column: str = key(
        AUTO, "str", "column of the file names; auto finds the usual names", longest=100
    )
    label_column: str = key(
        AUTO, "str", "column of the labels; auto finds the usual names", longest=100
    )
    patient_column: str = key(
        AUTO, "str", "column of the patient ids, or none; auto finds the usual names", longest=100
    )
    split_column: str = key(
        AUTO,
        "str",
        "column of train, val or test, or none; auto finds the usual names",
        longest=100,
    )
    split_lists: str = key(
        "none", "str", "lists of images: train=a.txt,test=b.txt; or none", longest=1000
    )
    patients: str = key(
        "none", "str", "CSV or JSON of images and their patients; or none", longest=1000
    )
    patient_pattern: str = key(AUTO, "str", "regular expression of ids in paths", longest=1000)
    label_map: dict[str, int | str] = field(
        default_factory=dict,
        metadata={"rule": Rule("map", 'labels as the data set has them; "*" is every other label')},
    )
    label_separator: str = key(AUTO, "str", "sign between findings, list or none", longest=100)
    uncertain: str = key("error", "str", "what the label -1 or uncertain does", choices=POLICIES)
    unmentioned: str = key("error", "str", "what an empty label does", choices=POLICIES)
    votes: str = key(
        "error", "str", "how rows of one image decide", choices=("error", "any", "majority", "all")
    )
    where: str = key("none", "str", "rows that are used, as in View Position in PA,AP; or none")
    split_seed: int | str = key(
        AUTO, "int", "seed of the split; auto: system.seed", low=0, high=2**32 - 1, choices=(AUTO,)
    )
    fold_count: int = key(
        0, "int", "parts of a cross-validation; 0: validation_split instead", low=0, high=100
    )
    fold: int = key(1, "int", "the one that is the validation part", low=1, high=100)
    fold_file: str = key(
        "none", "str", "CSV with the columns filename,fold that decides the folds; or none"
    )
    unreadable: str = key(
        "error", "str", "what an unreadable or missing image does", choices=("error", "skip")
    )
    max_unpacked_gb: float = key(
        50.0, "float", "largest unpacked size of a ZIP", low=0, above_low=True
    )
    decode_memory_gb: float = key(
        0.25, "float", "memory that decoding threads share", low=0.01, high=10_000
    )
    cache_max_gb: float = key(50.0, "float", "largest decode cache", low=0, above_low=True)
    residency: str = key(
        AUTO,
        "str",
        "where the decoded images are kept; auto: on the GPU where they fit",
        choices=(AUTO, "host", "device"),
    )
