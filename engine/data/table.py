"""The table of a data set: columns by their usual names, and rows that say what they mean."""

from __future__ import annotations

import csv
import difflib
import io
import re
from dataclasses import dataclass

from config.schema import Data
from engine.data.archive import DatasetError

AUTO = "auto"
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
    rows: list[Record]
    label_names: tuple[str, str]  # negative, positive
    patient_column: str | None
    warnings: list[tuple[str, str]]


def read_table(content: bytes, name: str, data: Data) -> Table:
    """Parse a CSV. Raises DatasetError with every line that is wrong."""
    header, lines = _parse(content, name)
    columns = _find_columns(header, name, data)
    cells = {role: _column(lines, at) for role, at in columns.items() if at is not None}
    numbers = [line for line, _ in lines]
    needed = 1 + max(at for at in columns.values() if at is not None)
    problems = [
        f"line {number}: the row has {len(row)} of {len(header)} cells"
        for number, row in lines
        if len(row) < needed
    ]
    labels, label_names = _labels(cells["label"], numbers, data.positive_label, problems)
    patients = [value or None for value in cells.get("patient", [""] * len(lines))]
    splits = [split_of(value) for value in cells.get("split", [""] * len(lines))]
    for number, file in zip(numbers, cells["filename"], strict=True):
        if not file:
            problems.append(f"line {number}: the file name is empty")
    if "split" in cells:
        for number, written, split in zip(numbers, cells["split"], splits, strict=True):
            if split is None:
                problems.append(f"line {number}: split {written!r} is not train, val or test")
    if problems:
        raise DatasetError(f"{name} has rows that cannot be understood:", problems)
    if not lines:
        raise DatasetError(f"{name} has a header and no rows")
    rows = [
        Record(*values)
        for values in zip(cells["filename"], labels, patients, splits, numbers, strict=True)
    ]
    warnings = []
    without = sum(patient is None for patient in patients)
    if "patient" in cells and without:
        message = f"{without} rows of {name} have no patient id: each counts as its own patient"
        warnings.append(("patient_ids_missing", message))
    patient_column = header[columns["patient"]] if columns["patient"] is not None else None
    return Table(name, rows, label_names, patient_column, warnings)


def label_of(text: str, positive: str) -> int | None:
    """0 or 1 for a class name, None for an unknown one."""
    value = text.strip().casefold()
    if value == positive.casefold() or value in POSITIVES:
        return 1
    return 0 if value in NEGATIVES else None


def split_of(text: str) -> str | None:
    """train, val or test for a split's name, None for an unknown one."""
    return SPLIT_NAMES.get(text.strip().casefold())


def _parse(content: bytes, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header, and the rows that are not empty with their line numbers (1-based)."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{name} line {line}: this is not UTF-8; save the table as UTF-8"
        ) from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DatasetError(f"{name} line {reader.line_num}: {error}") from None
    if not any(header):
        raise DatasetError(f"{name} is empty; it needs the columns filename, label, patient_id")
    return header, [(line, row) for line, row in rows if any(row)]


def _find_columns(header: list[str], name: str, data: Data) -> dict[str, int | None]:
    """The place of each column. Raises DatasetError for all that are missing."""
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
                near = difflib.get_close_matches(chosen, header, 1)
                also = f" (is it {near[0]!r}?)" if near else ""
                problems.append(f"there is no column {chosen!r}, which {key} names{also}")
            continue
        columns[role] = next((plain.index(a) for a in aliases if a in plain), None)
        if columns[role] is None and role in ("filename", "label"):
            problems.append(f"no column of the {role}; name it with {key}, or rename it to {role}")
    if problems:
        raise DatasetError(f"{name} line 1, columns {', '.join(header)}:", problems)
    return columns


def _column(lines: list[tuple[int, list[str]]], at: int) -> list[str]:
    return [row[at] if at < len(row) else "" for _, row in lines]


def _labels(
    cells: list[str], numbers: list[int], positive: str, problems: list[str]
) -> tuple[list[int], tuple[str, str]]:
    """0 and 1 for each row, and the names of the two classes; adds to `problems`."""
    known = {cell: label_of(cell, positive) for cell in set(cells)}
    strange = {cell for cell, label in known.items() if label is None}
    if len(strange) == 1 and 0 not in known.values() and strange != {""} and 1 in known.values():
        known[strange.pop()] = 0  # exactly two classes, one of them the positive one
    first: dict[str, int] = {}
    for number, cell in zip(numbers, cells, strict=True):
        if known[cell] is None:
            first.setdefault(cell, number)
            problems.append(f"line {number}: unknown label {cell!r}{_meant(cell, positive)}")
    negative = next(
        (cell for cell in cells if known[cell] == 0 and not cell[:1].isdigit()), "NORMAL"
    )
    return [known[cell] or 0 for cell in cells], (negative, positive)


def _meant(cell: str, positive: str) -> str:
    near = difflib.get_close_matches(cell.upper(), [positive.upper(), "NORMAL"], 1)
    also = f"; did you mean {near[0]}?" if near else ""
    return f" (known: {positive}, NORMAL, 1, 0{also})"
