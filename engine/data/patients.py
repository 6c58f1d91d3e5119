"""`data.patients`: a table that says whose image each is, where the data set itself does not."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path, PurePosixPath

from engine.data.columns import FILENAMES, PATIENTS, SHOWN, plain_name
from engine.data.csv_rows import read_rows
from engine.data.names import is_safe, shown
from engine.data.problems import DatasetError
from engine.data.table import Record
from engine.data.table_file import read_stored

IMAGES = ("subsetimgid", *FILENAMES)  # the first is RSNA's, of its mapping to NIH
OWNERS = (*PATIENTS, "person", "personid", "imgid")  # the last is NIH's name of an image
NIH_IMAGE = re.compile(r"(\d{8})_\d{3}(?:\.png)?")  # the person's number, the image's


def read_mapping_file(
    path: Path, files: dict[str, str], name: str
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The file `name` of the data set, or else of this path on the disk. Raises DatasetError."""
    names = [one for one in files if name in (one, one.rpartition("/")[2])]
    if len(names) == 1:
        return read_mapping(read_stored(path, files, names[0]), name)
    where = Path(name)
    if not where.is_file():
        raise DatasetError(
            f"data.patients={name}: there is no such file, neither in {path} nor on the disk"
        )
    return read_mapping(read_stored(where.parent, {where.name: where.name}, where.name), name)


def read_mapping(content: bytes, name: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Image (or other id) -> patient, of a CSV or a JSON list of objects, and warnings.

    The columns are found by their usual names; of two columns, the first is the image. An owner
    that is the name of an image of NIH's is reduced to the person in it. Raises DatasetError.
    """
    rows = (
        _json_rows(content, name)
        if name.lower().endswith((".json", ".json.gz"))
        else _csv_rows(content, name)
    )
    header = rows[0] if rows else []
    plain = [plain_name(column) for column in header]
    image = next((plain.index(a) for a in IMAGES if a in plain), None)
    owner = next((plain.index(a) for a in OWNERS if a in plain and plain.index(a) != image), None)
    if len(header) == 2 and (image is None or owner is None):
        image, owner = 0, 1
    if image is None or owner is None:
        raise DatasetError(
            f"{name}: columns {shown(', '.join(header[:SHOWN]))} do not say which is the image and "
            "which the patient; name them image and patient_id"
        )
    mapping: dict[str, str] = {}
    reduced = 0
    for number, row in enumerate(rows[1:], 2):
        key, value = (row[at] if at < len(row) else "" for at in (image, owner))
        if match := NIH_IMAGE.fullmatch(value):
            value, reduced = match[1], reduced + 1
        if not key or not value:
            continue
        if not is_safe(value):
            raise DatasetError(
                f"{name} row {number}: patient {shown(value)} has control characters"
            )
        if mapping.setdefault(key, value) != value:
            both = f"{shown(mapping[key])} and {shown(value)}"
            raise DatasetError(f"{name} row {number}: {shown(key)} is of two patients, {both}")
    if not mapping:
        raise DatasetError(f"{name} (data.patients) names no image with its patient")
    if not reduced:
        return mapping, []
    message = f"{reduced:,} owners in {name} are names of NIH's images: the person is their number"
    return mapping, [("patients_from_nih", message)]


def with_patients(
    records: list[Record], mapping: dict[str, str], name: str
) -> tuple[list[Record], list[tuple[str, str]]]:
    """The records with their patients, found by path, file name (without ending, too) or old id."""
    found = [dataclasses.replace(record, patient=_owner(record, mapping)) for record in records]
    without = [record.name for record in found if record.patient is None]
    if not without:
        return found, []
    message = (
        f"{name} names no patient for {len(without):,} of {len(found):,} images: each of them "
        f"counts as its own patient ({shown(without[0])}, ...)"
    )
    return found, [("patient_ids_missing", message)]


def _owner(record: Record, mapping: dict[str, str]) -> str | None:
    path = PurePosixPath(record.name)
    keys = (record.name, path.name, path.stem, record.patient or "")
    return next((mapping[key] for key in keys if key in mapping), None)


def _csv_rows(content: bytes, name: str) -> list[list[str]]:
    return [row for _, row in read_rows(content, name)]


def _json_rows(content: bytes, name: str) -> list[list[str]]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{name} is not JSON ({error})") from None
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return [["image", "patient_id"], *([key, value] for key, value in found.items())]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found) or not found:
        raise DatasetError(f"{name}: a JSON mapping is a list of objects, or an object of texts")
    header = list(found[0])
    return [header, *([str(one.get(column, "")).strip() for column in header] for one in found)]
