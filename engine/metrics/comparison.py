"""Two models on the same images: differences with intervals and p-values.

Sources: DeLong, DeLong and Clarke-Pearson (1988), in the fast form of Sun and Xu (2014);
McNemar (1947), exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.classification import auroc, checked
from engine.metrics.intervals import Interval, delong_components, normal_quantile


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second, with its 95 % interval and two-sided p-value; nan where undefined."""

    value: float
    interval: Interval
    p: float


def delong_test(first: ArrayLike, second: ArrayLike, labels: ArrayLike) -> Difference:
    """The difference of two AUROCs on the same images.

    `first` and `second` are scores [N] of the same images in the same order. p is 1 where the two
    rank all images alike.
    """
    a, positive = checked(first, labels)
    b, _ = checked(second, labels)
    value = auroc(a, positive) - auroc(b, positive)
    if math.isnan(value) or min(positive.sum(), (~positive).sum()) < 2:
        return Difference(math.nan, (math.nan, math.nan), math.nan)
    (a_positive, a_negative), (b_positive, b_negative) = (
        delong_components(s, positive) for s in (a, b)
    )
    m, n = len(a_positive), len(a_negative)
    variance = np.var(a_positive - b_positive, ddof=1) / m
    variance += np.var(a_negative - b_negative, ddof=1) / n
    if variance <= 1e-18:
        return Difference(value, (value, value), 1.0 if abs(value) < 1e-12 else 0.0)
    error = math.sqrt(variance)
    half = normal_quantile(0.95) * error
    p = 2 * (1 - NormalDist().cdf(abs(value) / error))
    return Difference(value, (value - half, value + half), p)


def mcnemar_test(first_right: ArrayLike, second_right: ArrayLike) -> tuple[int, int, float]:
    """Images that only the first and only the second model gets right, and the exact p-value.

    `first_right` and `second_right` are bool [N], of the same images. p is 1 without discordant
    images.
    """
    a, b = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} must both be of one shape [N]")
    only_first, only_second = int(np.sum(a & ~b)), int(np.sum(~a & b))
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return only_first, only_second, min(1.0, 2 * tail / 2**n)
