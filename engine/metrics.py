"""Metrics of a whole data set, as pure functions of (scores, labels), and their 95 % intervals.

`scores` is [N] float, the probability of the positive class; `labels` is [N], 0 or 1. All work
is in float64, and nothing is averaged over batches. A figure that is undefined is nan, never a
0 that looks like a result:

- no film is predicted positive: precision is nan; F1 is 0 where a positive film was missed
- no positive film: recall, AUROC and average precision are nan
- no negative film: specificity and AUROC are nan
- no film at all: every figure is nan
- some score is NaN: every figure is nan, and `summary` counts such films in `nan_scores`.
  Leaving them out would reward a model for giving no answer to hard films.
- a macro average is nan where either class is, so that no missing class is passed over

Labels other than 0 and 1, and scores and labels of other or unequal shapes, are a ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

UNDEFINED: Interval = (math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Films by prediction and truth; `unscored` have a NaN score and are in no cell."""

    tp: int
    fp: int
    tn: int
    fn: int
    unscored: int = 0

    def swapped(self) -> Confusion:
        """The same films with the negative class seen as the positive one."""
        return Confusion(self.tn, self.fn, self.tp, self.fp, self.unscored)


def confusion(scores: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> Confusion:
    """Count predictions against labels; a score equal to the threshold is positive."""
    s, positive = _checked(scores, labels)
    if math.isnan(threshold):
        raise ValueError("the threshold is not a number")
    predicted, scored = s >= threshold, ~np.isnan(s)
    return Confusion(
        tp=int(np.sum(predicted & positive)),
        fp=int(np.sum(predicted & ~positive)),
        tn=int(np.sum(scored & ~predicted & ~positive)),
        fn=int(np.sum(scored & ~predicted & positive)),
        unscored=int(np.sum(~scored)),
    )


def accuracy(counts: Confusion) -> float:
    """The share of films predicted rightly; nan of no film."""
    return _ratio(counts, *_accuracy_of(counts))


def precision(counts: Confusion) -> float:
    """The share of positive predictions that are right; nan where there is none."""
    return _ratio(counts, *_precision_of(counts))


def recall(counts: Confusion) -> float:
    """The share of positive films that are found (sensitivity); nan where there is none."""
    return _ratio(counts, *_recall_of(counts))


def specificity(counts: Confusion) -> float:
    """The share of negative films left alone; nan where there is none."""
    return _ratio(counts, *_recall_of(counts.swapped()))


def f1(counts: Confusion) -> float:
    """2 tp / (2 tp + fp + fn); nan where no film is positive or predicted so."""
    return _ratio(counts, 2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def per_class(counts: Confusion) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (films of the class) of `negative` and `positive`."""
    return {
        name: {
            "precision": precision(side),
            "recall": recall(side),
            "f1": f1(side),
            "support": side.tp + side.fn,
        }
        for name, side in (("negative", counts.swapped()), ("positive", counts))
    }


def macro(counts: Confusion) -> dict[str, float]:
    """The plain mean of both classes; macro recall is the balanced accuracy."""
    classes = per_class(counts)
    return {
        name: (classes["negative"][name] + classes["positive"][name]) / 2
        for name in ("precision", "recall", "f1")
    }


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The chance that a positive film scores above a negative one, a tie counting one half."""
    s, positive = _checked(scores, labels)
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0 or np.isnan(s).any():
        return math.nan
    wins = _midranks(s)[positive].sum() - m * (m + 1) / 2  # Mann-Whitney U
    return float(wins / (m * n))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """The sum of precision x gain in recall over the distinct scores, best first."""
    s, positive = _checked(scores, labels)
    if not positive.any() or np.isnan(s).any():
        return math.nan
    tp, fp, _ = _cumulative(s, positive)
    return float(np.sum(np.diff(tp, prepend=0.0) * tp / (tp + fp)) / tp[-1])


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False positive rate, true positive rate, threshold: one point per distinct score.

    The points begin at (0, 0) with threshold inf. The rate of a class without films is nan, and
    both rates are where a score is NaN.
    """
    s, positive = _checked(scores, labels)
    if np.isnan(s).any():
        return np.full(1, np.nan), np.full(1, np.nan), np.full(1, np.inf)
    tp, fp, thresholds = _cumulative(s, positive)
    tp, fp = np.concatenate([[0.0], tp]), np.concatenate([[0.0], fp])
    return _shares(fp), _shares(tp), np.concatenate([[np.inf], thresholds])


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Precision, recall, threshold: by rising threshold, with a last point (1, 0) of none.

    Precision and recall have one element more than the thresholds. Recall is nan without a
    positive film, and both are where a score is NaN.
    """
    s, positive = _checked(scores, labels)
    if np.isnan(s).any():
        return np.full(1, np.nan), np.full(1, np.nan), np.empty(0)
    tp, fp, thresholds = _cumulative(s, positive)
    share = _shares(tp) if positive.any() else np.full(len(tp), np.nan)
    precisions = np.concatenate([(tp / (tp + fp))[::-1], [1.0]])
    return precisions, np.concatenate([share[::-1], [0.0]]), thresholds[::-1].copy()


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

    nan where either class has fewer than two films, or a score is NaN.
    """
    s, positive = _checked(scores, labels)
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2 or np.isnan(s).any():
        return math.nan
    ranks = _midranks(s)
    # Of each film, the share of the other class that it is ranked rightly against.
    of_positive = (ranks[positive] - _midranks(s[positive])) / n
    of_negative = 1 - (ranks[~positive] - _midranks(s[~positive])) / m
    return float(of_positive.var(ddof=1) / m + of_negative.var(ddof=1) / n)


def delong_interval(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> Interval:
    """DeLong's interval of the AUROC, cut to 0..1; (nan, nan) where its variance is.

    Perfect separation has variance 0, which would claim certainty after ever so few films: there
    it is Wilson's interval over as many trials as the smaller class has films. (Equal scores for
    all give [0.5, 0.5], rightly: such a model has that AUROC on any films.)
    """
    s, positive = _checked(scores, labels)
    area, variance = auroc(s, positive), delong_variance(s, positive)
    if math.isnan(variance):
        return UNDEFINED
    if area in (0.0, 1.0):
        trials = int(min(positive.sum(), (~positive).sum()))
        return wilson_interval(trials if area else 0, trials, level)
    half = _quantile(level) * math.sqrt(variance)
    return max(0.0, area - half), min(1.0, area + half)


def summary(scores: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> dict[str, Any]:
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
    }
    figures |= {f"macro_{name}": value for name, value in macro(counts).items()}
    proportions = {
        "accuracy": _accuracy_of(counts),
        "precision": _precision_of(counts),
        "recall": _recall_of(counts),
        "specificity": _recall_of(counts.swapped()),
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


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Bools]:
    """Scores as float64 [N] and labels as bool [N]. Raises ValueError for anything else."""
    s, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if s.ndim != 1 or s.shape != truth.shape:
        raise ValueError(f"scores {s.shape} and labels {truth.shape} must both be of one shape [N]")
    positive = truth == 1
    if not np.all(positive | (truth == 0)):
        raise ValueError("labels must be 0 or 1")
    return s, positive


def _ratio(counts: Confusion, k: int, n: int) -> float:
    return math.nan if n == 0 or counts.unscored else k / n


def _accuracy_of(counts: Confusion) -> tuple[int, int]:
    return counts.tp + counts.tn, counts.tp + counts.fp + counts.tn + counts.fn


def _precision_of(counts: Confusion) -> tuple[int, int]:
    return counts.tp, counts.tp + counts.fp


def _recall_of(counts: Confusion) -> tuple[int, int]:
    return counts.tp, counts.tp + counts.fn


def _midranks(values: Floats) -> Floats:
    """1-based ranks [N]; equal values share the mean of their ranks."""
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last: Floats = np.cumsum(sizes).astype(np.float64)
    return (last - (sizes - 1) / 2)[inverse]


def _cumulative(s: Floats, positive: Bools) -> tuple[Floats, Floats, Floats]:
    """True and false positives at each distinct score, highest first, and those scores."""
    order = np.argsort(-s, kind="stable")
    ordered, hits = s[order], positive[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))[: len(s)]
    tp = np.cumsum(hits, dtype=np.float64)[ends]
    return tp, ends + 1.0 - tp, ordered[ends]


def _shares(cumulative: Floats) -> Floats:
    """A cumulative count over its last value; nan where that is 0 or there is no film."""
    total = cumulative[-1] if len(cumulative) else 0.0
    return cumulative / total if total else np.full(len(cumulative), np.nan)


def _quantile(level: float) -> float:
    """The two-sided normal quantile, 1.96 for 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not at {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
