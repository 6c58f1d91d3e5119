"""Metrics against scikit-learn, brute force and their own definitions."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine import metrics

sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle here")
ScoredImages = tuple[np.ndarray, np.ndarray]


def images_from(
    score: st.SearchStrategy[float], smallest: int = 0
) -> st.SearchStrategy[ScoredImages]:
    rows = st.lists(st.tuples(score, st.integers(0, 1)), min_size=smallest, max_size=60)
    return rows.map(
        lambda found: (
            np.array([s for s, _ in found], dtype=np.float64),
            np.array([label for _, label in found], dtype=np.int64),
        )
    )


# Sixteenths are exact, so 1 - s makes no new ties; a few of them make many ties.
TIED = st.integers(0, 16).map(lambda k: k / 16)
SMOOTH = st.floats(0, 1, allow_subnormal=False)
images = st.one_of(images_from(TIED), images_from(SMOOTH))
some_images = st.one_of(images_from(TIED, 1), images_from(SMOOTH, 1))
thresholds = st.one_of(TIED, SMOOTH)


@pytest.fixture(autouse=True)
def _quiet_oracle() -> None:
    # scikit-learn warns of one class only; here that is an input like any other.
    warnings.filterwarnings("ignore", module="sklearn")


def near(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


def both_classes(labels: np.ndarray) -> bool:
    return 0 < int(labels.sum()) < len(labels)


# --- against scikit-learn ------------------------------------------------------------------


@given(some_images, thresholds)
def test_threshold_metrics_agree_with_scikit_learn(data: ScoredImages, threshold: float) -> None:
    scores, labels = data
    counts = metrics.confusion(scores, labels, threshold)
    guess = (scores >= threshold).astype(int)
    tn, fp, fn, tp = sk.confusion_matrix(labels, guess, labels=[0, 1]).ravel()
    assert counts == metrics.Confusion(tp, fp, tn, fn)
    undefined = {"zero_division": np.nan}
    assert metrics.accuracy(counts) == near(sk.accuracy_score(labels, guess))
    pairs: list[tuple[Callable[[metrics.Confusion], float], Callable[..., float]]] = [
        (metrics.precision, sk.precision_score),
        (metrics.recall, sk.recall_score),
        (metrics.f1, sk.f1_score),
    ]
    for ours, theirs in pairs:
        expected = [theirs(labels, guess, pos_label=side, **undefined) for side in (0, 1)]
        name = ours.__name__
        assert ours(counts) == near(expected[1])
        found = metrics.per_class(counts)
        assert found["negative"][name] == near(expected[0])
        assert found["positive"][name] == near(expected[1])
        assert metrics.macro(counts)[name] == near(np.mean(expected))
    negative_recall = sk.recall_score(labels, guess, pos_label=0, **undefined)
    assert metrics.specificity(counts) == near(negative_recall)


@given(some_images)
def test_ranking_metrics_agree_with_scikit_learn(data: ScoredImages) -> None:
    scores, labels = data
    if both_classes(labels):
        expected = sk.roc_auc_score(labels, scores)
        assert metrics.auroc(scores, labels) == near(expected)
    else:
        assert math.isnan(metrics.auroc(scores, labels))
    if labels.any():
        expected = sk.average_precision_score(labels, scores)
        assert metrics.average_precision(scores, labels) == near(expected)
    else:
        assert math.isnan(metrics.average_precision(scores, labels))


def test_a_large_set_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 50_000)
    scores = np.round(1 / (1 + np.exp(-rng.normal(labels, 1))), 3)  # many ties
    assert metrics.auroc(scores, labels) == near(sk.roc_auc_score(labels, scores))
    expected = sk.average_precision_score(labels, scores)
    assert metrics.average_precision(scores, labels) == near(expected)


# --- against brute force -------------------------------------------------------------------


def wins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[positives, negatives]: 1 where the positive image scores higher, one half on a tie."""
    high, low = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return np.asarray((high > low) + 0.5 * (high == low))


@given(some_images)
def test_auroc_is_the_share_of_pairs_in_the_right_order(data: ScoredImages) -> None:
    scores, labels = data
    assume(both_classes(labels))
    assert metrics.auroc(scores, labels) == near(wins(scores, labels).mean())


@given(some_images)
def test_delong_variance_is_that_of_its_definition_over_all_pairs(data: ScoredImages) -> None:
    scores, labels = data
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    found = metrics.delong_variance(scores, labels)
    if min(positives, negatives) < 2:
        assert math.isnan(found)
        return
    pairs = wins(scores, labels)
    by_positive = np.cov(pairs.mean(axis=1)) / positives
    by_negative = np.cov(pairs.mean(axis=0)) / negatives
    assert found == near(by_positive + by_negative)


