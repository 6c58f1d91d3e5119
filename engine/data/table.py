"""The tables of a data set: rows that say which image has which label."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from config.schema import AUTO, Data
from engine.data.columns import Columns, find_columns, split_of, unique_names
from engine.data.csv_rows import read_rows
from engine.data.join import join
from engine.data.names import is_safe, shown
from engine.data.problems import DatasetError, Problems
from engine.data.read_labels import read_labels
from engine.data.where import RowFilter

MAX_ROWS = 1_000_000  # of all tables together


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
    reason: str  # what decided: value, map, uncertain, unmentioned, filtered or unlisted
    patient: str | None
    split: str | None  # train, val or test
    line: int
    values: tuple[str, ...]  # of the other columns, as written
    table: str  # its name


@dataclass(frozen=True)
class TableFile:
    """One table as it is stored, unpacked."""

    name: str
    content: bytes
    split: str | None = None  # the part that all its rows belong to
    joined: list[tuple[str, bytes]] = field(default_factory=list)  # tables that add columns


@dataclass(frozen=True)
class Table:
    """What the tables say."""

    name: str  # several names joined by commas
    rows: list[Row]
    label_names: tuple[str, str]  # negative, positive
    patient_column: str | None
    warnings: list[tuple[str, str]]
    columns: tuple[str, ...]  # the other columns
    found: list[str]  # the labels with their counts and what they mean, a line each


def read_tables(files: Sequence[TableFile], data: Data, problems: Problems) -> Table:
    """Every line that is wrong is added to `problems` and left out of the rows.

    Raises DatasetError where no line of a table can be understood.
    """
    sheets: list[_Sheet] = []
    for file in files:
        left = MAX_ROWS - sum(len(sheet.rows) for sheet in sheets)
        sheets.append(_read(file, data, problems, left, f"{file.name} " if len(files) > 1 else ""))
    name = ", ".join(file.name for file in files)
    if all(sheet.rows for sheet in sheets) and not any(
        row.left_out != "filtered" for sheet in sheets for row in sheet.rows
    ):
        values = [line for sheet in sheets for line in sheet.chosen.values()]
        raise DatasetError(f"{name}: data.where={data.where} leaves no row:", values)
    cells = (
        (row.label, sheet.prefix, row.line)
        for sheet in sheets
        for row in sheet.rows
        if not row.left_out
    )
    labels = read_labels(cells, data, problems)
    columns = tuple(dict.fromkeys(column for sheet in sheets for column in sheet.columns))
    rows: list[Row] = []
    for sheet in sheets:
        order = None if sheet.columns == columns else _Reorder(sheet.columns, columns)
        for row in sheet.rows:
            decided = (None, row.left_out) if row.left_out else labels.of.get(row.label)
            if row.name and decided is not None:
                cells_of = row.values if order is None else order(row.values)
                label, reason = decided
                who, part, line = row.patient, row.split, row.line
                rows.append(Row(row.name, label, reason, who, part, line, cells_of, sheet.name))
    warnings = list(labels.warnings)
    patients = [sheet.patient_column for sheet in sheets if sheet.patient_column is not None]
    without = sum(row.patient is None for sheet in sheets for row in sheet.rows)
    if patients and without and data.patient_pattern == AUTO and data.patients == "none":
        message = f"{without} rows of {name} have no patient id: each counts as its own patient"
        warnings.append(("patient_ids_missing", message))
    patient = patients[0] if patients else None
    return Table(name, rows, labels.names, patient, warnings, columns, labels.found)


def read_header(content: bytes, name: str, data: Data) -> list[str]:
    """The names of a table's columns; `content` may be its beginning. Raises DatasetError."""
    if data.header != AUTO:
        return [column.strip() for column in data.header.split(",")]
    return next(read_rows(content, name), (0, []))[1]


class _Row(NamedTuple):
    """What a row holds, as written."""

    name: str
    label: str
    patient: str | None
    split: str | None  # train, val or test
    line: int
    left_out: str  # filtered (by data.where), unlisted (no label is joined), or "" for used
    values: tuple[str, ...]  # of the other columns


