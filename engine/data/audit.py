"""The validation report: what the data set holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.data.cache import Scan
from engine.data.decode import HASH_BYTES
from engine.data.source import Source
from engine.data.split import SIDES, Split

NEAR = 15  # bits of 256 in which near-duplicates may differ; other chests differ in over 50
NEIGHBOURS = 64  # of images that all look the same, each is compared with so many that follow it
LISTED = 200  # pairs and groups in the report; the counts are of all


def build_report(
    source: Source, scans: Sequence[Scan], split: Split, unreadable: dict[str, str]
) -> dict[str, Any]:
    """JSON-able: counts, missing and unreadable images, duplicates, sizes and modes.

    `scans` and `split` are over `source.records`; `unreadable` holds name -> reason of the images
    left out.
    """
    names = [record.name for record in source.records]
    labels = [source.label_names[record.label] for record in source.records]
    sides = {i: side for side in SIDES for i in getattr(split, side).tolist()}
    patients = {
        side: len({source.records[i].patient or names[i] for i in getattr(split, side)})
        for side in SIDES
    }
    counts = {
        side: {
            name: sum(labels[i] == name for i in getattr(split, side).tolist())
            for name in source.label_names
        }
        for side in SIDES
    }
    duplicates = _groups([scan.pixels for scan in scans])
    across = [g for g in duplicates if len({sides[i] for i in g}) > 1]
    two_labels = [g for g in duplicates if len({labels[i] for i in g}) > 1]
    near = near_duplicates(scans, sides)
    return {
        "kind": source.kind,
        "images": len(names),
        "counts": counts,
        "patients": patients,
        "patient_ids": any(record.patient for record in source.records),
        "label_names": list(source.label_names),
        "missing": sorted(source.missing),
        "unreadable": dict(sorted(unreadable.items())),
        "exact_duplicates": {
            "groups": len(duplicates),
            "surplus_images": sum(len(group) - 1 for group in duplicates),
            "across_splits": len(across),  # only a given split can have any
            "with_two_labels": len(two_labels),
            "listed": [[names[i] for i in group] for group in duplicates[:LISTED]],
        },
        "near_duplicates_across_splits": {
            "pairs": len(near),
            "bits": NEAR,
            "listed": [[names[i], names[j]] for i, j in near[:LISTED]],
        },
        "sizes": _sizes(scans),
        "modes": dict(Counter(scan.mode for scan in scans).most_common()),
        "warnings": [],
    }


def near_duplicates(scans: Sequence[Scan], sides: dict[int, str]) -> list[tuple[int, int]]:
    """Pairs of records on two sides whose perceptual hashes differ in at most NEAR bits.

    Hashes that differ in at most 15 bits agree in one of 16 bands: only those are compared. Images
    with the same pixels are not listed again. Among thousands that all look alike not every pair is
    found: there would be too many to keep.
    """
    packed = b"".join(scan.phash.to_bytes(HASH_BYTES, "big") for scan in scans)
    hashes = np.frombuffer(packed, np.uint8).reshape(len(scans), HASH_BYTES)
    # Every band takes its bits from all frequencies: the lowest alone are alike in all chests.
    bits = np.unpackbits(hashes, axis=1).reshape(len(scans), 16, NEAR + 1).transpose(0, 2, 1)
    bands = np.packbits(bits, axis=2).view(np.uint16)[..., 0]  # [N, 16]
    words = hashes.view(np.uint64)  # [N, 4]
    found: set[tuple[int, int]] = set()
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, starts):
            if len(bucket) > 1:
                found.update(_close_pairs(bucket, words, sides))
    return sorted(pair for pair in found if scans[pair[0]].pixels != scans[pair[1]].pixels)


def _close_pairs(
    bucket: np.ndarray, words: np.ndarray, sides: dict[int, str]
) -> set[tuple[int, int]]:
    pairs = set()
    for place, i in enumerate(bucket[:-1].tolist()):
        later = bucket[place + 1 : place + 1 + NEIGHBOURS]
        bits = np.bitwise_count(words[later] ^ words[i]).sum(axis=1)
        for j in later[bits <= NEAR].tolist():
            if sides[i] != sides[j]:
                pairs.add((min(i, j), max(i, j)))
    return pairs


def _groups(keys: Sequence[str]) -> list[list[int]]:
    """Indices with equal keys, where there is more than one."""
    where: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        where[key].append(i)
    return [group for group in where.values() if len(group) > 1]


def _sizes(scans: Sequence[Scan]) -> dict[str, list[int]]:
    """Smallest, median and largest side."""
    result = {}
    for side in ("width", "height"):
        values = np.array([getattr(scan, side) for scan in scans])
        result[side] = [int(values.min()), int(np.median(values)), int(values.max())]
    return result
