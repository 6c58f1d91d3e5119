"""The table of a data set: columns by their usual names, and rows that say what they mean."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from config.schema import Data
from engine.data.csv_rows import read_rows
from engine.data.names import is_safe, shown
from engine.data.problems import DatasetError, Problems
from engine.data.read_labels import read_labels
from engine.data.where import FilterError, parse_where

AUTO = "auto"
MAX_ROWS = 1_000_000
MOST_VALUES = 1000  # of a filter's column that are counted
COLUMNS_SHOWN = 50  # in messages
LONGEST_COLUMN = 200  # characters of a column's name
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


@dataclass(frozen=True, slots=True)
class Record:
    """One image."""

    name: str  # its path in the data set, with /
    label: int  # 1 is the positive class
    patient: str | None
    split: str | None  # train, val or test, where the data set says so
    line: int | None  # of the table
    values: tuple[str, ...] = ()  # of the other columns: what Source.columns names


class Row(NamedTuple):
    """One line of a table that can be understood."""

    name: str  # of the file, as written
    label: int | None  # None leaves the image out
    reason: str  # what decided: value, map, uncertain, unmentioned or filtered
    patient: str | None
    split: str | None  # train, val or test
    line: int
    values: tuple[str, ...]  # of the other columns, as written


@dataclass(frozen=True)
class Table:
    """What a table says."""

    name: str
    rows: list[Row]
    label_names: tuple[str, str]  # negative, positive
    patient_column: str | None
    warnings: list[tuple[str, str]]
    columns: tuple[str, ...]  # the other columns


def read_table(content: bytes, name: str, data: Data, problems: Problems) -> Table:
    """Parse a CSV; every line that is wrong is added to `problems` and left out of the rows.

    Raises DatasetError where no line can be understood.
    """
    rows = read_rows(content, name)
    header = next(rows, (0, []))[1]
    if not header:
        raise DatasetError(f"{name} is empty; it needs the columns filename, label, patient_id")
    columns = _find_columns(header, name, data)
    chosen = _Filter(data.where, header, name)
    wrong = problems.count
    understood = _understood(rows, header, columns, chosen, problems)
    written = list(itertools.islice(understood, MAX_ROWS + 1))
    if len(written) > MAX_ROWS:
        raise DatasetError(f"{name} has more than {MAX_ROWS:,} rows")
    if not written and problems.count == wrong:
        raise DatasetError(f"{name} has a header and no rows")
    if written and not any(row.used for row in written):
        raise DatasetError(f"{name}: data.where={data.where} leaves no row:", chosen.values())
    labels = read_labels(((row.label, row.line) for row in written if row.used), data, problems)
    records = [
        Row(row.name, *decided, row.patient, row.split, row.line, row.values)
        for row in written
        if row.name
        and (decided := labels.of.get(row.label) if row.used else (None, "filtered")) is not None
    ]
    warnings = list(labels.warnings)
    without = sum(row.patient is None for row in written)
    if columns.patient is not None and without and data.patient_pattern == AUTO:
        message = f"{without} rows of {name} have no patient id: each counts as its own patient"
        warnings.append(("patient_ids_missing", message))
    patient_column = header[columns.patient] if columns.patient is not None else None
    others = _unique([header[at] for at in columns.others])
    return Table(name, records, labels.names, patient_column, warnings, others)


def is_known_header(content: bytes, name: str, data: Data) -> bool:
    """Whether the first line has columns of file names and labels."""
    try:
        header = next(read_rows(content, name), (0, []))[1]
        return bool(header) and bool(_find_columns(header, name, data))
    except DatasetError:
        return False


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
    used: bool  # by data.where
    values: tuple[str, ...]  # of the other columns


class _Columns(NamedTuple):
    """The place of each column."""

    filename: int
    label: int
    patient: int | None
    split: int | None
    others: list[int]  # columns with a name and none of these purposes


class _Filter:
    """Whether data.where chooses a row; counts the values of its columns."""

    def __init__(self, where: str, header: list[str], name: str) -> None:
        try:
            self._clauses = [] if where == "none" else parse_where(where, header)
        except FilterError as error:
            raise DatasetError(f"{name}: {error}") from None
        self._places = {clause.column: header.index(clause.column) for clause in self._clauses}
        self._counts: dict[str, Counter[str]] = {column: Counter() for column in self._places}
        self._known: dict[tuple[str, ...], bool] = {}  # what cells that many rows have come to
        self.needed = 1 + max(self._places.values(), default=-1)  # cells of a row

    def matches(self, row: list[str]) -> bool:
        if not self._clauses:
            return True
        cells = tuple([row[place] for place in self._places.values()])
        for counts, cell in zip(self._counts.values(), cells, strict=True):
            if cell in counts or len(counts) < MOST_VALUES:
                counts[cell] += 1
        if (known := self._known.get(cells)) is None:
            named = dict(zip(self._places, cells, strict=True))
            known = all(clause.matches(named) for clause in self._clauses)
            if len(self._known) < MOST_VALUES:
                self._known[cells] = known
        return known

    def values(self) -> list[str]:
        """A line for each column: its most frequent values with their counts."""
        return [
            f"{column} is {', '.join(f'{shown(v)} ({n:,})' for v, n in counts.most_common(20))}"
            for column, counts in self._counts.items()
        ]


def _understood(
    rows: Iterable[tuple[int, list[str]]],
    header: list[str],
    columns: _Columns,
    chosen: _Filter,
    problems: Problems,
) -> Iterator[_Row]:
    """The rows with all cells, a usable name, patient id and split."""
    places = (columns.filename, columns.label, columns.patient, columns.split)
    needed = max(1 + max(at for at in places if at is not None), chosen.needed)
    equal: dict[str, str] = {}  # cells that many rows have are kept once
    others = columns.others
    rest = itemgetter(*others) if others else lambda row: ()

    for line, row in rows:
        if len(row) < needed:
            problems.add("cells", f"line {line}: the row has {len(row)} of {len(header)} cells")
            continue
        name, label = row[columns.filename], row[columns.label]
        patient = "" if columns.patient is None else row[columns.patient]
        written = "" if columns.split is None else row[columns.split]
        whole = row if len(row) >= len(header) else [*row, *[""] * (len(header) - len(row))]
        kept = rest(whole) if len(others) != 1 else (whole[others[0]],)
        split = split_of(written) if written else None
        used = chosen.matches(row)
        if not name:
            problems.add("name", f"line {line}: the file name is empty")
        for what, text in (("file name", name), ("patient id", patient)):
            if not text.isprintable() and not is_safe(text):
                problems.add("name", f"line {line}: {what} {shown(text)} has control characters")
        if columns.split is not None and split is None and used:
            problems.add("split", f"line {line}: split {shown(written)} is not train, val or test")
        values = tuple(map(equal.setdefault, kept, kept))
        label, patient = equal.setdefault(label, label), equal.setdefault(patient, patient)
        yield _Row(name, label, patient or None, split, line, used, values)


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
        if role == "patient" and (chosen == "none" or data.patient_pattern != AUTO):
            columns[role] = None
            continue
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
    taken = {filename, label, columns["patient"], columns["split"]}
    others = [at for at, cell in enumerate(header) if cell and at not in taken]
    return _Columns(filename, label, columns["patient"], columns["split"], others)


def _unique(names: list[str]) -> tuple[str, ...]:
    """Column names; one that is there again gets its number."""
    seen: Counter[str] = Counter()
    seen.update(names := [name[:LONGEST_COLUMN] for name in names])
    found: Counter[str] = Counter()
    result = []
    for name in names:
        found[name] += 1
        result.append(f"{name} ({found[name]})" if seen[name] > 1 else name)
    return tuple(result)
