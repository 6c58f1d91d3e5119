"""From the path of a data set to images, labels and a split that a run can be trained on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from engine.data.audit import build_report
from engine.data.cache import CachedImages, Progress, Scan, open_cache
from engine.data.source import DatasetError, Source, open_source
from engine.data.split import Split, split_records


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to be trained on; every index is a place in `labels`."""

    images: CachedImages  # uint8 [M, S, S], in the decode cache
    rows: np.ndarray  # int64 [N], the row of each image in `images`
    labels: np.ndarray  # int64 [N], 1 is the positive class
    names: list[str]
    patients: list[str | None]
    split: Split
    label_names: tuple[str, str]  # negative, positive
    report: dict[str, Any]
    warnings: list[tuple[str, str]]  # (code, message)
    fingerprint: str  # SHA-256 over every image's content, label and side


def prepare(dataset_path: str | Path, config: Config, progress: Progress | None = None) -> Prepared:
    """Open, decode, split and report. Raises UserError with everything that is wrong."""
    data, system = config.data, config.system
    source = open_source(dataset_path, data)
    opened = open_cache(
        source,
        data.image_size,
        Path(config.output.cache_dir),
        data.cache_max_gb,
        data.decode_memory_gb,
        progress=progress,
    )
    scans = opened.scans
    unreadable = {
        record.name: scan.error
        for record, scan in zip(source.records, scans, strict=True)
        if scan.error is not None
    }
    if unreadable and data.unreadable == "error":
        raise DatasetError(
            f"{dataset_path}: {len(unreadable)} images cannot be read; fix them, or leave them out "
            "with data.unreadable=skip:",
            [f"{name}: {why}" for name, why in unreadable.items()],
        )
    rows = np.array([i for i, scan in enumerate(scans) if scan.error is None], dtype=np.int64)
    source = dataclasses.replace(source, records=[source.records[i] for i in rows.tolist()])
    scans = [scans[i] for i in rows.tolist()]
    if unreadable:
        message = f"{len(unreadable)} images cannot be read and are left out"
        source.warnings.append(("unreadable_images", message))
    labels = np.array([record.label for record in source.records], dtype=np.int64)
    patients = [record.patient for record in source.records]
    split = split_records(
        labels,
        patients,
        [scan.pixels for scan in scans],
        [record.split for record in source.records],
        system.validation_split,
        system.test_split,
        system.seed,
    )
    report = build_report(source, scans, split, unreadable)
    warnings = [*source.warnings, *opened.warnings, *_warnings_of(report)]
    report["warnings"] = [message for _, message in warnings]
    report["fingerprint"] = _fingerprint(source, scans, split)
    return Prepared(
        images=opened.images,
        rows=rows,
        labels=labels,
        names=[record.name for record in source.records],
        patients=patients,
        split=split,
        label_names=source.label_names,
        report=report,
        warnings=warnings,
        fingerprint=report["fingerprint"],
    )


def _warnings_of(report: dict[str, Any]) -> list[tuple[str, str]]:
    duplicates, near = report["exact_duplicates"], report["near_duplicates_across_splits"]
    warnings = []
    if duplicates["across_splits"]:
        message = f"the given split has {duplicates['across_splits']} images on more than one side"
        warnings.append(("image_leakage", message))
    if duplicates["with_two_labels"]:
        message = f"{duplicates['with_two_labels']} groups of identical images have both labels"
        warnings.append(("contradicting_labels", message))
    if near["pairs"]:
        message = f"{near['pairs']} pairs of nearly identical images are in two parts of the split"
        warnings.append(("near_duplicates", message))
    return warnings


def _fingerprint(source: Source, scans: list[Scan], split: Split) -> str:
    sides = {i: name for name in ("train", "val", "test") for i in getattr(split, name).tolist()}
    images = [
        [record.name, scan.content, record.label, sides[i]]
        for i, (record, scan) in enumerate(zip(source.records, scans, strict=True))
    ]
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()
