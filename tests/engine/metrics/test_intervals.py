"""Intervals cover what they promise, by image and by patient."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics import delong_interval, delong_variance, wilson_interval
from engine.metrics.intervals import grouped_interval, mean_interval

stats = pytest.importorskip("scipy.stats", reason="the oracle here")
REPEATS = 2000


def scored(
    rng: np.random.Generator, distance: float, positives: int, negatives: int
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([rng.normal(distance, 1, positives), rng.normal(0, 1, negatives)])
    return scores, np.repeat([1, 0], [positives, negatives])


@pytest.mark.parametrize("distance", [1.5, 2.33])
@pytest.mark.parametrize(("positives", "negatives"), [(60, 40), (300, 120)])
def test_the_interval_of_the_auroc_covers_95_percent(
    distance: float, positives: int, negatives: int
) -> None:
    rng = np.random.default_rng(1)
    truth = NormalDist().cdf(distance / math.sqrt(2))
    covered = 0
    for _ in range(REPEATS):
        low, high = delong_interval(*scored(rng, distance, positives, negatives))
        covered += low <= truth <= high
    assert 0.93 <= covered / REPEATS <= 0.97


def test_intervals_by_patient_cover_95_percent_where_plain_ones_do_not() -> None:
    rng = np.random.default_rng(2)
    truth, inside, plain = 0.8, 0, 0
    for _ in range(REPEATS):
        groups = np.repeat(np.arange(60), 4)
        own = rng.beta(truth * 2, (1 - truth) * 2, 60)  # every patient has a share of its own
        hits = rng.random(240) < own[groups]
        low, high = grouped_interval(hits, groups)
        inside += low <= truth <= high
        low, high = wilson_interval(int(hits.sum()), 240)
        plain += low <= truth <= high
    assert 0.93 <= inside / REPEATS <= 0.97
    assert plain / REPEATS < 0.9


def test_the_auroc_by_patient_covers_95_percent() -> None:
    rng = np.random.default_rng(3)
    labels, groups = np.repeat([1, 0], [60, 60]), np.repeat(np.arange(40), 3)
    truth, inside = NormalDist().cdf(1.5 / math.sqrt(2)), 0
    for _ in range(REPEATS):
        shared = rng.normal(0, math.sqrt(0.6), 40)[groups]
        scores = 1.5 * labels + shared + rng.normal(0, math.sqrt(0.4), 120)
        low, high = delong_interval(scores, labels, groups=groups)
        inside += low <= truth <= high
    assert 0.92 <= inside / REPEATS <= 0.97  # 20 groups a class are few


def test_groups_of_one_image_change_nothing() -> None:
    scores, labels = scored(np.random.default_rng(4), 1.0, 30, 20)
    alone = np.arange(50)
    assert delong_variance(scores, labels, alone) == pytest.approx(delong_variance(scores, labels))
    hits = scores > 0.5
    expected = wilson_interval(int(hits.sum()), 50)
    assert grouped_interval(hits, alone) == pytest.approx(expected, abs=0.002)


def test_images_of_one_patient_count_as_one_where_all_are_alike() -> None:
    assert grouped_interval([True] * 40, [0] * 20 + [1] * 20) == wilson_interval(2, 2)
    assert all(map(math.isnan, grouped_interval([], [])))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    mean, low, high = mean_interval(values)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert (high - low) / 2 == pytest.approx(half, rel=2e-3, abs=1e-9)
    assert math.isnan(mean_interval(values[:1])[1])
