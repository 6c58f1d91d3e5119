"""Operating points: the threshold that a named rule chooses on one part of a data set.

Rules: `specificity>=S` (the highest recall among thresholds with at least that specificity),
`sensitivity>=S` (the highest specificity with at least that recall), `youden` (the highest recall
+ specificity - 1; Youden, 1950), `default_0.5`. Where several thresholds have the highest figure,
the other figure decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.classification import Floats, checked, cumulative_counts

DEFAULT_RULES = ("specificity>=0.90", "sensitivity>=0.95", "youden", "default_0.5")
_BOUND = re.compile(r"(specificity|sensitivity)>=(0?\.\d+|0|1|1\.0+)")


class RuleNotMet(ValueError):
    """No threshold on this part satisfies the rule; the message says what can be reached."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as written, its kind and its bound (nan where it has none)."""

    text: str
    kind: str  # specificity, sensitivity, youden or default
    bound: float


def parse_rule(text: str) -> Rule:
    """Read a rule. Raises ValueError with the known ones."""
    compact = text.replace(" ", "").replace("recall", "sensitivity")
    if compact in ("youden", "default_0.5"):
        return Rule(compact, compact.removesuffix("_0.5"), float("nan"))
    found = _BOUND.fullmatch(compact)
    if found is None:
        raise ValueError(
            f"{text!r} is no rule for a threshold; known: specificity>=S and sensitivity>=S with S "
            "from 0 to 1, youden, default_0.5"
        )
    return Rule(compact, found.group(1), float(found.group(2)))


def choose_threshold(rule: Rule, scores: ArrayLike, labels: ArrayLike) -> float:
    """The rule's threshold on scores [N] and labels [N]; a score at or above it is positive.

    It lies half way to the next lower score, so that a score that moves by rounding stays on its
    side. Raises RuleNotMet where a class is missing, a score is NaN, or only calling no (or every)
    image positive would satisfy the rule.
    """
    if rule.kind == "default":
        return 0.5
    s, positive = checked(scores, labels)
    if positive.all() or not positive.any() or np.isnan(s).any():
        raise RuleNotMet(f"{rule.text} needs images of both classes, each with a score")
    tp, fp, thresholds = cumulative_counts(s, positive)
    recall, specificity = tp / tp[-1], 1 - fp / fp[-1]
    place = _place(rule, recall, specificity)
    if place + 1 == len(thresholds):
        return float(thresholds[place])
    return float((thresholds[place] + thresholds[place + 1]) / 2)


def _place(rule: Rule, recall: Floats, specificity: Floats) -> int:
    """Where on the curve the rule lands: an index into the distinct scores, highest first."""
    slack = 1e-12
    if rule.kind == "youden":
        return int(np.argmax(recall + specificity))
    if rule.kind == "specificity":
        fits = (specificity >= rule.bound - slack) & (recall > 0)
        if not fits.any():
            best = float(specificity[recall > 0].max())
            raise RuleNotMet(
                f"{rule.text} cannot be met: the highest specificity at which any positive image "
                f"is found is {best:.3f}"
            )
        # Of those with the highest recall the one with the highest specificity.
        return int(np.flatnonzero(fits & (recall == recall[fits].max()))[0])
    fits = (recall >= rule.bound - slack) & (specificity > 0)
    if not fits.any():
        best = float(recall[specificity > 0].max(initial=0.0))
        raise RuleNotMet(
            f"{rule.text} cannot be met: the highest sensitivity at which any negative image is "
            f"recognised is {best:.3f}"
        )
    return int(np.flatnonzero(fits & (specificity == specificity[fits].max()))[-1])
