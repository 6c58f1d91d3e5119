"""95 % intervals of proportions (Wilson, 1927) and of the AUROC (DeLong et al., 1988)."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.classification import auroc, checked, midranks

Interval = tuple[float, float]

UNDEFINED: Interval = (math.nan, math.nan)


def wilson_interval(k: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of the proportion k / n; (nan, nan) where n is 0."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no proportion")
    if n == 0:
        return UNDEFINED
    z, p = _quantile(level), k / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At either end the two terms are equal: rounding must not move the bound off 0 or 1.
    low = 0.0 if k == 0 else (centre - half) / scale
    high = 1.0 if k == n else (centre + half) / scale
    return low, high


def delong_variance(scores: ArrayLike, labels: ArrayLike) -> float:
    """DeLong's variance of the AUROC, in O(n log n) by midranks (Sun and Xu, 2014).

    nan where either class has fewer than two images, or a score is NaN.
    """
    s, positive = checked(scores, labels)
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2 or np.isnan(s).any():
        return math.nan
    ranks = midranks(s)
    # Of each image, the share of the other class that it is ranked rightly against.
    of_positive = (ranks[positive] - midranks(s[positive])) / n
    of_negative = 1 - (ranks[~positive] - midranks(s[~positive])) / m
    return float(of_positive.var(ddof=1) / m + of_negative.var(ddof=1) / n)


def delong_interval(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> Interval:
    """DeLong's interval of the AUROC, cut to 0..1; (nan, nan) where its variance is.

    Perfect separation has variance 0, which would claim certainty after ever so few images: there
    it is Wilson's interval over as many trials as the smaller class has images. (Equal scores for
    all give [0.5, 0.5], rightly: such a model has that AUROC on any images.)
    """
    s, positive = checked(scores, labels)
    area, variance = auroc(s, positive), delong_variance(s, positive)
    if math.isnan(variance):
        return UNDEFINED
    if area in (0.0, 1.0):
        trials = int(min(positive.sum(), (~positive).sum()))
        return wilson_interval(trials if area else 0, trials, level)
    half = _quantile(level) * math.sqrt(variance)
    return max(0.0, area - half), min(1.0, area + half)


def _quantile(level: float) -> float:
    """The two-sided normal quantile, 1.96 for 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not at {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
