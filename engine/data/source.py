"""From a ZIP or a folder to records: which image, which label, which patient. No torch here."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from config.schema import Data
from engine.data.archive import DatasetError, Reader, UnreadableFile, list_files
from engine.data.table import Record, Table, label_of, read_table, split_of

__all__ = ["DatasetError", "Reader", "Record", "Source", "UnreadableFile", "open_source"]

TABLE = "metadata.csv"
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".jp2", ".pgm", ".dcm", ".dicom"),
)
# The file names of the Kaggle set hold the patient: person12_virus_3.jpeg, IM-0115-0001.jpeg
KAGGLE_PATIENT = re.compile(r"(person\d+)_(?:bacteria|virus)_\d+|.*?(IM-\d+)-\d+.*")
FEWEST_PATIENTS = 2  # of each class: one to train on, one to validate with
SMALL_SPLIT = 50  # images: below it figures say little


@dataclass
class Source:
    """A data set's records; nothing is held open between reads."""

    path: Path
    kind: str  # table or class_folders
    records: list[Record]
    label_names: tuple[str, str]  # negative, positive
    warnings: list[tuple[str, str]]  # (code, message)
    missing: list[str]  # named in the table and not there
    files: dict[str, str]  # every file's name -> as it is stored

    def reader(self) -> Reader:
        """Reads images by name; can be sent to another process."""
        return Reader(self.path, {record.name: self.files[record.name] for record in self.records})

    def read(self, name: str) -> bytes:
        """The bytes of one image. Raises UnreadableFile."""
        with self.reader() as reader:
            return reader.read(name)


def open_source(path: str | Path, data: Data) -> Source:
    """Find the records of a data set. Raises DatasetError with everything that is wrong."""
    path = Path(path)
    files = list_files(path, data.max_unpacked_gb * 1e9)
    tables = [name for name in files if name.lower() == TABLE]
    if tables:
        with Reader(path, files) as reader:
            try:
                text = reader.read(tables[0])
            except UnreadableFile as error:
                raise DatasetError(f"{path}: {TABLE}: {error}") from error
        source = _from_table(path, files, read_table(text, tables[0], data), data)
    else:
        source = _from_class_folders(path, files, data)
    _check_classes(source)
    _warn_of_splits(source)
    return source


def _from_table(path: Path, files: dict[str, str], table: Table, data: Data) -> Source:
    """Each row's image among the files: by path, below images/, by name, or without its ending."""
    finder = _Finder([name for name in files if name.lower() != TABLE])
    found: dict[str, Record] = {}
    missing: list[str] = []
    problems: list[str] = []
    for row in table.rows:
        where = f"{table.name} line {row.line}: {row.name!r}"
        names = finder.find(row.name)
        if ".." in PurePosixPath(row.name.replace("\\", "/")).parts:
            problems.append(f"{where} leads out of the data set")
        elif len(names) > 1:
            problems.append(f"{where} could be {' or '.join(names[:4])}; write the path")
        elif not names:
            missing.append(row.name)
            if data.unreadable == "error":
                problems.append(f"{where} is not among the files")
        else:
            record = Record(names[0], row.label, row.patient, row.split, row.line)
            known = found.setdefault(names[0], record)
            if conflict := _conflict(known, record):
                problems.append(f"{where} and line {known.line} are one image {conflict}")
    if problems:
        advice = "; data.unreadable=skip leaves images out that are missing" if missing else ""
        raise DatasetError(f"{path}: {table.name} does not fit the images{advice}:", problems)
    warnings = list(table.warnings)
    if missing:
        warnings.append(("missing_images", f"{len(missing)} images are missing and left out"))
    unused = sum(1 for name in finder.names if _is_image(name) and name not in found)
    if unused:
        message = f"{unused} images have no row in {table.name} and are not used"
        warnings.append(("unlisted_images", message))
    if table.patient_column is None:
        warnings.append(_no_patients(f"{table.name} has no column of patient ids"))
    records = list(found.values())
    return Source(path, "table", records, table.label_names, warnings, missing, files)


