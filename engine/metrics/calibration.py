"""Whether a score of 0.8 means 8 of 10: calibration of probabilities, and its repair.

`scores` [N] are probabilities of the positive class, `labels` [N] are 0 or 1. A figure that is
undefined (a class missing, a score that is NaN, no image) is nan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.classification import Floats, checked
from engine.metrics.intervals import Interval, wilson_interval

CLIP = 1e-7  # scores are kept so far from 0 and 1: their logit must be finite
NEWTON_STEPS = 100
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose score lies in one of the equal-width bins."""

    low: float
    high: float
    count: int
    mean_score: float
    positive_share: float
    interval: Interval  # 95 %, of `positive_share`


@dataclass(frozen=True, slots=True)
class CalibrationLine:
    """Logistic recalibration (Cox, 1958): logit P(positive) = intercept + slope * logit(score).

    Perfect calibration has slope 1; a slope below 1 means scores that are too extreme.
    `in_the_large` is the intercept with the slope held at 1: above 0, scores are too low on
    average (Van Calster et al., 2019).
    """

    slope: float
    intercept: float
    in_the_large: float


def brier_score(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared difference of score and label (Brier, 1950); 0 is perfect."""
    s, positive = checked(scores, labels)
    return float(np.mean((s - positive) ** 2)) if len(s) else math.nan


def reliability(scores: ArrayLike, labels: ArrayLike, bins: int = 10) -> list[Bin]:
    """The non-empty ones of `bins` bins of equal width, for a reliability diagram."""
    s, positive = checked(scores, labels)
    if np.isnan(s).any():
        return []
    place = np.minimum((s * bins).astype(np.int64), bins - 1)
    found = []
    for number in np.unique(place).tolist():
        inside = place == number
        count, hits = int(inside.sum()), int(positive[inside].sum())
        interval = wilson_interval(hits, count)
        mean = float(s[inside].mean())
        found.append(Bin(number / bins, (number + 1) / bins, count, mean, hits / count, interval))
    return found


def expected_calibration_error(scores: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean of |positive share - mean score| over equal-width bins, by size (Guo et al., 2017)."""
    found = reliability(scores, labels, bins)
    total = sum(one.count for one in found)
    if not total:
        return math.nan
    return sum(one.count * abs(one.positive_share - one.mean_score) for one in found) / total


def calibration_line(scores: ArrayLike, labels: ArrayLike) -> CalibrationLine:
    """Slope, intercept and calibration in the large; nan where no finite fit exists."""
    s, positive = checked(scores, labels)
    if np.isnan(s).any() or positive.all() or not positive.any():
        return CalibrationLine(math.nan, math.nan, math.nan)
    x, y = logit(s), positive.astype(np.float64)
    both = _logistic_fit(np.stack([np.ones_like(x), x], axis=1), y, np.zeros_like(x))
    large = _logistic_fit(np.ones((len(x), 1)), y, x)
    return CalibrationLine(slope=both[1], intercept=both[0], in_the_large=large[0])


def fit_temperature(scores: ArrayLike, labels: ArrayLike, smoothed: bool = False) -> float:
    """The temperature T that minimises the log loss of sigmoid(logit(score) / T).

    Guo et al., 2017. It is at most 20 and at least 0.05: scores that separate the classes
    perfectly would have a T of 0. With `smoothed`, the labels are Platt's (1999), (n + 1) / (n + 2)
    for the n positive images and 1 / (n + 2) for the n negative ones: a few images that happen to
    be separated do not make a model certain. nan where a class is missing or a score is NaN.
    """
    s, positive = checked(scores, labels)
    if np.isnan(s).any() or positive.all() or not positive.any():
        return math.nan
    x, y = _exact_logit(s), positive.astype(np.float64)
    if smoothed:
        up, down = positive.sum(), (~positive).sum()
        y = np.where(positive, (up + 1) / (up + 2), 1 / (down + 2))
    low, high = 1 / LARGEST_TEMPERATURE, 1 / SMALLEST_TEMPERATURE
    # The log loss is convex in 1 / T: its derivative has one zero, found by bisection.
    for _ in range(NEWTON_STEPS):
        middle = (low + high) / 2
        if np.dot(_sigmoid(middle * x) - y, x) < 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def fit_scaling(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Temperature T and shift c of Platt's scaling (1999), sigmoid((logit(score) + c) / T).

    The labels are smoothed as in `fit_temperature`. A temperature alone leaves scores that are too
    high or too low on average as they are. Where no finite fit with a positive T in its limits
    exists, c is 0 and T that of `fit_temperature`; nan where a class is missing or a score is NaN.
    """
    s, positive = checked(scores, labels)
    alone = fit_temperature(scores, labels, smoothed=True)
    if math.isnan(alone):
        return alone, 0.0
    x, up, down = _exact_logit(s), positive.sum(), (~positive).sum()
    y = np.where(positive, (up + 1) / (up + 2), 1 / (down + 2))
    intercept, slope = _logistic_fit(np.stack([np.ones_like(x), x], axis=1), y, np.zeros_like(x))
    if not 1 / LARGEST_TEMPERATURE <= slope <= 1 / SMALLEST_TEMPERATURE:  # nan, too
        return alone, 0.0
    return 1 / slope, intercept / slope


def apply_scaling(scores: ArrayLike, temperature: float, shift: float) -> Floats:
    """sigmoid((logit(score) + shift) / temperature), float64 [N]; the order of scores stays."""
    return _sigmoid((_exact_logit(np.asarray(scores, dtype=np.float64)) + shift) / temperature)


def apply_temperature(scores: ArrayLike, temperature: float) -> Floats:
    """sigmoid(logit(score) / temperature), float64 [N]; the order of scores stays."""
    return apply_scaling(scores, temperature, 0.0)


def logit(scores: Floats) -> Floats:
    """log(s / (1 - s)), of scores kept CLIP away from 0 and 1."""
    clipped = np.clip(scores, CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def _exact_logit(scores: Floats) -> Floats:
    """log(s / (1 - s)), finite for every float64: scores near 0 and 1 keep their order."""
    clipped = np.clip(scores, np.finfo(np.float64).tiny, 1 - 2**-53)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _logistic_fit(design: Floats, y: Floats, offset: Floats) -> list[float]:
    """Maximum likelihood by Newton's method; nan for each coefficient where it diverges."""
    beta = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(design @ beta + offset)
        gradient = design.T @ (y - p)
        hessian = (design * (p * (1 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            break
        beta = beta + step
        if not np.isfinite(beta).all() or np.abs(beta).max() > 1e4:
            break
        if np.abs(step).max() < 1e-10:
            return [float(value) for value in beta]
    return [math.nan] * len(beta)
