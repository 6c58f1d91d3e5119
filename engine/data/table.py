"""The table of a data set: columns by their usual names, and rows that say what they mean."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from config.schema import Data
from engine.data.csv_rows import read_rows
from engine.data.names import is_safe, shown
from engine.data.problems import LISTED, DatasetError, Problems

AUTO = "auto"
MAX_ROWS = 1_000_000
LONGEST_LABEL = 100  # characters
COLUMNS_SHOWN = 50  # in messages
# Column names as the common data sets have them; compared without case, spaces and signs.
FILENAMES = ("filename", "file", "image", "imagefile", "imagename", "imagepath", "filepath",
             "path", "imageid", "imageindex", "dicomid", "sopinstanceuid", "patientid")  # fmt: skip
LABELS = ("label", "class", "target", "diagnosis", "finding", "category", "labels", "pneumonia")
PATIENTS = ("patientid", "patient", "subjectid", "subject", "patientnumber")
SPLITS = ("split", "subset", "set", "partition", "fold")

NEGATIVES = frozenset({"normal", "negative", "0", "0.0", "false", "no", "healthy", "no finding",
                       "no pneumonia", "no_pneumonia"})  # fmt: skip
POSITIVES = frozenset({"positive", "1", "1.0", "true", "yes"})
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One image."""

    name: str  # its path in the data set, with /
    label: int  # 1 is the positive class
    patient: str | None
    split: str | None  # train, val or test, where the data set says so
    line: int | None  # of the table


@dataclass(frozen=True)
class Table:
    """What a table says; the rows' names are as written there."""

    name: str
    rows: list[Record]  # those that can be understood
    label_names: tuple[str, str]  # negative, positive
    patient_column: str | None
    warnings: list[tuple[str, str]]


def read_table(content: bytes, name: str, data: Data, problems: Problems) -> Table:
    """Parse a CSV; every line that is wrong is added to `problems` and left out of the rows.

    Raises DatasetError where no line can be understood.
    """
    rows = read_rows(content, name)
    header = next(rows, (0, []))[1]
    if not header:
        raise DatasetError(f"{name} is empty; it needs the columns filename, label, patient_id")
    columns = _find_columns(header, name, data)
    wrong = problems.count
    written = list(itertools.islice(_understood(rows, header, columns, problems), MAX_ROWS + 1))
    if len(written) > MAX_ROWS:
        raise DatasetError(f"{name} has more than {MAX_ROWS:,} rows")
    if not written and problems.count == wrong:
        raise DatasetError(f"{name} has a header and no rows")
    labels, label_names = _labels(written, data.positive_label, problems)
    records = [
        Record(row.name, label, row.patient, row.split, row.line)
        for row in written
        if row.name and (label := labels[row.label]) is not None
    ]
    warnings = []
    without = sum(row.patient is None for row in written)
    if columns.patient is not None and without:
        message = f"{without} rows of {name} have no patient id: each counts as its own patient"
        warnings.append(("patient_ids_missing", message))
    patient_column = header[columns.patient] if columns.patient is not None else None
    return Table(name, records, label_names, patient_column, warnings)


def label_of(text: str, positive: str) -> int | None:
    """0 or 1 for a class name, None for an unknown one."""
    value = text.strip().casefold()
    if value == positive.casefold() or value in POSITIVES:
        return 1
    return 0 if value in NEGATIVES else None


def split_of(text: str) -> str | None:
    """train, val or test for a split's name, None for an unknown one."""
    return SPLIT_NAMES.get(text.strip().casefold())


class _Row(NamedTuple):
    """What a row holds, as written."""

    name: str
    label: str
    patient: str | None
    split: str | None  # train, val or test
    line: int


class _Columns(NamedTuple):
    """The place of each column."""

    filename: int
    label: int
    patient: int | None
    split: int | None


