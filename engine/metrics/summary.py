"""Every figure of one evaluation, with its intervals, in one dict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.classification import (
    accuracy,
    accuracy_of,
    auroc,
    average_precision,
    confusion,
    f1,
    macro,
    per_class,
    precision,
    precision_of,
    recall,
    recall_at_specificity,
    recall_of,
    specificity,
)
from engine.metrics.intervals import UNDEFINED, delong_interval, wilson_interval


def summary(
    scores: ArrayLike,
    labels: ArrayLike,
    threshold: float = 0.5,
    target_specificity: float = 0.9,
) -> dict[str, Any]:
    """Every figure of one evaluation as plain numbers, dicts and lists; undefined ones are nan."""
    counts = confusion(scores, labels, threshold)
    figures: dict[str, Any] = {
        "accuracy": accuracy(counts),
        "precision": precision(counts),
        "recall": recall(counts),
        "specificity": specificity(counts),
        "f1": f1(counts),
        "auroc": auroc(scores, labels),
        "average_precision": average_precision(scores, labels),
        "recall_at_specificity": recall_at_specificity(scores, labels, target_specificity),
    }
    figures |= {f"macro_{name}": value for name, value in macro(counts).items()}
    proportions = {
        "accuracy": accuracy_of(counts),
        "precision": precision_of(counts),
        "recall": recall_of(counts),
        "specificity": recall_of(counts.swapped()),
    }
    intervals = {
        name: UNDEFINED if counts.unscored else wilson_interval(*of)
        for name, of in proportions.items()
    }
    intervals["auroc"] = delong_interval(scores, labels)
    truth = np.asarray(labels)
    return figures | {
        "threshold": float(threshold),
        "confusion": {"tp": counts.tp, "fp": counts.fp, "tn": counts.tn, "fn": counts.fn},
        "per_class": per_class(counts),
        "intervals": {name: list(bounds) for name, bounds in intervals.items()},
        "count": int(truth.size),
        "positives": int(np.sum(truth == 1)),
        "nan_scores": counts.unscored,
    }
