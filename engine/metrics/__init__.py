"""Figures of a classifier and their intervals: pure functions of arrays."""

from __future__ import annotations

from engine.metrics.classification import (
    Confusion,
    accuracy,
    auroc,
    average_precision,
    confusion,
    f1,
    macro,
    per_class,
    precision,
    recall,
    recall_at_specificity,
    specificity,
)
from engine.metrics.intervals import (
    Interval,
    delong_interval,
    delong_variance,
    wilson_interval,
)
from engine.metrics.summary import summary

__all__ = [
    "Confusion",
    "Interval",
    "accuracy",
    "auroc",
    "average_precision",
    "confusion",
    "delong_interval",
    "delong_variance",
    "f1",
    "macro",
    "per_class",
    "precision",
    "recall",
    "recall_at_specificity",
    "specificity",
    "summary",
    "wilson_interval",
]
