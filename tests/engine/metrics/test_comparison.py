"""Paired comparisons against scipy, a bootstrap and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.metrics import auroc
from engine.metrics.comparison import delong_test, mcnemar_test
from engine.metrics.decision import (
    net_benefit,
    net_benefit_of_all,
    precision_recall_points,
    predictive_values,
    roc_points,
)
from engine.metrics.intervals import delong_variance

stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle here")


def pair(
    rng: np.random.Generator, gain: float = 0.0, count: int = 120
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = rng.integers(0, 2, count)
    shared = labels + rng.normal(0, 1, count)
    return shared + rng.normal(gain * labels, 0.7), shared + rng.normal(0, 0.7, count), labels


def test_delong_agrees_with_the_covariance_by_brute_force() -> None:
    a, b, y = pair(np.random.default_rng(0))
    up, down = y == 1, y == 0

    def components(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wins = (s[up][:, None] > s[down][None, :]) + 0.5 * (s[up][:, None] == s[down][None, :])
        return wins.mean(axis=1), wins.mean(axis=0)

    (a_up, a_down), (b_up, b_down) = components(a), components(b)
    covariance = np.cov(a_up, b_up) / up.sum() + np.cov(a_down, b_down) / down.sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    z = (a_up.mean() - b_up.mean()) / math.sqrt(variance)
    found = delong_test(a, b, y)
    assert found.value == pytest.approx(auroc(a, y) - auroc(b, y), abs=1e-12)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=1e-9)
    assert covariance[0, 0] == pytest.approx(delong_variance(a, y), abs=1e-12)


def test_under_no_difference_one_in_twenty_is_significant() -> None:
    rng = np.random.default_rng(1)
    small = sum(delong_test(*pair(rng)).p < 0.05 for _ in range(1000))
    assert 30 <= small <= 75


def test_the_same_scores_do_not_differ() -> None:
    a, _, y = pair(np.random.default_rng(2))
    assert delong_test(a, a, y).p == 1.0
    assert math.isnan(delong_test([0.5, 0.6], [0.5, 0.6], [1, 1]).p)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 9), (10, 10), (400, 330), (0, 12)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    first = np.array([True] * b + [False] * c + [True] * 5)
    second = np.array([False] * b + [True] * c + [True] * 5)
    only_first, only_second, p = mcnemar_test(first, second)
    assert (only_first, only_second) == (b, c)
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert p == pytest.approx(expected, abs=1e-9)


def test_curves_agree_with_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_curve, roc_curve

    a, _, y = pair(np.random.default_rng(3))
    scores = np.round(1 / (1 + np.exp(-a)), 2)
    for found, expected in zip(
        roc_points(scores, y), roc_curve(y, scores, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    recall, precision, thresholds = precision_recall_points(scores, y)
    expected_precision, expected_recall, expected_thresholds = precision_recall_curve(y, scores)
    np.testing.assert_allclose(precision[::-1], expected_precision[:-1], atol=1e-12)
    np.testing.assert_allclose(recall[::-1], expected_recall[:-1], atol=1e-12)
    np.testing.assert_allclose(thresholds[::-1], expected_thresholds, atol=1e-12)


def test_net_benefit_by_hand() -> None:
    scores, labels = [0.9, 0.8, 0.4, 0.3, 0.1], [1, 0, 1, 0, 0]
    found = net_benefit(scores, labels, [0.2, 0.5, 1.0])
    np.testing.assert_allclose(found[:2], [2 / 5 - 2 / 5 * 0.25, 1 / 5 - 1 / 5])
    assert math.isnan(found[2])
    everyone = net_benefit([1.0] * 5, labels, [0.2, 0.5])
    np.testing.assert_allclose(everyone, net_benefit_of_all(0.4, [0.2, 0.5]))


def test_predictive_values_are_those_of_a_population_counted_out() -> None:
    ppv, npv = predictive_values(recall=0.9, specificity=0.8, prevalence=0.1)
    assert ppv == pytest.approx(90 / (90 + 180))
    assert npv == pytest.approx(720 / (720 + 10))
    assert math.isnan(predictive_values(0.9, 1.0, 0.0)[0])
