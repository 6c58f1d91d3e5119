"""Which column of a table is what: by the usual names, or by the configuration's."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import NamedTuple

from config.schema import AUTO, Data
from engine.data.names import shown
from engine.data.problems import DatasetError

SHOWN = 50  # columns in a message
LONGEST = 200  # characters of a column's name
# Column names as the common data sets have them; compared without case, spaces and signs.
FILENAMES = ("filename", "file", "image", "imagefile", "imagename", "imagepath", "filepath",
             "path", "imageid", "imageindex", "dicomid", "sopinstanceuid", "patientid")  # fmt: skip
LABELS = ("label", "class", "target", "diagnosis", "finding", "category", "labels",
          "findinglabels", "pneumonia")  # fmt: skip
PATIENTS = ("patientid", "patient", "subjectid", "subject", "patientnumber")
SPLITS = ("split", "subset", "set", "partition", "fold")

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip


class Columns(NamedTuple):
    """The place of each column."""

    filename: int
    label: int
    patient: int | None
    split: int | None
    others: list[int]  # columns with a name and none of these purposes


def find_columns(header: list[str], name: str, data: Data) -> Columns:
    """Raises DatasetError for all that are missing; `name` is the table's."""
    wanted = {
        "filename": (data.filename_column, FILENAMES, "data.filename_column"),
        "label": (data.label_column, LABELS, "data.label_column"),
        "patient": (data.patient_column, PATIENTS, "data.patient_column"),
        "split": (data.split_column, SPLITS, "data.split_column"),
    }
    plain = [plain_name(cell) for cell in header]
    columns: dict[str, int | None] = {}
    problems = []
    for role, (chosen, aliases, key) in wanted.items():
        by_path = role == "patient" and data.patient_pattern != AUTO
        if by_path or (chosen == "none" and role in ("patient", "split")):
            columns[role] = None
            continue
        if chosen != AUTO:
            columns[role] = header.index(chosen) if chosen in header else None
            if chosen not in header:
                near = difflib.get_close_matches(chosen, header[:SHOWN], 1)
                also = f" (is it {shown(near[0])}?)" if near else ""
                problems.append(f"there is no column {chosen!r}, which {key} names{also}")
            continue
        columns[role] = next((plain.index(a) for a in aliases if a in plain), None)
        if columns[role] is None and role in ("filename", "label"):
            problems.append(f"no column of the {role}; name it with {key}, or rename it to {role}")
    filename, label = columns["filename"], columns["label"]
    if problems or filename is None or label is None:
        columns_there = shown(", ".join(header[:SHOWN]))
        raise DatasetError(f"{name} line 1, columns {columns_there}:", problems)
    taken = {filename, label, columns["patient"], columns["split"]}
    others = [at for at, cell in enumerate(header) if cell and at not in taken]
    return Columns(filename, label, columns["patient"], columns["split"], others)


def plain_name(column: str) -> str:
    """A column's name without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", column.casefold())


def unique_names(names: list[str]) -> tuple[str, ...]:
    """Column names; those that are there more than once get a number."""
    names = [name[:LONGEST] for name in names]
    counts, numbers = Counter(names), Counter[str]()
    result = []
    for name in names:
        numbers[name] += 1
        result.append(f"{name} ({numbers[name]})" if counts[name] > 1 else name)
    return tuple(result)


def split_of(text: str) -> str | None:
    """train, val or test for a split's name, None for an unknown one."""
    return SPLIT_NAMES.get(text.strip().casefold())
