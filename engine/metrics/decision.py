"""What a decision at a threshold is worth: curves, net benefit, predictive values elsewhere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.classification import Floats, checked, cumulative_counts

Points = tuple[Floats, Floats, Floats]


def roc_points(scores: ArrayLike, labels: ArrayLike) -> Points:
    """False positive rate, recall and threshold: one point per distinct score (Fawcett, 2006).

    They begin at (0, 0) with threshold inf. Empty where a class is missing or a score is NaN.
    """
    s, positive = checked(scores, labels)
    if positive.all() or not positive.any() or np.isnan(s).any():
        return np.empty(0), np.empty(0), np.empty(0)
    tp, fp, thresholds = cumulative_counts(s, positive)
    return (
        np.concatenate([[0.0], fp / fp[-1]]),
        np.concatenate([[0.0], tp / tp[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def precision_recall_points(scores: ArrayLike, labels: ArrayLike) -> Points:
    """Recall, precision and threshold: one point per distinct score, the highest first.

    Empty without a positive image or where a score is NaN.
    """
    s, positive = checked(scores, labels)
    if not positive.any() or np.isnan(s).any():
        return np.empty(0), np.empty(0), np.empty(0)
    tp, fp, thresholds = cumulative_counts(s, positive)
    return tp / tp[-1], tp / (tp + fp), thresholds


def net_benefit(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Net benefit at each threshold [K]: tp / N - fp / N * t / (1 - t) (Vickers and Elkin, 2006).

    nan at thresholds of 1 and more, and where there is no image or a score is NaN.
    """
    s, positive = checked(scores, labels)
    t = np.asarray(thresholds, dtype=np.float64)
    if not len(s) or np.isnan(s).any():
        return np.full(t.shape, np.nan)
    called = s[None, :] >= t[:, None]
    tp = np.sum(called & positive, axis=1) / len(s)
    fp = np.sum(called & ~positive, axis=1) / len(s)
    weight = np.divide(t, 1 - t, out=np.full(t.shape, np.nan), where=t < 1)
    return np.asarray(tp - fp * weight)


def net_benefit_of_all(prevalence: float, thresholds: ArrayLike) -> Floats:
    """Net benefit [K] of calling every image positive, the curve to beat beside 0."""
    t = np.asarray(thresholds, dtype=np.float64)
    weight = np.divide(t, 1 - t, out=np.full(t.shape, np.nan), where=t < 1)
    return np.asarray(prevalence - (1 - prevalence) * weight)


def predictive_values(recall: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Positive and negative predictive value where the positive share is `prevalence` (Bayes)."""
    found, false = recall * prevalence, (1 - specificity) * (1 - prevalence)
    missed, cleared = (1 - recall) * prevalence, specificity * (1 - prevalence)
    ppv = found / (found + false) if found + false > 0 else math.nan
    npv = cleared / (cleared + missed) if cleared + missed > 0 else math.nan
    return ppv, npv
