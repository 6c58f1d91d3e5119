"""From a ZIP or a folder to records: which image, which label, which patient. No torch here."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from config.schema import Data
from engine.data.archive import Reader, list_files
from engine.data.finder import Finder
from engine.data.names import shown
from engine.data.problems import DatasetError, Problems, UnreadableFile
from engine.data.table import Record, Table, label_of, read_table, split_of

__all__ = [
    "DatasetError",
    "Reader",
    "Record",
    "Source",
    "UnreadableFile",
    "open_source",
    "problem_error",
]

TABLE = "metadata.csv"
MAX_TABLE = 256_000_000  # bytes, unpacked
MASKS = ("mask", "masks")  # folders of what is no image
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


def open_source(path: str | Path, data: Data, problems: Problems | None = None) -> Source:
    """Find the records of a data set. Raises DatasetError with everything that is wrong.

    Where `problems` is given, what is wrong with single rows and files is added to it instead, and
    the records are those that are right: the caller can look for more before it raises.
    """
    path = Path(path)
    found = Problems() if problems is None else problems
    files = list_files(path, data.max_unpacked_gb * 1e9)
    tables = [name for name in files if name.lower() == TABLE]
    if len(tables) > 1:
        raise DatasetError(f"{path}: there are {len(tables)} tables, {' and '.join(tables)}")
    if tables:
        table = _read_table(path, files, tables[0], data, found)
        source = _from_table(path, files, table, data, found)
    else:
        source = _from_class_folders(path, files, data, found)
    if problems is None and found.count:
        raise problem_error(path, found, bool(source.missing))
    if not found.count:
        _check_classes(source)
        _warn_of_splits(source)
    return source


def problem_error(path: str | Path, problems: Problems, skippable: bool) -> DatasetError:
    """The error that lists what is wrong with single rows and files of a data set.

    `skippable` says whether images are among them that are missing or cannot be read.
    """
    advice = "; data.unreadable=skip leaves out images that are missing or cannot be read"
    advice = advice if skippable else ""
    return DatasetError(f"{path}: {problems.count:,} problems{advice}:", problems)


def _read_table(
    path: Path, files: dict[str, str], name: str, data: Data, problems: Problems
) -> Table:
    with Reader(path, {name: files[name]}) as reader:
        try:
            content = reader.read(name, MAX_TABLE)
        except UnreadableFile as error:
            raise DatasetError(f"{path}: {name}: {error}") from error
    return read_table(content, name, data, problems)


def _from_table(
    path: Path, files: dict[str, str], table: Table, data: Data, problems: Problems
) -> Source:
    """Each row's image among the files: by path, below images/, by name, or without its ending."""
    finder = Finder([name for name in files if name.lower() != TABLE])
    found: dict[str, Record] = {}
    missing: dict[str, None] = {}
    for row in table.rows:
        where = f"{table.name} line {row.line}: {shown(row.name)}"
        names = finder.find(row.name)
        if ".." in PurePosixPath(row.name.replace("\\", "/")).parts:
            problems.add("path", f"{where} leads out of the data set")
        elif len(names) > 1:
            could = " or ".join(map(shown, names[:4]))
            problems.add("ambiguous", f"{where} could be {could}; write the path")
        elif not names:
            missing[row.name] = None
            if data.unreadable == "error":
                problems.add("missing", f"{where} is not among the files")
        else:
            record = Record(names[0], row.label, row.patient, row.split, row.line)
            known = found.setdefault(names[0], record)
            if conflict := _conflict(known, record):
                text = f"{where} and line {known.line} are one image {conflict}"
                problems.add("conflict", text)
    warnings = list(table.warnings)
    if missing:
        warnings.append(("missing_images", f"{len(missing)} images are missing and left out"))
    unused = [name for name in finder.names if is_image(name) and name not in found]
    if unused:
        message = f"{len(unused)} images have no row in {table.name} and are not used"
        warnings.append(("unlisted_images", f"{message} ({unused[0]}, ...)"))
    records = list(found.values())
    if table.patient_column is None:
        warnings.append(_no_patients(f"{table.name} has no column of patient ids"))
    elif records and all(_numbers_image(record) for record in records):
        warnings.append(_number_images(table.name, table.patient_column))
        records = [dataclasses.replace(record, patient=None) for record in records]
    return Source(path, "table", records, table.label_names, warnings, list(missing), files)


