"""Everything that can be said of one model's scores on one labelled set, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics import calibration
from engine.metrics.classification import (
    Bools,
    Floats,
    auroc,
    average_precision,
    checked,
    confusion,
    f1,
)
from engine.metrics.decision import (
    net_benefit,
    net_benefit_of_all,
    precision_recall_points,
    predictive_values,
    roc_points,
)
from engine.metrics.intervals import (
    Interval,
    delong_interval,
    grouped_interval,
    wilson_interval,
)
from engine.metrics.subgroups import audit_column

MOST_POINTS = 200  # of a curve
DECISION_THRESHOLDS = np.linspace(0.01, 0.99, 99)
BY_IMAGE, BY_PATIENT = "Wilson", "Wilson over the design effect of patients"
AREA_BY_IMAGE, AREA_BY_PATIENT = "DeLong, logit scale", "Obuchowski by patient, logit scale"


def assess(
    scores: ArrayLike,
    labels: ArrayLike,
    threshold: float,
    patients: ArrayLike | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Figures with 95 % intervals, curves, calibration, net benefit, subgroups; undefined: nan.

    `scores` [N] are calibrated probabilities, `labels` [N] 0 or 1, `patients` [N] whole numbers
    that name each image's patient, `columns` name -> text [N]. `prevalence` is the positive share
    for which predictive values are given beside those of this set.
    """
    s, positive = checked(scores, labels)
    cells = confusion(s, positive, threshold)
    figures = _proportions(s, positive, threshold, patients)
    figures["f1"] = {"value": f1(cells), "interval": None, "method": None}
    figures["auroc"] = {
        "value": auroc(s, positive),
        "interval": list(delong_interval(s, positive, groups=patients)),
        "method": AREA_BY_IMAGE if patients is None else AREA_BY_PATIENT,
    }
    area = average_precision(s, positive)
    figures["average_precision"] = {"value": area, "interval": None, "method": None}
    found: dict[str, Any] = {
        "count": len(s),
        "positives": int(positive.sum()),
        "patients": None if patients is None else len(np.unique(np.asarray(patients))),
        "threshold": float(threshold),
        "confusion": {"tp": cells.tp, "fp": cells.fp, "tn": cells.tn, "fn": cells.fn},
        "figures": figures,
        "roc": _thinned(*roc_points(s, positive)),
        "precision_recall": _thinned(*precision_recall_points(s, positive)),
        "calibration": _calibration(s, positive),
        "net_benefit": _net_benefit(s, positive),
        "columns": [
            dataclasses.asdict(audit_column(name, values, s, positive, threshold))
            for name, values in (columns or {}).items()
        ],
    }
    if prevalence is not None:
        recall, specificity = (figures[name]["value"] for name in ("recall", "specificity"))
        ppv, npv = predictive_values(recall, specificity, prevalence)
        found["at_prevalence"] = {"prevalence": prevalence, "precision": ppv, "npv": npv}
    return found


def _proportions(
    s: Floats, positive: Bools, threshold: float, patients: ArrayLike | None
) -> dict[str, dict[str, Any]]:
    """Recall, specificity, precision, NPV and accuracy, each over the images that it counts."""
    called = s >= threshold
    trials = {
        "recall": (called, positive),
        "specificity": (~called, ~positive),
        "precision": (positive, called),
        "npv": (~positive, ~called),
        "accuracy": (called == positive, np.ones_like(positive)),
    }
    owners = None if patients is None else np.asarray(patients)
    result = {}
    for name, (hit, counted) in trials.items():
        hits, total = int((hit & counted).sum()), int(counted.sum())
        interval: Interval
        if owners is None:
            interval = wilson_interval(hits, total)
        else:
            interval = grouped_interval(hit[counted], owners[counted])
        result[name] = {
            "value": hits / total if total else float("nan"),
            "interval": list(interval),
            "method": BY_IMAGE if owners is None else BY_PATIENT,
            "hits": hits,
            "of": total,
        }
    return result


def _calibration(s: Floats, positive: Bools) -> dict[str, Any]:
    line = calibration.calibration_line(s, positive)
    return {
        **dataclasses.asdict(line),
        "brier": calibration.brier_score(s, positive),
        "ece": calibration.expected_calibration_error(s, positive),
        "bins": [dataclasses.asdict(one) for one in calibration.reliability(s, positive)],
    }


def _net_benefit(s: Floats, positive: Bools) -> dict[str, Any]:
    share = float(positive.mean()) if len(positive) else float("nan")
    return {
        "thresholds": DECISION_THRESHOLDS.tolist(),
        "model": net_benefit(s, positive, DECISION_THRESHOLDS).tolist(),
        "all": net_benefit_of_all(share, DECISION_THRESHOLDS).tolist(),
    }


def _thinned(x: Floats, y: Floats, thresholds: Floats) -> list[list[float]]:
    """[x, y, threshold] of at most MOST_POINTS points, the ends among them."""
    if not len(x):
        return []
    keep = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).astype(np.int64))
    return [[float(x[i]), float(y[i]), float(thresholds[i])] for i in keep]
