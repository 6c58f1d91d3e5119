"""What the validation part fixes of a model: its calibration and its operating points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics.calibration import (
    apply_scaling,
    brier_score,
    expected_calibration_error,
    fit_scaling,
    fit_temperature,
)
from engine.metrics.classification import Floats, checked
from engine.metrics.intervals import delong_interval, grouped_interval
from engine.metrics.operating import DEFAULT_RULES, RuleNotMet, choose_threshold, parse_rule
from engine.metrics.summary import summary

FIGURES = ("recall", "specificity", "precision", "accuracy", "f1")  # of an operating point
INSTEAD = "youden"  # where the wanted rule cannot be met
DEFAULT_POINT = "default_0.5"


@dataclass(frozen=True)
class Calibrated:
    """Scores of one part with fitted calibration, and the thresholds that rules choose there."""

    shift: float  # of the positive logit, before it is divided by the temperature
    temperature: float | None  # None where it is undefined: the scores are then as they were
    scores: Floats  # [N], calibrated
    points: dict[str, dict[str, Any]]  # rule -> threshold, rule, part, figures with intervals
    default: str  # the rule of the model's threshold
    unmet: str | None  # why it is not the wanted one, and what can be reached

    @property
    def threshold(self) -> float:
        """That of the default operating point."""
        return float(self.points[self.default]["threshold"])


def wanted_rule(operating_point: str, target_specificity: float) -> str:
    """The rule that `experiment.operating_point` names."""
    if operating_point != "auto":
        return operating_point
    return next(
        (
            rule
            for rule in DEFAULT_RULES
            if rule.startswith("specificity") and parse_rule(rule).bound == target_specificity
        ),
        f"specificity>={target_specificity:.10g}",
    )


def calibrate(
    scores: ArrayLike, labels: ArrayLike, wanted: str, part: str = "val", fit: str = "scaling"
) -> Calibrated:
    """Fit the calibration on scores [N] and labels [N], then choose a threshold by each rule.

    `fit` is scaling (temperature and shift), temperature, or none. `wanted` is the rule of the
    default operating point. Where it cannot be met, Youden's is taken, and where that has no
    threshold either (a class is missing), 0.5.
    """
    fitted, shift = math.nan, 0.0
    if fit == "scaling":
        fitted, shift = fit_scaling(scores, labels)
    elif fit == "temperature":
        fitted = fit_temperature(scores, labels, smoothed=True)
    temperature = None if math.isnan(fitted) else fitted
    calibrated = apply_scaling(scores, 1.0 if temperature is None else temperature, shift)
    points, unmet = {}, dict[str, str]()
    for rule in dict.fromkeys((wanted, *DEFAULT_RULES)):
        try:
            threshold = choose_threshold(parse_rule(rule), calibrated, labels)
        except RuleNotMet as reason:
            unmet[rule] = str(reason)
        else:
            points[rule] = operating_point(rule, summary(calibrated, labels, threshold), part)
    default = next(rule for rule in (wanted, INSTEAD, DEFAULT_POINT) if rule in points)
    return Calibrated(shift, temperature, calibrated, points, default, unmet.get(wanted))


def at_operating_point(
    scores: ArrayLike,
    labels: ArrayLike,
    point: dict[str, Any],
    target_specificity: float,
    patients: ArrayLike | None = None,
) -> dict[str, Any]:
    """`summary` of a part's calibrated scores at the threshold of `point`, with its calibration.

    With `patients` [N], whole numbers, the intervals are by patient.
    """
    threshold = float(point["threshold"])
    figures = summary(scores, labels, threshold, target_specificity)
    if patients is not None and not figures["nan_scores"]:
        figures["intervals"] |= _by_patient(scores, labels, threshold, patients)
    return figures | {
        "operating_point": {"rule": point["rule"], "threshold": threshold, "part": point["part"]},
        "patients": None if patients is None else len(np.unique(np.asarray(patients))),
        "ece": expected_calibration_error(scores, labels),
        "brier": brier_score(scores, labels),
    }


def _by_patient(
    scores: ArrayLike, labels: ArrayLike, threshold: float, patients: ArrayLike
) -> dict[str, list[float]]:
    s, positive = checked(scores, labels)
    owners, called = np.asarray(patients), s >= threshold
    trials = {
        "recall": (called, positive),
        "specificity": (~called, ~positive),
        "precision": (positive, called),
        "accuracy": (called == positive, np.ones_like(positive)),
    }
    found = {n: grouped_interval(hit[of], owners[of]) for n, (hit, of) in trials.items()}
    found["auroc"] = delong_interval(s, positive, groups=owners)
    return {name: list(interval) for name, interval in found.items()}


def operating_point(rule: str, figures: dict[str, Any], part: str = "val") -> dict[str, Any]:
    """A threshold with its rule, where it was chosen, and its figures there (of `summary`)."""
    chosen = {name: figures[name] for name in FIGURES}
    known = {k: v for k, v in figures.get("intervals", {}).items() if k in FIGURES}
    return {
        "threshold": figures.get("threshold", 0.5),
        "rule": rule,
        "part": part,
        "figures": {**chosen, "intervals": known},
    }