def test_delong_variance_is_close_to_the_bootstrap() -> None:
    rng = np.random.default_rng(11)
    labels = np.repeat([0, 1], [120, 180])
    scores = np.round(rng.normal(labels, 1.0), 1)
    drawn = []
    for _ in range(2000):
        low = rng.choice(scores[labels == 0], 120)
        high = rng.choice(scores[labels == 1], 180)
        drawn.append(metrics.auroc(np.concatenate([low, high]), labels))
    expected = float(np.std(drawn))
    assert math.sqrt(metrics.delong_variance(scores, labels)) == pytest.approx(expected, rel=0.08)
    low_bound, high_bound = metrics.delong_interval(scores, labels)
    np.testing.assert_allclose(
        [low_bound, high_bound], np.quantile(drawn, [0.025, 0.975]), atol=0.01
    )


def test_delong_interval_covers_the_true_auroc_about_95_times_in_100() -> None:
    rng = np.random.default_rng(5)
    truth = 0.5 * (1 + math.erf(1.2 / 2))  # of normal scores 1.2 standard deviations apart
    labels = np.repeat([0, 1], [80, 80])
    covered = 0
    for _ in range(600):
        low, high = metrics.delong_interval(rng.normal(1.2 * labels, 1.0), labels)
        covered += low <= truth <= high
    assert 0.92 <= covered / 600 <= 0.98


def test_a_million_images_take_seconds_not_a_quadratic_time() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1_000_000)
    scores = rng.normal(labels, 1.0)
    began = time.perf_counter()
    low, high = metrics.delong_interval(scores, labels)
    assert time.perf_counter() - began < 30  # over all pairs: hours
    assert low < metrics.auroc(scores, labels) < high


# --- properties ----------------------------------------------------------------------------


@given(images, st.randoms(use_true_random=False), thresholds)
def test_the_order_of_the_images_does_not_matter(
    data: ScoredImages, random: object, threshold: float
) -> None:
    scores, labels = data
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    again = metrics.summary(scores[order], labels[order], threshold)
    assert flat(again) == near(flat(metrics.summary(scores, labels, threshold)))


@given(images_from(TIED))
def test_reversed_scores_have_the_complementary_auroc(data: ScoredImages) -> None:
    scores, labels = data
    expected = 1 - metrics.auroc(scores, labels)
    assert metrics.auroc(1 - scores, labels) == near(expected)
    # Naming the classes the other way round as well brings the figure back.
    back = metrics.auroc(1 - scores, 1 - labels)
    assert back == near(metrics.auroc(scores, labels))


@given(images)
def test_ranking_metrics_survive_any_rising_map_of_the_scores(data: ScoredImages) -> None:
    scores, labels = data
    _, ranks = np.unique(scores, return_inverse=True)
    for metric in (metrics.auroc, metrics.average_precision, metrics.delong_variance):
        expected = metric(scores, labels)
        assert metric(np.exp(ranks / 8.0), labels) == near(expected)


@given(images, thresholds)
def test_every_defined_figure_lies_in_its_interval_within_0_and_1(
    data: ScoredImages, threshold: float
) -> None:
    summary = metrics.summary(*data, threshold)
    for name, (low, high) in summary["intervals"].items():
        if math.isnan(low):
            assert math.isnan(high)
            continue
        assert 0 <= low <= summary[name] <= high <= 1
    assert sum(summary["confusion"].values()) == summary["count"] == len(data[0])


def flat(value: object, path: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}.{i}").items()}
    return {path: value}  # type: ignore[dict-item]


# --- degenerate inputs ---------------------------------------------------------------------


def test_an_empty_set_has_no_figures_and_does_not_crash() -> None:
    summary = metrics.summary([], [])
    assert summary["count"] == summary["positives"] == summary["nan_scores"] == 0
    for name in ("accuracy", "precision", "recall", "specificity", "f1", "auroc"):
        assert math.isnan(summary[name])
    assert all(math.isnan(bound) for pair in summary["intervals"].values() for bound in pair)


def test_one_class_only_leaves_undefined_what_the_other_class_defines() -> None:
    sick = metrics.summary([0.9, 0.2], [1, 1])
    assert (sick["accuracy"], sick["recall"], sick["precision"]) == (0.5, 0.5, 1.0)
    assert sick["average_precision"] == 1.0
    undefined = ("specificity", "auroc", "macro_recall")
    assert all(math.isnan(sick[name]) for name in undefined)
    well = metrics.summary([0.9, 0.2], [0, 0])
    assert (well["accuracy"], well["specificity"], well["precision"]) == (0.5, 0.5, 0.0)
    assert all(math.isnan(well[name]) for name in ("recall", "auroc", "average_precision"))


