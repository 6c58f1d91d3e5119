"""What a prepared data set holds, beyond its validation report: columns, patients, grey values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.data.prepare import Prepared
from engine.data.split import PARTS
from engine.metrics.subgroups import MISSING, column_auroc, group_names

SAMPLED = 1000  # images of each class whose grey values are counted
MOST_COLUMNS = 24
BINS = 32  # of the histograms
PER_PATIENT = (1, 2, 3, 4, 5, 10)  # images of one patient: the lower ends of the groups


def overview(data: Prepared) -> dict[str, Any]:
    """JSON-able: `columns`, `images_per_patient` (None without ids) and `intensity`."""
    named = list(data.columns.items())
    return {
        "columns": [
            _column(name, values, data)
            for name, values in named[:MOST_COLUMNS]
            if len(set(values)) < len(values) / 2 or _is_numeric(values)
        ],
        "columns_left_out": max(0, len(named) - MOST_COLUMNS),
        "images_per_patient": _images_per_patient(data),
        "intensity": _intensity(data),
    }


def _column(name: str, values: Sequence[str], data: Prepared) -> dict[str, Any]:
    """A column's groups with their images of each class and part; what it predicts by itself."""
    groups = group_names(values)
    order = sorted(set(groups), key=_rank)
    part_of = _part_of(data)
    counts = {
        group: {"images": 0, "positive": 0, **dict.fromkeys(PARTS, 0)} for group in order
    }  # fmt: skip
    for place, group in enumerate(groups):
        counts[group]["images"] += 1
        counts[group]["positive"] += int(data.labels[place])
        counts[group][part_of[place]] += 1
    area = column_auroc(groups, data.labels)
    return {
        "column": name,
        "alone": None if np.isnan(area) else area,
        "missing": groups.count(MISSING),
        "groups": [{"value": group, **of} for group, of in counts.items()],
    }


def _rank(group: str) -> tuple[bool, float, str]:
    """Numbers in their order, then words."""
    first = group.split(" to ")[0]
    try:
        return False, float(first), group
    except ValueError:
        return True, 0.0, group


def _is_numeric(values: Sequence[str]) -> bool:
    try:
        return bool([float(value) for value in values if value.strip()])
    except ValueError:
        return False


def _part_of(data: Prepared) -> list[str]:
    parts = [""] * len(data.labels)
    for part in PARTS:
        for place in getattr(data.split, part).tolist():
            parts[place] = part
    return parts


def _images_per_patient(data: Prepared) -> dict[str, int] | None:
    """Patients by their number of images."""
    counts = Counter(patient for patient in data.patients if patient)
    if not counts:
        return None
    found = dict.fromkeys(map(_span, PER_PATIENT), 0)
    for images in counts.values():
        found[_span(max(low for low in PER_PATIENT if low <= images))] += 1
    return {name: patients for name, patients in found.items() if patients}


def _span(low: int) -> str:
    return {5: "5 to 9", 10: "10 or more"}.get(low, str(low))


def _intensity(data: Prepared) -> dict[str, Any]:
    """Of each class, over a sample of decoded images: the shares of grey values in BINS equal

    steps, the numbers of images by their mean, and means of mean, deviation, black and white.
    """
    found = {}
    for label, name in enumerate(data.label_names):
        places = np.flatnonzero(data.labels == label)
        chosen = places[np.linspace(0, len(places) - 1, min(SAMPLED, len(places))).astype(np.int64)]
        values, means, deviations = np.zeros(256, np.int64), [], []
        for row in data.rows[chosen].tolist():
            counts = np.bincount(np.asarray(data.images[row]).ravel(), minlength=256)
            values += counts
            share = counts / counts.sum()
            mean = float(share @ np.arange(256))
            means.append(mean)
            deviations.append(float(np.sqrt(share @ np.square(np.arange(256) - mean))))
        shares = values / max(1, values.sum())
        found[name] = {
            "sampled": len(chosen),
            "grey": shares.reshape(BINS, -1).sum(axis=1).tolist(),
            "means": np.histogram(means, BINS, (0, 256))[0].tolist(),
            "mean": float(np.mean(means)),
            "deviation": float(np.mean(deviations)),
            "black": float(shares[0]),
            "white": float(shares[-1]),
        }
    return found
