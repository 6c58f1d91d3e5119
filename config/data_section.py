"""The keys of the data set: type, default, range and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from config.rules import AUTO, key


@dataclass(frozen=True)
class Data:
    """The data set and how it is read."""

    image_size: int = key(
        224, "int", "side of the square the images are resized to", low=32, high=2048
    )
    positive_label: str = key("PNEUMONIA", "str", "the class that recall refers to", longest=100)
    filename_column: str = key(
        AUTO, "str", "column of the file names; auto finds the usual names", longest=100
    )
    label_column: str = key(
        AUTO, "str", "column of the labels; auto finds the usual names", longest=100
    )
    patient_column: str = key(
        AUTO, "str", "column of the patient ids; auto finds the usual names", longest=100
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
