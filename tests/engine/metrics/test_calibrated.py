"""Temperature and operating points of the validation part, and figures at them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import metrics
from engine.metrics.calibrated import at_operating_point, calibrate, wanted_rule
from engine.metrics.calibration import (
    apply_scaling,
    apply_temperature,
    expected_calibration_error,
    fit_scaling,
    fit_temperature,
)
from engine.metrics.intervals import grouped_interval
from engine.report.conclusion import conclude


def scored(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.7).astype(np.int64)
    return 1 / (1 + np.exp(-(rng.normal(size=count) + 3 * labels - 1.5))), labels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 3))
def test_the_default_point_satisfies_its_rule_on_the_calibrated_scores(
    seed: int, sharpness: float
) -> None:
    scores, labels = scored(seed=seed)
    scores = apply_temperature(scores, sharpness)
    found = calibrate(scores, labels, "specificity>=0.90")
    assert found.temperature is not None
    assert found.unmet is None
    expected = apply_scaling(scores, found.temperature, found.shift)
    np.testing.assert_allclose(found.scores, expected)
    figures = metrics.summary(found.scores, labels, found.threshold)
    assert figures["specificity"] >= 0.9
    assert figures["recall"] == pytest.approx(metrics.recall_at_specificity(scores, labels, 0.9))
    assert found.points["specificity>=0.90"]["figures"]["recall"] == figures["recall"]


def test_a_rule_that_cannot_be_met_leaves_the_choice_to_youden_and_says_what_can() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.9, 0.3, 0.8, 0.85])  # a negative image scores highest
    found = calibrate(scores, labels, "specificity>=0.90")
    assert found.default == "youden"
    assert found.unmet is not None
    assert "0.667" in found.unmet


def test_where_a_class_is_missing_the_threshold_is_half_and_nothing_is_calibrated() -> None:
    found = calibrate([0.2, 0.7], [1, 1], "specificity>=0.90")
    assert (found.temperature, found.default, found.threshold) == (None, "default_0.5", 0.5)
    assert found.scores.tolist() == pytest.approx([0.2, 0.7])


def test_classes_that_are_separated_do_not_make_the_model_certain() -> None:
    labels = np.array([0] * 20 + [1] * 20)
    scores = np.where(labels == 1, 0.8, 0.2)
    assert fit_temperature(scores, labels) == pytest.approx(0.05)
    assert apply_temperature(scores, fit_temperature(scores, labels, smoothed=True))[
        -1
    ] == pytest.approx(21 / 22)  # Platt's target


def test_scores_of_a_wrong_level_are_repaired_by_the_shift_and_not_by_a_temperature() -> None:
    scores, labels = scored(4000)
    level = math.log(0.7 / 0.3)  # of the classes; the scores know nothing of it
    honest = apply_scaling(scores, 1 / 3, level / 3)  # logit P = 3 x + log(0.7 / 0.3)
    spoiled = apply_scaling(honest, 2.0, 1.5)
    temperature, shift = fit_scaling(spoiled, labels)
    assert (temperature, shift) == pytest.approx((0.5, -0.75), abs=0.1)
    repaired = apply_scaling(spoiled, temperature, shift)
    alone = apply_temperature(spoiled, fit_temperature(spoiled, labels, smoothed=True))
    assert expected_calibration_error(repaired, labels) < 0.02
    assert expected_calibration_error(alone, labels) > 0.03


def test_scores_that_are_the_wrong_way_round_are_not_turned() -> None:
    scores, labels = scored()
    temperature, shift = fit_scaling(1 - scores, labels)
    assert temperature > 0
    assert shift == 0


def test_scores_near_one_keep_their_order() -> None:
    scores = 1 - np.array([1e-9, 1e-12, 1e-15])
    assert (np.diff(apply_temperature(scores, 2.0)) > 0).all()


def test_the_wanted_rule_is_the_target_by_default_and_can_be_named() -> None:
    assert wanted_rule("auto", 0.9) == "specificity>=0.90"
    assert wanted_rule("auto", 0.85) == "specificity>=0.85"
    assert wanted_rule("youden", 0.9) == "youden"


def test_intervals_are_by_patient_where_there_are_patients() -> None:
    scores, labels = scored(60)
    owners = np.arange(60) // 3
    point = {"rule": "youden", "threshold": 0.4, "part": "val"}
    figures = at_operating_point(scores, labels, point, 0.9, owners)
    positive = labels == 1
    expected = grouped_interval(scores[positive] >= 0.4, owners[positive])
    assert figures["intervals"]["recall"] == pytest.approx(list(expected))
    assert figures["patients"] == 20
    alone = at_operating_point(scores, labels, point, 0.9)
    assert alone["patients"] is None
    assert alone["intervals"] == metrics.summary(scores, labels, 0.4)["intervals"]


def test_the_conclusion_counts_the_found_and_the_falsely_called_with_intervals() -> None:
    labels = np.array([1] * 40 + [0] * 20)
    scores = np.array([0.9] * 38 + [0.1] * 2 + [0.8] * 1 + [0.2] * 19)
    point = {"rule": "specificity>=0.90", "threshold": 0.5, "part": "val"}
    figures = at_operating_point(scores, labels, point, 0.9)
    text = conclude("test", figures, ("NORMAL", "PNEUMONIA"), "best.pt", 7, None)
    assert "60 images of the test part, which chose nothing, at the threshold 0.5" in text
    assert "of 40 PNEUMONIA images, 38 are found (95.0 %" in text
    assert "of 20 NORMAL images, 1 are called PNEUMONIA (5.0 %" in text
    low, high = figures["intervals"]["specificity"]
    assert f"{100 * (1 - high):.1f} to {100 * (1 - low):.1f} %" in text
    assert "highest sensitivity with a specificity of at least 0.90" in text
    assert "python -m engine.evaluate best.pt" in text
    assert "flatter" not in text
    flattering = conclude("val", figures, ("NORMAL", "PNEUMONIA"), "best.pt", 7, "cannot be met")
    assert "the figures flatter the model" in flattering
    assert "system.test_split" in flattering
    assert "(cannot be met)" in flattering
    assert not math.isnan(figures["ece"])
