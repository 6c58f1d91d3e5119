"""From a ZIP or a folder to records: which image, which label, which patient. No torch here."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from config.schema import AUTO, Data
from engine.data.archive import Reader, list_files
from engine.data.class_folders import Folders, find_in_folders
from engine.data.finder import Finder
from engine.data.layouts import recognise
from engine.data.listed import match_rows, without_image_numbers
from engine.data.names import is_image
from engine.data.notices import (
    decided_by_policy,
    left_out,
    no_patients,
    number_images,
    without_match,
)
from engine.data.parts import Part
from engine.data.patients import read_mapping_file, with_patients
from engine.data.problems import DatasetError, Problems, UnreadableFile
from engine.data.split_lists import split_by_lists
from engine.data.table import Record, Table
from engine.data.table_file import (
    choose_tables,
    find_known_table,
    no_table,
    read_stored,
    read_table_files,
)

__all__ = [
    "DatasetError",
    "Reader",
    "Record",
    "Source",
    "UnreadableFile",
    "open_source",
    "problem_error",
]

FEWEST_PATIENTS = 2  # of each class: one to train on, one to validate with
# What is said of a data set's own patient ids; data.patients takes their place.
ABOUT_PATIENTS = ("no_patient_ids", "patient_ids_number_images", "patient_ids_missing")
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
    # Images that are found and not used, by reason: unlisted (no row names them), filtered,
    # dropped (by label_map), uncertain, unmentioned, outside (the class folders, or masks).
    flow: Counter[str] = field(default_factory=Counter)
    # Rows by what decided their label: value, map, uncertain or unmentioned; of a table only.
    decided: Counter[str] = field(default_factory=Counter)
    votes: tuple[int, int] = (0, 0)  # images with several labels; those whose labels agree
    columns: tuple[str, ...] = ()  # the data set's other columns; Record.values has their cells
    labels_found: list[str] = field(default_factory=list)  # values with counts and meaning

    def cells(self) -> dict[str, list[str]]:
        """The other columns: name -> the cell of each record."""
        return {
            name: [record.values[at] for record in self.records]
            for at, name in enumerate(self.columns)
        }

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
    data, recognised = recognise(path, files, data)
    tables = choose_tables(path, files, data)
    folders = None if tables else find_in_folders(files, data)
    chosen: list[tuple[str, str]] = []
    if not tables and (folders is None or not folders.sure):
        name = find_known_table(path, files, data)
        if name is not None:
            tables = [Part(name, None)]
            chosen = [("table_chosen", f"the table is {name} (data.table={name})")]
    finder = Finder([name for name in files if name not in {table.name for table in tables}])
    if tables:
        table = read_table_files(path, files, tables, data, found)
        source = _from_table(path, files, table, finder, data, found)
    elif folders is not None:
        source = _from_folders(path, files, folders, found)
    else:
        raise no_table(path, files, data)
    source.warnings[:0] = [*recognised, *chosen]
    if data.patients != "none":
        mapping, warnings = read_mapping_file(path, files, data.patients)
        source.records, without = with_patients(source.records, mapping, data.patients)
        others = [one for one in source.warnings if one[0] not in ABOUT_PATIENTS]
        source.warnings = [*others, *warnings, *without]
    if data.split_lists != "none":
        source.records, warnings = split_by_lists(
            source.records,
            path,
            files,
            lambda name: read_stored(path, files, name),
            finder,
            data,
            found,
        )
        source.warnings += warnings
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


def _from_table(
    path: Path,
    files: dict[str, str],
    table: Table,
    finder: Finder,
    data: Data,
    problems: Problems,
) -> Source:
    listed = match_rows(table, finder, data, problems)
    records, flow = listed.records, listed.flow
    warnings = list(table.warnings)
    if listed.missing:
        message = f"{len(listed.missing)} images are missing and left out"
        warnings.append(("missing_images", message))
    if flow["unlisted"]:
        message = f"{flow['unlisted']:,} images have no label in {data.join} and are not used"
        warnings.append(("unlabelled_images", message))
    unlisted = sorted(filter(is_image, set(finder.names) - listed.names))
    if unlisted:
        flow["unlisted"] += len(unlisted)
        message = f"{len(unlisted)} images have no row in {table.name} and are not used"
        warnings.append(("unlisted_images", f"{message} ({unlisted[0]}, ...)"))
    warnings += left_out(flow)
    warnings += decided_by_policy(listed, data)
    if data.patient_pattern != AUTO:
        warnings += without_match(records, data)
    elif table.patient_column is None:
        warnings.append(no_patients(f"{table.name} has no column of patient ids"))
    elif (without := without_image_numbers(records)) is not None:
        warnings.append(number_images(table.name, table.patient_column))
        records = without
    votes = (listed.voted, listed.agreed)
    missing = listed.missing
    label_names = table.label_names
    return Source(
        path,
        "table",
        records,
        label_names,
        warnings,
        missing,
        files,
        flow,
        listed.decided,
        votes,
        table.columns,
        table.found,
    )


def _from_folders(
    path: Path, files: dict[str, str], folders: Folders, problems: Problems
) -> Source:
    for problem in folders.unknown:
        problems.add("class", problem)
    kind, names, flow = "class_folders", folders.label_names, folders.flow
    return Source(path, kind, folders.records, names, folders.warnings, [], files, flow)


def _check_classes(source: Source) -> None:
    """Both classes, each from enough patients. Raises DatasetError."""
    for label, name in enumerate(source.label_names):
        of_class = [record for record in source.records if record.label == label]
        if not of_class:
            raise DatasetError(
                f"{source.path}: no image has the label {name}; both classes are needed "
                f"(data.positive_label names the positive one){':' if source.labels_found else ''}",
                source.labels_found or None,
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