class _Finder:
    """Files by path, by name and by name without ending."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._paths = set(names)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            path = PurePosixPath(name)
            self._by_name[path.name].append(name)
            self._by_stem[path.stem].append(name)

    def find(self, name: str) -> list[str]:
        """The files that a table's name can mean, the surest way of reading it first."""
        name = name.replace("\\", "/").removeprefix("./")
        for candidate in (name, f"images/{name}"):
            if candidate in self._paths:
                return [candidate]
        last = PurePosixPath(name).name
        return self._by_name.get(last) or self._by_stem.get(last) or []


def _conflict(one: Record, other: Record) -> str | None:
    if one.label != other.label:
        return "with two labels"
    if one.patient != other.patient:
        return f"of two patients, {one.patient} and {other.patient}"
    if one.split != other.split:
        return f"in two splits, {one.split} and {other.split}"
    return None


def _from_class_folders(path: Path, files: dict[str, str], data: Data) -> Source:
    """`NORMAL/*` and `PNEUMONIA/*`, alone or below `train`, `val` and `test`."""
    records: list[Record] = []
    unknown: set[str] = set()
    negative_name = "NORMAL"
    for name in sorted(files):
        parts = PurePosixPath(name).parts
        split = split_of(parts[0]) if len(parts) == 3 else None
        if not _is_image(name) or not (len(parts) == 2 or split):
            continue
        label = label_of(parts[-2], data.positive_label)
        if label is None:
            unknown.add("/".join(parts[:-1]))
            continue
        negative_name = parts[-2] if label == 0 else negative_name
        match = KAGGLE_PATIENT.fullmatch(parts[-1].rsplit(".", 1)[0])
        patient = (match.group(1) or match.group(2)) if match else None
        records.append(Record(name, label, patient, split, None))
    if not records:
        tables = sorted(name for name in files if name.lower().endswith(".csv"))
        also = f"; if {tables[0]} is the table, name it {TABLE}" if tables else ""
        raise DatasetError(
            f"{path}: there is no {TABLE}, and no folders NORMAL and {data.positive_label} either. "
            f"A data set is {TABLE} (filename, label, patient_id) beside images/{also}"
        )
    if unknown:
        raise DatasetError(
            f"{path}: folders of unknown classes (the positive one is {data.positive_label}, see "
            "data.positive_label):",
            sorted(unknown),
        )
    warnings = []
    if not any(record.patient for record in records):
        warnings.append(_no_patients("folders by class hold no patient ids"))
    label_names = (negative_name, data.positive_label)
    return Source(path, "class_folders", records, label_names, warnings, [], files)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS


def _no_patients(why: str) -> tuple[str, str]:
    return (
        "no_patient_ids",
        f"{why}: the split keeps identical images together, but images of one patient may stand on "
        "both sides, and the figures may be too good",
    )


def _check_classes(source: Source) -> None:
    """Both classes, each from enough patients. Raises DatasetError."""
    for label, name in enumerate(source.label_names):
        of_class = [record for record in source.records if record.label == label]
        if not of_class:
            raise DatasetError(
                f"{source.path}: no image has the label {name}; both classes are needed "
                "(data.positive_label names the positive one)"
            )
        if len({record.patient or record.name for record in of_class}) < FEWEST_PATIENTS:
            raise DatasetError(
                f"{source.path}: all images of {name} ({len(of_class)}) are of one patient; at "
                f"least {FEWEST_PATIENTS} patients of each class are needed"
            )


def _warn_of_splits(source: Source) -> None:
    """A split that was given is obeyed; what is wrong with it is said."""
    sides: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for record in source.records:
        if record.split:
            counts[record.split] += 1
            if record.patient:
                sides[record.patient].add(record.split)
    both = sorted(patient for patient, splits in sides.items() if len(splits) > 1)
    if both:
        message = f"the given split has {len(both)} patients on more than one side ({both[0]}, ...)"
        source.warnings.append(("patient_leakage", message))
    if 0 < counts["val"] < SMALL_SPLIT:
        message = (
            f"the given split validates on only {counts['val']} images: too few for firm figures"
        )
        source.warnings.append(("small_validation", message))
