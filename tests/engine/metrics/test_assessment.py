"""The whole assessment agrees with its parts and travels as JSON."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from engine.files import jsonable
from engine.metrics import auroc, summary
from engine.metrics.assessment import MOST_POINTS, assess


def data(count: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    scores = 1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1.2)))
    return scores, labels, rng.integers(0, count // 2, count)


def test_its_figures_are_those_of_the_parts() -> None:
    scores, labels, patients = data()
    found = assess(scores, labels, 0.4, patients)
    known = summary(scores, labels, 0.4)
    for name in ("recall", "specificity", "precision", "accuracy", "f1", "auroc"):
        assert found["figures"][name]["value"] == pytest.approx(known[name])
        if found["figures"][name]["interval"]:
            low, high = found["figures"][name]["interval"]
            assert low < known[name] < high
    assert found["patients"] == len(np.unique(patients))
    assert found["confusion"] == known["confusion"]


def test_curves_are_thin_and_keep_their_ends() -> None:
    scores, labels, _ = data(5000)
    roc = assess(scores, labels, 0.5)["roc"]
    assert len(roc) <= MOST_POINTS
    assert roc[0][:2] == [0, 0]
    assert roc[-1][:2] == [1, 1]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(roc))
    assert area == pytest.approx(auroc(scores, labels), abs=0.005)


def test_it_travels_as_json_with_nothing_defined_too() -> None:
    for scores, labels in (([], []), ([0.5, 0.6], [1, 1]), ([math.nan, 0.2], [0, 1])):
        found = assess(scores, labels, 0.5, columns={"sex": ["F"] * len(scores)}, prevalence=0.1)
        json.dumps(jsonable(found), allow_nan=False)


def test_predictive_values_at_another_prevalence() -> None:
    scores, labels, _ = data()
    found = assess(scores, labels, 0.5, prevalence=0.02)
    assert found["at_prevalence"]["precision"] < found["figures"]["precision"]["value"]
    assert found["at_prevalence"]["npv"] > found["figures"]["npv"]["value"]