def test_no_positive_prediction_leaves_precision_undefined_but_not_f1() -> None:
    summary = metrics.summary([0.1, 0.2, 0.3], [0, 1, 0])
    assert math.isnan(summary["precision"])
    assert math.isnan(summary["macro_precision"])
    assert summary["intervals"]["precision"] == pytest.approx([math.nan] * 2, nan_ok=True)
    assert (summary["recall"], summary["f1"], summary["specificity"]) == (0.0, 0.0, 1.0)


def test_nothing_positive_and_nothing_predicted_so_leaves_f1_undefined() -> None:
    assert math.isnan(metrics.summary([0.1], [0])["f1"])


def test_nan_scores_are_counted_and_make_every_figure_undefined() -> None:
    summary = metrics.summary([0.9, math.nan, 0.1, math.nan], [1, 1, 0, 0])
    assert summary["nan_scores"] == 2
    assert summary["confusion"] == {"tp": 1, "fp": 0, "tn": 1, "fn": 0}
    for name, value in flat(summary).items():
        if not name.startswith((".confusion", ".count", ".pos", ".nan", ".thr")):
            assert math.isnan(value) or name.endswith("support"), name


def test_a_score_at_the_threshold_is_positive() -> None:
    assert metrics.confusion([0.5, 0.5], [1, 0]) == metrics.Confusion(1, 1, 0, 0)


def test_infinite_scores_rank_as_the_highest_and_the_lowest() -> None:
    assert metrics.auroc([math.inf, 0.5, -math.inf], [1, 0, 0]) == 1.0
    assert metrics.confusion([math.inf, -math.inf], [1, 0]) == metrics.Confusion(1, 0, 1, 0)


def test_float32_scores_and_bool_or_float_labels_are_taken() -> None:
    scores = np.array([0.25, 0.75], dtype=np.float32)
    for labels in (np.array([False, True]), np.array([0.0, 1.0]), [0, 1]):
        assert metrics.auroc(scores, labels) == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.5], [0, 1], "one shape"),
        ([[0.5]], [[1]], "one shape"),
        ([0.5], [2], "0 or 1"),
        ([0.5], [math.nan], "0 or 1"),
        ([0.5], ["PNEUMONIA"], "0 or 1"),
    ],
)
def test_what_is_no_score_and_label_is_refused(
    scores: list[float], labels: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.summary(scores, labels)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        metrics.confusion([0.5], [1], math.nan)


def test_a_summary_holds_only_plain_values() -> None:
    labels = np.array([0, 1, 1, 0], dtype=np.int64)
    summary = metrics.summary(np.array([0.1, 0.9, 0.4, 0.6], dtype=np.float32), labels)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["positives"] == 2
    assert all(type(value) in (int, float) for value in flat(summary).values())


# --- intervals -----------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 10), (950, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_scipy(k: int, n: int, level: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert metrics.wilson_interval(k, n, level) == pytest.approx(tuple(expected), abs=1e-9)


def test_wilson_bounds_solve_the_score_equation() -> None:
    z = 1.959963984540054
    for n, share in product((3, 17, 400), (0.0, 0.3, 1.0)):
        k = round(n * share)
        for bound in metrics.wilson_interval(k, n):
            # |k/n - p| = z sqrt(p (1 - p) / n), squared
            assert (k / n - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n, abs=1e-12)


def test_wilson_of_nothing_is_undefined_and_of_nonsense_refused() -> None:
    assert all(math.isnan(bound) for bound in metrics.wilson_interval(0, 0))
    for k, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="proportion"):
            metrics.wilson_interval(k, n)
    with pytest.raises(ValueError, match="level"):
        metrics.wilson_interval(1, 2, 95)


def test_perfect_separation_does_not_claim_certainty() -> None:
    low, high = metrics.delong_interval([0.1, 0.2, 0.3, 0.8, 0.9], [0, 0, 0, 1, 1])
    assert (low, high) == metrics.wilson_interval(2, 2)
    assert low < 0.4
    assert high == 1.0
    low, high = metrics.delong_interval([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1])
    assert (low, high) == metrics.wilson_interval(0, 2)


def test_auroc_interval_of_a_single_positive_image_is_undefined() -> None:
    assert all(math.isnan(bound) for bound in metrics.delong_interval([0.1, 0.2, 0.9], [0, 0, 1]))


def test_equal_scores_for_all_have_an_auroc_of_one_half_for_sure() -> None:
    assert metrics.delong_interval([0.7] * 6, [0, 1] * 3) == (0.5, 0.5)


@settings(max_examples=30)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_of_the_complement_is_the_mirror_image(of: tuple[int, int]) -> None:
    k, n = of
    low, high = metrics.wilson_interval(k, n)
    assert metrics.wilson_interval(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
