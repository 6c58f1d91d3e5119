"""From the rows of a table to images: which file, which label, and why the others are not used."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from config.schema import AUTO, Data
from engine.data.finder import Finder
from engine.data.labels import vote
from engine.data.names import shown
from engine.data.problems import DatasetError, Problems
from engine.data.table import Record, Row, Table

NO_DECISION = ("filtered", "unlisted")  # reasons of rows that say nothing of a label
REASONS = {"map": "dropped"}  # how the flow names what leaves an image out; others as they are


@dataclass
class Listed:
    """The images of a table's rows."""

    records: list[Record]
    missing: list[str]  # named in a row and not there
    names: set[str]  # files that a row names, used or not
    flow: Counter[str]  # images that are found and not used, by reason
    decided: Counter[str] = field(default_factory=Counter)  # rows, by what decided the label
    voted: int = 0  # images with several labels
    agreed: int = 0  # of them, those whose labels are all the same


def match_rows(table: Table, finder: Finder, data: Data, problems: Problems) -> Listed:
    """Each row's image among the files, by the longest common end of their paths."""
    rows_of: dict[str, list[Row]] = {}
    missing: dict[str, None] = {}
    for row in table.rows:
        names = finder.find(row.name)
        outside = ".." in row.name and ".." in row.name.replace("\\", "/").split("/")
        if len(names) == 1 and not outside:
            rows_of.setdefault(names[0], []).append(row)
            continue
        where = f"{row.table} line {row.line}: {shown(row.name)}"
        if outside:
            problems.add("path", f"{where} leads out of the data set")
        elif row.label is None:
            continue  # not used, wherever it is
        elif names:
            could = " or ".join(map(shown, names[:4]))
            problems.add("ambiguous", f"{where} could be {could}; write the path")
        else:
            missing[row.name] = None
            if data.unreadable == "error":
                problems.add("missing", f"{where} is not among the files")
    named = set(rows_of)
    listed = Listed([], list(missing), named, Counter())
    listed.decided.update(row.reason for row in table.rows if row.reason not in NO_DECISION)
    patient = patient_finder(data)
    for name, rows in rows_of.items():
        used = [row for row in rows if row.label is not None]
        if not used:
            kept = [row.reason for row in rows if row.reason not in NO_DECISION]
            kept = kept or [row.reason for row in rows if row.reason != "filtered"]
            reason = kept[0] if kept else "filtered"
            listed.flow[REASONS.get(reason, reason)] += 1
            continue
        labels = [row.label for row in used if row.label is not None]
        if len(used) > 1 and data.votes != "error":
            result = vote(labels, data.votes)
            listed.voted += 1
            listed.agreed += result.agreed
            used = [row._replace(label=result.label) for row in used]
        first = used[0]
        for row in used[1:]:
            if conflict := _conflict(first, row):
                where = f"{row.table} line {row.line}: {shown(row.name)}"
                other = "line" if row.table == first.table else f"{first.table} line"
                text = f"{where} and {other} {first.line} are one image {conflict}"
                problems.add("conflict", text)
        person = patient(name) if data.patient_pattern != AUTO else first.patient
        values = first.values if len(used) == 1 else tuple(map(_joined, *(r.values for r in used)))
        record = Record(name, first.label or 0, person, first.split, first.line, values)
        listed.records.append(record)
    return listed


def patient_finder(data: Data) -> Callable[[str], str | None]:
    """The patient id in an image's path, by `data.patient_pattern`: its first group, or all.

    Raises DatasetError where the pattern is not a regular expression.
    """
    try:
        pattern = re.compile(data.patient_pattern)
    except re.error as error:
        raise DatasetError(
            f"data.patient_pattern={data.patient_pattern} is not a regular expression ({error})"
        ) from None

    def find(name: str) -> str | None:
        match = pattern.search(name)
        found = next(filter(None, match.groups()), match[0]) if match else None
        return found or None

    return find


def without_image_numbers(records: list[Record]) -> list[Record] | None:
    """The records without patient ids where each id is the image's own name, else None."""
    if not records or not all(_numbers_image(record) for record in records):
        return None
    return [dataclasses.replace(record, patient=None) for record in records]


def _numbers_image(record: Record) -> bool:
    name = PurePosixPath(record.name)
    return record.patient in (name.stem, name.name)


def _joined(*values: str) -> str:
    """What the rows of one image say in one column; each of it once."""
    return "|".join(dict.fromkeys(values))


def _conflict(one: Row, other: Row) -> str | None:
    if one.label != other.label:
        return "with two labels; data.votes decides"
    if one.patient != other.patient:
        ids = [shown(patient) if patient else "none" for patient in (one.patient, other.patient)]
        return f"of two patients, {ids[0]} and {ids[1]}"
    if one.split != other.split:
        return f"in two parts of the split, {one.split} and {other.split}"
    return None