class _Sheet(NamedTuple):
    """The rows of one table, as written."""

    name: str
    prefix: str  # of a line's number in messages
    rows: list[_Row]
    columns: tuple[str, ...]  # the other columns
    patient_column: str | None
    chosen: RowFilter


def _read(file: TableFile, data: Data, problems: Problems, most: int, prefix: str) -> _Sheet:
    rows = read_rows(file.content, file.name)
    header = next(rows, (0, []))[1] if data.header == AUTO else read_header(b"", "", data)
    if not header:
        raise DatasetError(
            f"{file.name} is empty; it needs the columns filename, label, patient_id"
        )
    own = len(header)
    alone: set[int] = set()  # lines that a joined table has no row for
    for name, content in file.joined:
        rows, header = join(rows, header, file.name, name, content, alone, problems)
    columns = find_columns(header, file.name, data)
    chosen = RowFilter(data.where, header, file.name)
    unlabelled = alone if columns.label >= own else set()
    wrong = problems.count
    understood = _understood(rows, header, columns, chosen, unlabelled, file, prefix, problems)
    written = list(itertools.islice(understood, most + 1))
    if len(written) > most:
        raise DatasetError(f"{file.name} has more than {MAX_ROWS:,} rows")
    if not written and problems.count == wrong:
        raise DatasetError(f"{file.name} has a header and no rows")
    patient_column = header[columns.patient] if columns.patient is not None else None
    others = unique_names([header[at] for at in columns.others])
    return _Sheet(file.name, prefix, written, others, patient_column, chosen)


def _understood(
    rows: Iterator[tuple[int, list[str]]],
    header: list[str],
    columns: Columns,
    chosen: RowFilter,
    unlabelled: set[int],
    file: TableFile,
    prefix: str,
    problems: Problems,
) -> Iterator[_Row]:
    """The rows with all cells, a usable name, patient id and split."""
    places = (columns.filename, columns.label, columns.patient, columns.split)
    needed = max(1 + max(at for at in places if at is not None), chosen.needed)
    equal: dict[str, str] = {}  # cells that many rows have are kept once
    others, whole = columns.others, len(header)
    rest = itemgetter(*others) if len(others) > 1 else lambda row: tuple(row[at] for at in others)
    given = columns.split is not None and file.split is None
    for line, row in rows:
        if len(row) < needed:
            message = f"{prefix}line {line}: the row has {len(row)} of {whole} cells"
            problems.add("cells", message)
            continue
        if len(row) < whole:
            row.extend([""] * (whole - len(row)))
        name, label = row[columns.filename], row[columns.label]
        patient = "" if columns.patient is None else row[columns.patient]
        split = file.split
        left_out = "" if chosen.matches(row) else "filtered"
        if not left_out and line in unlabelled:
            left_out = "unlisted"
        if not name:
            problems.add("name", f"{prefix}line {line}: the file name is empty")
        for what, text in (("file name", name), ("patient id", patient)):
            if not text.isprintable() and not is_safe(text):
                message = f"{prefix}line {line}: {what} {shown(text)} has control characters"
                problems.add("name", message)
        if given:
            written = row[columns.split]  # type: ignore[index]  # given says that it is there
            split = split_of(written)
            if split is None and not left_out:
                message = f"{prefix}line {line}: split {shown(written)} is not train, val or test"
                problems.add("split", f"{message} (data.split_column=none ignores the column)")
        kept = rest(row)
        values = tuple(map(equal.setdefault, kept, kept))
        label, patient = equal.setdefault(label, label), equal.setdefault(patient, patient)
        yield _Row(name, label, patient or None, split, line, left_out, values)


class _Reorder:
    """Values of one table's columns as those of all tables: "" where it has no such column."""

    def __init__(self, own: tuple[str, ...], union: tuple[str, ...]) -> None:
        self._places = [own.index(name) if name in own else -1 for name in union]

    def __call__(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values[place] if place >= 0 else "" for place in self._places)