def _numbers_image(record: Record) -> bool:
    """Whether the patient id is nothing but the image's own name."""
    name = PurePosixPath(record.name)
    return record.patient in (name.stem, name.name)


def _conflict(one: Record, other: Record) -> str | None:
    if one.label != other.label:
        return "with two labels"
    if one.patient != other.patient:
        ids = [shown(patient) if patient else "none" for patient in (one.patient, other.patient)]
        return f"of two patients, {ids[0]} and {ids[1]}"
    if one.split != other.split:
        return f"in two parts of the split, {one.split} and {other.split}"
    return None


def _from_class_folders(
    path: Path, files: dict[str, str], data: Data, problems: Problems
) -> Source:
    """`NORMAL/**` and `PNEUMONIA/**`, alone or below `train`, `val` and `test`."""
    records: list[Record] = []
    unknown: set[str] = set()
    unused: list[str] = []
    negative_name = "NORMAL"
    for name in sorted(filter(is_image, files)):
        *folders, file = PurePosixPath(name).parts
        split = split_of(folders[0]) if len(folders) > 1 else None
        below = folders[1:] if split else folders  # the class, and folders within it
        labels = [label_of(folder, data.positive_label) for folder in below]
        if not below or any(folder.casefold() in MASKS for folder in below):
            unused.append(name)
        elif labels[0] is not None:
            negative_name = below[0] if labels[0] == 0 else negative_name
            match = KAGGLE_PATIENT.fullmatch(file.rsplit(".", 1)[0])
            patient = (match.group(1) or match.group(2)) if match else None
            records.append(Record(name, labels[0], patient, split, None))
        elif any(label is not None for label in labels):
            unused.append(name)  # of a data set within the data set
        else:
            unknown.add("/".join(folders[: 2 if split else 1]))
    if not records:
        tables = sorted(name for name in files if name.lower().endswith(".csv"))
        also = f"; if {shown(tables[0])} is the table, name it {TABLE}" if tables else ""
        raise DatasetError(
            f"{path}: there is no {TABLE}, and no folders NORMAL and {data.positive_label} either. "
            f"A data set is {TABLE} (filename, label, patient_id) beside images/{also}"
        )
    for folder in sorted(unknown):
        known = f"{data.positive_label} (data.positive_label) or NORMAL"
        problems.add("class", f"the folder {shown(folder)} names no known class: {known}")
    warnings = []
    if unused:
        message = f"{len(unused)} images are outside the class folders or masks, and are not used"
        warnings.append(("unused_images", f"{message} ({unused[0]}, ...)"))
    if not any(record.patient for record in records):
        warnings.append(_no_patients("folders by class hold no patient ids"))
    label_names = (negative_name, data.positive_label)
    return Source(path, "class_folders", records, label_names, warnings, [], files)


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS


def _no_patients(why: str) -> tuple[str, str]:
    return (
        "no_patient_ids",
        f"{why}: the split keeps identical images together, but images of one patient may be in "
        "several parts, and the figures may be too good",
    )


def _number_images(table: str, column: str) -> tuple[str, str]:
    return (
        "patient_ids_number_images",
        f"the patient ids of {table} (column {column}) are the names of the images: they number "
        "images, not people. They are not used: the split keeps identical images together, but "
        "images of one patient may be in several parts, and the figures may be too good. Add a "
        "column that identifies people (data.patient_column)",
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
    parts: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for record in source.records:
        if record.split:
            counts[record.split] += 1
            if record.patient:
                parts[record.patient].add(record.split)
    both = sorted(patient for patient, of in parts.items() if len(of) > 1)
    if both:
        message = f"the given split has {len(both)} patients in more than one part ({both[0]}, ...)"
        source.warnings.append(("patient_leakage", message))
    if 0 < counts["val"] < SMALL_SPLIT:
        message = (
            f"the given split has only {counts['val']} images to validate with: too few for "
            "reliable figures"
        )
        source.warnings.append(("small_validation", message))
