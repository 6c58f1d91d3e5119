"""From the path of a data set to images, labels and a split that a run can be trained on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, UserError
from engine.data.adopt import with_headers
from engine.data.audit import build_report
from engine.data.cache import CachedImages, Progress, Scan, open_cache
from engine.data.folds import folds_of
from engine.data.names import shown
from engine.data.problems import Problems
from engine.data.source import Source, open_source, problem_error
from engine.data.split import PARTS, Split, split_records

SMALLEST_ALONE = 32  # pixels: a ResNet's last stage is then one value for an image and channel
FEW = 10  # images of a class in a part, below which its figures say little
MANY = 200  # images, of which some should share a patient


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to be trained on; every index is a place in `labels`."""

    images: CachedImages  # uint8 [M, S, S], in the decode cache
    rows: np.ndarray  # int64 [N], the row of each image in `images`
    labels: np.ndarray  # int64 [N], 1 is the positive class
    names: list[str]
    patients: list[str | None]
    columns: dict[str, list[str]]  # the data set's other columns: name -> N cells
    split: Split
    label_names: tuple[str, str]  # negative, positive
    report: dict[str, Any]
    warnings: list[tuple[str, str]]  # (code, message)
    fingerprint: str  # SHA-256 over every image's name, content, label and part

    def texts(self, index: np.ndarray) -> tuple[list[str], dict[str, list[str]]]:
        """The names and the other columns of some images, by their places in `labels`."""
        places = index.tolist()
        columns = {name: [cells[i] for i in places] for name, cells in self.columns.items()}
        return [self.names[i] for i in places], columns

    def owners(self, index: np.ndarray) -> np.ndarray | None:
        """int64, a number for each image's patient; None where the data set names no patients."""
        places = index.tolist()
        return owner_numbers([self.patients[i] for i in places], [self.names[i] for i in places])


def prepare(dataset_path: str | Path, config: Config, progress: Progress | None = None) -> Prepared:
    """Open, decode, split and report. Raises UserError with everything that is wrong."""
    data, system = config.data, config.system
    _check_batch(config)
    if data.fold_count == 1 or (data.fold_count and data.fold > data.fold_count):
        raise UserError(
            f"data.fold_count={data.fold_count} and data.fold={data.fold}: give at least 2 folds, "
            "and one of them"
        )
    problems = Problems()
    source = open_source(dataset_path, data, problems)
    if not source.records:
        raise problem_error(dataset_path, problems, bool(source.missing))
    opened = open_cache(
        source,
        data.image_size,
        Path(config.output.cache_dir),
        data.cache_max_gb,
        data.decode_memory_gb,
        progress=progress,
        fit=data.fit,
    )
    scans = opened.scans
    unreadable = {
        record.name: scan.error
        for record, scan in zip(source.records, scans, strict=True)
        if scan.error is not None
    }
    if data.unreadable == "error":
        for name, why in unreadable.items():
            problems.add("unreadable", f"{shown(name)}: {why}")
    if problems.count:
        raise problem_error(dataset_path, problems, bool(source.missing or unreadable))
    rows = np.array([i for i, scan in enumerate(scans) if scan.error is None], dtype=np.int64)
    source = dataclasses.replace(source, records=[source.records[i] for i in rows.tolist()])
    scans = [scans[i] for i in rows.tolist()]
    source = with_headers(source, scans, data)
    if unreadable:
        message = f"{len(unreadable)} images cannot be read and are left out"
        source.warnings.append(("unreadable_images", message))
    labels = np.array([record.label for record in source.records], dtype=np.int64)
    patients = [record.patient for record in source.records]
    seed = data.split_seed if isinstance(data.split_seed, int) else system.seed
    names = [record.name for record in source.records]

    def fold(free: np.ndarray, groups: np.ndarray) -> np.ndarray:
        chosen = [names[i] for i in free.tolist()]
        numbers = folds_of(data.fold_file, chosen, labels[free], groups, data.fold_count, seed)
        return numbers == data.fold

    split = split_records(
        labels,
        patients,
        [scan.pixels for scan in scans],
        [record.split for record in source.records],
        system.validation_split,
        system.test_split,
        seed,
        fold if data.fold_count else None,
    )
    report = build_report(source, scans, split, unreadable)
    warnings = [*source.warnings, *opened.warnings, *_warnings_of(report)]
    if report["split"]["shared_patients"] and "patient_leakage" not in dict(warnings):
        number = report["split"]["shared_patients"]
        message = f"the given split has {number} patients in more than one part"
        warnings.append(("patient_leakage", message))
    report["warnings"] = [message for _, message in warnings]
    report["fingerprint"] = _fingerprint(source, scans, split)
    return Prepared(
        images=opened.images,
        rows=rows,
        labels=labels,
        names=[record.name for record in source.records],
        patients=patients,
        columns=source.cells(),
        split=split,
        label_names=source.label_names,
        report=report,
        warnings=warnings,
        fingerprint=report["fingerprint"],
    )


