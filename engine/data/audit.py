"""The validation report: what the data set holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.data.bits import common_bits
from engine.data.cache import Scan
from engine.data.decode import HASH_BYTES
from engine.data.source import Source
from engine.data.split import PARTS, Split

NEAR = 15  # bits of 256 in which near-duplicates may differ; other chests differ in over 50
NEIGHBOURS = 64  # of images that all look the same, each is compared with so many that follow it
SHAPES = 8  # sizes that are listed
LISTED = 200  # names, pairs and groups in the report; the counts are of all


def build_report(
    source: Source, scans: Sequence[Scan], split: Split, unreadable: dict[str, str]
) -> dict[str, Any]:
    """JSON-able: counts, what the split proves, missing and unreadable images, duplicates, sizes.

    `scans` and `split` are over `source.records`; `unreadable` holds name -> reason of the images
    left out.
    """
    names = [record.name for record in source.records]
    labels = [source.label_names[record.label] for record in source.records]
    parts = {i: part for part in PARTS for i in getattr(split, part).tolist()}
    patients = {
        part: len({source.records[i].patient or names[i] for i in getattr(split, part)})
        for part in PARTS
    }
    counts = {
        part: {
            name: sum(labels[i] == name for i in getattr(split, part).tolist())
            for name in source.label_names
        }
        for part in PARTS
    }
    duplicates = _groups([scan.pixels for scan in scans])
    across = _in_two_parts(duplicates, parts)
    two_labels = [g for g in duplicates if len({labels[i] for i in g}) > 1]
    near = near_duplicates(scans, parts)
    ids = [record.patient for record in source.records]
    return {
        "kind": source.kind,
        "images": len(names),
        "counts": counts,
        "patients": patients,
        "patient_ids": any(ids),
        "split": {  # what it proves: patients and pixels that two parts share
            "patient_ids": _kind_of_ids(ids),
            "shared_patients": _in_two_parts(_groups(ids), parts),
            "shared_pixels": across,
            "near_duplicates": len(near),
        },
        "label_names": list(source.label_names),
        "flow": {  # every image that was found: used, or why not
            "found": len(names) + len(unreadable) + source.flow.total(),
            "used": len(names),
            "unreadable": len(unreadable),
            **source.flow,
        },
        "labels_decided_by": dict(source.decided),  # rows of a table
        "votes": {"images": source.votes[0], "agreed": source.votes[1]},
        "missing_images": len(source.missing),
        "missing": sorted(source.missing)[:LISTED],
        "unreadable_images": len(unreadable),
        "unreadable": dict(sorted(unreadable.items())[:LISTED]),
        "exact_duplicates": {
            "groups": len(duplicates),
            "surplus_images": sum(len(group) - 1 for group in duplicates),
            "across_splits": across,  # only a given split can have any
            "with_two_labels": len(two_labels),
            "listed": [[names[i] for i in group[:LISTED]] for group in duplicates[:LISTED]],
        },
        "near_duplicates_across_splits": {
            "pairs": len(near),
            "bits": NEAR,
            "listed": [[names[i], names[j]] for i, j in near[:LISTED]],
        },
        "sizes": _sizes(scans),
        "shapes": _shapes(scans),
        "modes": dict(Counter(scan.mode for scan in scans).most_common()),
        "bits_in_use": common_bits([scan.bits for scan in scans]),  # of 16-bit images
        "warnings": [],
    }


def _kind_of_ids(ids: Sequence[str | None]) -> str:
    """none, some (images have one), distinct (no two images share one) or shared."""
    if not any(ids):
        return "none"
    if not all(ids):
        return "some"
    return "distinct" if len(set(ids)) == len(ids) else "shared"


def _in_two_parts(groups: Sequence[list[int]], parts: dict[int, str]) -> int:
    return sum(len({parts[i] for i in group}) > 1 for group in groups)


def near_duplicates(scans: Sequence[Scan], parts: dict[int, str]) -> list[tuple[int, int]]:
    """Pairs of records in two parts whose perceptual hashes differ in at most NEAR bits.

    Hashes that differ in at most 15 bits agree in one of 16 bands: only those are compared. Images
    with the same pixels are not listed again. Among thousands that all look alike not every pair is
    found: there would be too many to keep.
    """
    count = len(scans)
    packed = b"".join(scan.phash.to_bytes(HASH_BYTES, "big") for scan in scans)
    hashes = np.frombuffer(packed, np.uint8).reshape(count, HASH_BYTES)
    # Every band takes its bits from all frequencies: the lowest alone are alike in all chests.
    bits = np.unpackbits(hashes, axis=1).reshape(count, 16, NEAR + 1).transpose(0, 2, 1)
    bands = np.packbits(bits, axis=2).view(np.uint16)[..., 0]  # [N, 16]
    words = hashes.view(np.uint64)  # [N, 4]
    part = np.array([PARTS.index(parts[i]) for i in range(count)])
    found = [np.empty(0, np.int64)]  # pairs i, j as i * count + j
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        for distance in range(1, NEIGHBOURS + 1):
            first = np.flatnonzero(ordered[:-distance] == ordered[distance:])
            if len(first) == 0:
                break
            i, j = order[first], order[first + distance]  # ascending: the order is stable
            differing = np.bitwise_count(words[i] ^ words[j]).sum(axis=1)
            close = (differing <= NEAR) & (part[i] != part[j])
            found.append(i[close] * count + j[close])
    pairs = (divmod(pair, count) for pair in np.unique(np.concatenate(found)).tolist())
    return [(i, j) for i, j in pairs if scans[i].pixels != scans[j].pixels]


def _groups(keys: Sequence[str | None]) -> list[list[int]]:
    """Indices with equal keys, where there is more than one; None and "" are no keys."""
    where: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if key:
            where[key].append(i)
    return [group for group in where.values() if len(group) > 1]


def _shapes(scans: Sequence[Scan]) -> list[list[int]]:
    """The most common sizes: width, height, images."""
    counts = Counter((scan.width, scan.height) for scan in scans)
    return [[*shape, count] for shape, count in counts.most_common(SHAPES)]


def _sizes(scans: Sequence[Scan]) -> dict[str, list[int]]:
    """Smallest, median and largest width and height."""
    result = {}
    for name in ("width", "height"):
        values = np.array([getattr(scan, name) for scan in scans])
        result[name] = [int(values.min()), int(np.median(values)), int(values.max())]
    return result
