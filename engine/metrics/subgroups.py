"""Figures per value of a column, and what a column predicts by itself: the shortcut audit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.classification import (
    Bools,
    Floats,
    auroc,
    checked,
    confusion,
    recall,
    specificity,
)
from engine.metrics.intervals import UNDEFINED, Interval, delong_interval, wilson_interval

FEWEST = 10  # images: of a smaller subgroup no figure is given
MOST_VALUES = 12  # of a column of words; the rest are joined
QUARTERS = 4  # into which a column of numbers is cut
OTHER, MISSING = "(other)", "(missing)"


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The images with one value of a column. Figures are nan where there are too few images."""

    value: str
    count: int
    positives: int
    recall: float
    recall_interval: Interval  # 95 %, as all intervals here
    specificity: float
    specificity_interval: Interval
    auroc: float
    auroc_interval: Interval


@dataclass(frozen=True, slots=True)
class ColumnAudit:
    """What one column says of the label, and how the model does within its values."""

    column: str
    alone: float  # AUROC of the column by itself, 0.5 to 1: far above 0.5 is a possible shortcut
    within: float  # AUROC of the model within values, weighted by their pairs of images
    subgroups: list[Subgroup]


def audit_column(
    column: str,
    values: Sequence[str],
    scores: ArrayLike,
    labels: ArrayLike,
    threshold: float,
) -> ColumnAudit:
    """Audit one column of text [N]; numbers are cut into quarters, empty cells are a value."""
    s, positive = checked(scores, labels)
    names = group_names(values)
    subgroups = [
        _subgroup(name, s[chosen], positive[chosen], threshold)
        for name in dict.fromkeys(sorted(set(names), key=_order))
        if (chosen := np.array([one == name for one in names])).any()
    ]
    pairs = np.array([one.positives * (one.count - one.positives) for one in subgroups])
    areas = np.array([one.auroc for one in subgroups])
    known = np.isfinite(areas)
    total = pairs[known].sum()
    within = float((areas[known] * pairs[known]).sum() / total) if total else math.nan
    return ColumnAudit(column, column_auroc(names, positive), within, subgroups)


def column_auroc(names: Sequence[str], labels: ArrayLike) -> float:
    """AUROC of predicting each image's label by the positive share of its group; at least 0.5.

    Groups of fewer than FEWEST images count as the overall share: otherwise a column of distinct
    values, such as an id, would seem to predict everything. nan where a class is missing.
    """
    _, group = np.unique(np.asarray(names), return_inverse=True)
    positive = np.asarray(labels).astype(np.int64)
    if not len(positive):
        return math.nan
    sizes, hits = np.bincount(group), np.bincount(group, weights=positive)
    share = np.where(sizes >= FEWEST, hits / sizes, positive.mean())[group]
    area = auroc(share, positive)
    return area if math.isnan(area) else max(area, 0.5)


def group_names(values: Sequence[str]) -> list[str]:
    """The group of each value: itself, a quarter of a numeric column, other, or missing."""
    numbers = _numbers(values)
    if numbers is not None and len(set(numbers[np.isfinite(numbers)].tolist())) > MOST_VALUES:
        known = numbers[np.isfinite(numbers)]
        edges = np.quantile(known, np.linspace(0, 1, QUARTERS + 1))
        place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, QUARTERS - 1)
        names = [f"{edges[q]:g} to {edges[q + 1]:g}" for q in range(QUARTERS)]
        return [
            names[q] if np.isfinite(n) else MISSING
            for q, n in zip(place.tolist(), numbers.tolist(), strict=True)
        ]
    cleaned = [value.strip() or MISSING for value in values]
    counts: dict[str, int] = {}
    for value in cleaned:
        counts[value] = counts.get(value, 0) + 1
    kept = set(sorted(counts, key=lambda value: -counts[value])[:MOST_VALUES])
    return [value if value in kept else OTHER for value in cleaned]


def _numbers(values: Sequence[str]) -> Floats | None:
    """The column as numbers, nan for empty cells; None where a cell is no number."""
    found = []
    for value in values:
        try:
            found.append(float(value) if value.strip() else math.nan)
        except ValueError:
            return None
    return np.array(found, dtype=np.float64)


def _subgroup(value: str, scores: Floats, positive: Bools, threshold: float) -> Subgroup:
    count, positives = len(scores), int(positive.sum())
    if count < FEWEST:
        nothing = (math.nan, UNDEFINED)
        return Subgroup(value, count, positives, *nothing, *nothing, *nothing)
    cells = confusion(scores, positive, threshold)
    return Subgroup(
        value,
        count,
        positives,
        recall(cells),
        wilson_interval(cells.tp, cells.tp + cells.fn),
        specificity(cells),
        wilson_interval(cells.tn, cells.tn + cells.fp),
        auroc(scores, positive),
        delong_interval(scores, positive),
    )


def _order(name: str) -> tuple[bool, float, str]:
    """Numbers by size, then words; other and missing last."""
    try:
        return (name in (OTHER, MISSING), float(name.split(" to ")[0]), name)
    except ValueError:
        return (name in (OTHER, MISSING), math.inf, name)
