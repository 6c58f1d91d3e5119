"""Calibration against scikit-learn and its own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.metrics import auroc
from engine.metrics.calibration import (
    apply_temperature,
    brier_score,
    calibration_line,
    expected_calibration_error,
    fit_temperature,
    logit,
    reliability,
)

sk = pytest.importorskip("sklearn", reason="scikit-learn is the oracle here")


def calibrated(count: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.8, 0.8, count)
    return scores, (rng.random(count) < scores).astype(np.int64)


def test_brier_and_reliability_agree_with_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    scores, labels = calibrated()
    assert brier_score(scores, labels) == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)
    shares, means = calibration_curve(labels, scores, n_bins=10)
    bins = reliability(scores, labels)
    np.testing.assert_allclose([b.positive_share for b in bins], shares, atol=1e-12)
    np.testing.assert_allclose([b.mean_score for b in bins], means, atol=1e-12)
    assert sum(b.count for b in bins) == len(scores)


def test_slope_and_intercept_agree_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    scores, labels = calibrated()
    scores = apply_temperature(scores, 0.6)
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    oracle.fit(logit(scores)[:, None], labels)
    line = calibration_line(scores, labels)
    assert line.slope == pytest.approx(oracle.coef_[0, 0], abs=1e-6)
    assert line.intercept == pytest.approx(oracle.intercept_[0], abs=1e-6)
    assert line.slope == pytest.approx(0.6, abs=0.05)


def test_the_temperature_that_spoiled_a_score_is_found_and_undone() -> None:
    scores, labels = calibrated()
    spoiled = apply_temperature(scores, 0.4)
    found = fit_temperature(spoiled, labels)
    assert found == pytest.approx(2.5, rel=0.06)
    repaired = apply_temperature(spoiled, found)
    assert expected_calibration_error(repaired, labels) < 0.02
    assert expected_calibration_error(spoiled, labels) > 0.06
    assert auroc(repaired, labels) == auroc(spoiled, labels)


def test_the_temperature_minimises_the_log_loss() -> None:
    from sklearn.metrics import log_loss

    scores, labels = calibrated(500, seed=3)
    spoiled = apply_temperature(scores, 1.7)
    found = fit_temperature(spoiled, labels)
    best = log_loss(labels, apply_temperature(spoiled, found))
    for other in (found * 0.98, found * 1.02):
        assert best <= log_loss(labels, apply_temperature(spoiled, other))


def test_scores_in_a_wrong_level_show_in_the_large() -> None:
    scores, labels = calibrated()
    shifted = 1 / (1 + np.exp(-(logit(scores) - 1)))
    assert calibration_line(shifted, labels).in_the_large == pytest.approx(1, abs=0.1)
    assert calibration_line(scores, labels).in_the_large == pytest.approx(0, abs=0.1)


def test_what_is_undefined_is_nan() -> None:
    assert math.isnan(brier_score([], []))
    assert math.isnan(expected_calibration_error([], []))
    assert math.isnan(fit_temperature([0.2, 0.4], [1, 1]))
    assert math.isnan(calibration_line([0.2, math.nan], [1, 0]).slope)
    assert math.isnan(calibration_line([0.2, 0.3, 0.8, 0.9], [0, 0, 1, 1]).slope)  # separated
    assert fit_temperature([0.2, 0.3, 0.8, 0.9], [0, 0, 1, 1]) == pytest.approx(0.05)