def _understood(
    rows: Iterable[tuple[int, list[str]]], header: list[str], columns: _Columns, problems: Problems
) -> Iterator[_Row]:
    """The rows with all cells, a usable name, patient id and split."""
    needed = 1 + max(at for at in columns if at is not None)
    equal: dict[str, str] = {}  # cells that many rows have are kept once

    def cell(row: list[str], at: int | None) -> str:
        return "" if at is None else equal.setdefault(row[at], row[at])

    for line, row in rows:
        if len(row) < needed:
            problems.add("cells", f"line {line}: the row has {len(row)} of {len(header)} cells")
            continue
        name, patient = row[columns.filename], cell(row, columns.patient)
        written = cell(row, columns.split)
        split = split_of(written)
        if not name:
            problems.add("name", f"line {line}: the file name is empty")
        for what, text in (("file name", name), ("patient id", patient)):
            if not is_safe(text):
                problems.add("name", f"line {line}: {what} {shown(text)} has control characters")
        if columns.split is not None and split is None:
            problems.add("split", f"line {line}: split {shown(written)} is not train, val or test")
        yield _Row(name, cell(row, columns.label), patient or None, split, line)


def _find_columns(header: list[str], name: str, data: Data) -> _Columns:
    """Raises DatasetError for all that are missing."""
    wanted = {
        "filename": (data.filename_column, FILENAMES, "data.filename_column"),
        "label": (data.label_column, LABELS, "data.label_column"),
        "patient": (data.patient_column, PATIENTS, "data.patient_column"),
        "split": (AUTO, SPLITS, ""),
    }
    plain = [re.sub(r"[^a-z0-9]", "", cell.casefold()) for cell in header]
    columns: dict[str, int | None] = {}
    problems = []
    for role, (chosen, aliases, key) in wanted.items():
        if chosen != AUTO:
            columns[role] = header.index(chosen) if chosen in header else None
            if chosen not in header:
                near = difflib.get_close_matches(chosen, header[:COLUMNS_SHOWN], 1)
                also = f" (is it {shown(near[0])}?)" if near else ""
                problems.append(f"there is no column {chosen!r}, which {key} names{also}")
            continue
        columns[role] = next((plain.index(a) for a in aliases if a in plain), None)
        if columns[role] is None and role in ("filename", "label"):
            problems.append(f"no column of the {role}; name it with {key}, or rename it to {role}")
    filename, label = columns["filename"], columns["label"]
    if problems or filename is None or label is None:
        columns_there = shown(", ".join(header[:COLUMNS_SHOWN]))
        raise DatasetError(f"{name} line 1, columns {columns_there}:", problems)
    return _Columns(filename, label, columns["patient"], columns["split"])


def _labels(
    rows: list[_Row], positive: str, problems: Problems
) -> tuple[dict[str, int | None], tuple[str, str]]:
    """0, 1 or None for each label as written, and the names of the two classes."""
    known = {cell: label_of(cell, positive) for cell in dict.fromkeys(row.label for row in rows)}
    strange = [cell for cell, label in known.items() if label is None]
    if len(strange) == 1 and 0 not in known.values() and strange != [""] and 1 in known.values():
        known[strange[0]] = 0  # exactly two classes, one of them the positive one
    hints = {cell: _meant(cell, positive) for cell in strange[:LISTED]}
    for row in rows:
        if known[row.label] is None:
            text = f"unknown label {shown(row.label)}{hints.get(row.label, '')}"
            problems.add("label", f"line {row.line}: {text}")
    named = (cell for cell, label in known.items() if label == 0 and not cell[:1].isdigit())
    negative = next(named, "NORMAL")
    if len(negative) > LONGEST_LABEL or not is_safe(negative):
        why = f"has more than {LONGEST_LABEL} characters or control characters"
        problems.add("label", f"the class name {shown(negative)} {why}")
    return known, (negative, positive)


def _meant(cell: str, positive: str) -> str:
    near = difflib.get_close_matches(cell[:LONGEST_LABEL].upper(), [positive.upper(), "NORMAL"], 1)
    also = f"; did you mean {near[0]}?" if near else ""
    return f" (known: {positive}, NORMAL, 1, 0{also})"