def owner_numbers(patients: Sequence[str | None], names: Sequence[str]) -> np.ndarray | None:
    """int64 [N], a number for each image's patient; None where no image [N] has one.

    An image without a patient id counts as a patient of its own.
    """
    if not any(patients):
        return None
    owners = [
        f"patient {owner}" if owner else f"image {name}"
        for owner, name in zip(patients, names, strict=True)
    ]
    return np.unique(owners, return_inverse=True)[1].astype(np.int64)


def _check_batch(config: Config) -> None:
    """Raises UserError where a training batch would be a single value for BatchNorm."""
    halves = config.recipe.small_epochs > 0
    smallest = config.data.image_size // (2 if halves else 1)
    if config.system.batch_size == 1 and smallest <= SMALLEST_ALONE:
        raise UserError(
            f"system.batch_size=1 cannot be trained on at data.image_size={config.data.image_size}"
            f"{' halved by recipe.small_epochs' if halves else ''}:"
            " BatchNorm would have one value of each channel; set system.batch_size=2 or more (with"
            " experiment.accumulate for small steps), or a larger data.image_size"
        )


def _warnings_of(report: dict[str, Any]) -> list[tuple[str, str]]:
    duplicates, split = report["exact_duplicates"], report["split"]
    warnings = []
    if duplicates["across_splits"]:
        number = duplicates["across_splits"]
        message = f"the given split has {number} images in more than one of its parts"
        warnings.append(("image_leakage", message))
    if duplicates["with_two_labels"]:
        message = f"{duplicates['with_two_labels']} groups of identical images have both labels"
        warnings.append(("contradicting_labels", message))
    if split["near_duplicates"]:
        message = f"{split['near_duplicates']} pairs of nearly identical images are in two parts"
        warnings.append(("near_duplicates", f"{message} of the split"))
    if split["patient_ids"] == "distinct" and report["images"] > MANY:
        message = (
            f"each of the {report['images']} images has a patient id of its own: ids that no two "
            "images share cannot show that no patient is in two parts of the split; do they number "
            "images or studies rather than people? data.patient_column names another column, and "
            "data.patients=FILE a table of images and patients"
        )
        warnings.append(("patient_ids_distinct", message))
    for part, classes in report["counts"].items():
        few = {label: count for label, count in classes.items() if count < FEW}
        if few and any(classes.values()):
            counted = " and ".join(f"{count} {label}" for label, count in few.items())
            message = (
                f"the {part} part has only {counted} images: figures of fewer than {FEW} images of "
                "a class say little; give more patients, or change the split"
            )
            warnings.append(("few_images", message))
    return warnings


def _fingerprint(source: Source, scans: list[Scan], split: Split) -> str:
    parts = {i: part for part in PARTS for i in getattr(split, part).tolist()}
    images = [
        [record.name, scan.content, record.label, parts[i]]
        for i, (record, scan) in enumerate(zip(source.records, scans, strict=True))
    ]
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()
