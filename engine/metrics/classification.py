"""Metrics of a whole data set, as pure functions of (scores, labels), and their 95 % intervals.

`scores` is [N] float, the probability of the positive class; `labels` is [N], 0 or 1. All work
is in float64, and nothing is averaged over batches. A figure that is undefined is nan, never a
0 that looks like a result:

- no image is predicted positive: precision is nan; F1 is 0 where a positive image was missed
- no positive image: recall, AUROC and average precision are nan
- no negative image: specificity and AUROC are nan
- no image at all: every figure is nan
- some score is NaN: every figure is nan, and `summary` counts such images in `nan_scores`.
  Leaving them out would reward a model for giving no answer to hard images.
- a macro average is nan where either class is, so that no missing class is passed over

Labels other than 0 and 1, and scores and labels of other or unequal shapes, are a ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images by prediction and truth; `unscored` have a NaN score and are in no cell."""

    tp: int
    fp: int
    tn: int
    fn: int
    unscored: int = 0

    def swapped(self) -> Confusion:
        """The same images with the negative class seen as the positive one."""
        return Confusion(self.tn, self.fn, self.tp, self.fp, self.unscored)


def confusion(scores: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> Confusion:
    """Count predictions against labels; a score equal to the threshold is positive."""
    s, positive = checked(scores, labels)
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
    """The share of images predicted rightly; nan of no image."""
    return _ratio(counts, *accuracy_of(counts))


def precision(counts: Confusion) -> float:
    """The share of positive predictions that are right; nan where there is none."""
    return _ratio(counts, *precision_of(counts))


def recall(counts: Confusion) -> float:
    """The share of positive images that are found (sensitivity); nan where there is none."""
    return _ratio(counts, *recall_of(counts))


def specificity(counts: Confusion) -> float:
    """The share of negative images left alone; nan where there is none."""
    return _ratio(counts, *recall_of(counts.swapped()))


def f1(counts: Confusion) -> float:
    """2 tp / (2 tp + fp + fn); nan where no image is positive or predicted so."""
    return _ratio(counts, 2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def per_class(counts: Confusion) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (images of the class) of `negative` and `positive`."""
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
    """The chance that a positive image scores above a negative one, a tie counting one half."""
    s, positive = checked(scores, labels)
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0 or np.isnan(s).any():
        return math.nan
    wins = midranks(s)[positive].sum() - m * (m + 1) / 2  # Mann-Whitney U
    return float(wins / (m * n))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """The sum of precision x gain in recall over the distinct scores, best first."""
    s, positive = checked(scores, labels)
    if not positive.any() or np.isnan(s).any():
        return math.nan
    tp, fp, _ = cumulative_counts(s, positive)
    return float(np.sum(np.diff(tp, prepend=0.0) * tp / (tp + fp)) / tp[-1])


def recall_at_specificity(scores: ArrayLike, labels: ArrayLike, specificity: float) -> float:
    """The highest recall of any threshold whose specificity is at least `specificity`.

    nan where a class is missing or a score is NaN.
    """
    s, positive = checked(scores, labels)
    if positive.all() or not positive.any() or np.isnan(s).any():
        return math.nan
    tp, fp, _ = cumulative_counts(s, positive)
    allowed = fp <= (1 - specificity) * np.sum(~positive) + 1e-9
    return float(np.max(tp[allowed], initial=0.0) / np.sum(positive))


def checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Bools]:
    """Scores as float64 [N] and labels as bool [N]. Raises ValueError for anything else."""
    s, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if s.ndim != 1 or s.shape != truth.shape:
        raise ValueError(f"scores {s.shape} and labels {truth.shape} must both be of one shape [N]")
    positive = truth == 1
    if not np.all(positive | (truth == 0)):
        raise ValueError("labels must be 0 or 1")
    return s, positive


def accuracy_of(counts: Confusion) -> tuple[int, int]:
    return counts.tp + counts.tn, counts.tp + counts.fp + counts.tn + counts.fn


def precision_of(counts: Confusion) -> tuple[int, int]:
    return counts.tp, counts.tp + counts.fp


def recall_of(counts: Confusion) -> tuple[int, int]:
    return counts.tp, counts.tp + counts.fn


def midranks(values: Floats) -> Floats:
    """1-based ranks [N]; equal values share the mean of their ranks."""
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last: Floats = np.cumsum(sizes).astype(np.float64)
    return (last - (sizes - 1) / 2)[inverse]


def _ratio(counts: Confusion, k: int, n: int) -> float:
    return math.nan if n == 0 or counts.unscored else k / n


def cumulative_counts(s: Floats, positive: Bools) -> tuple[Floats, Floats, Floats]:
    """True and false positives at each distinct score, highest first, and those scores."""
    order = np.argsort(-s, kind="stable")
    ordered, hits = s[order], positive[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))[: len(s)]
    tp = np.cumsum(hits, dtype=np.float64)[ends]
    return tp, ends + 1.0 - tp, ordered[ends]
