"""What is unusual of images and scores beside the training's, and how images are changed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from engine.inference import drift
from engine.inference.robustness import CHANGES, brighter, shifted


def images(mean: float, count: int, seed: int = 0) -> list[np.ndarray]:
    """uint8 [16, 16] each, of varying brightness around `mean` (0..1)."""
    rng = np.random.default_rng(seed)
    means = mean + rng.normal(0, 0.05, count)
    noise = rng.normal(0, 0.1, (count, 16, 16))
    return list((255 * np.clip(means[:, None, None] + noise, 0, 1)).astype(np.uint8))


@pytest.fixture
def population() -> dict[str, object]:
    figures = [drift.figures_of(image) for image in images(0.5, 200)]
    return {"image_figures": drift.statistics(figures), "val_scores": [50, *[0] * 18, 50]}


def test_an_image_like_the_trainings_is_not_warned_of(population: dict[str, object]) -> None:
    for image in images(0.5, 20, seed=3):
        assert drift.image_warnings(image, population) == []
    (bright,) = images(0.95, 1)
    assert "brightness" in drift.image_warnings(bright, population)[0]
    assert "one grey value" in drift.image_warnings(np.zeros((8, 8), np.uint8), population)[0]
    assert drift.image_warnings(bright, None) == []  # a bundle that keeps no statistic


def test_a_data_set_is_judged_by_its_mean_and_its_scores(population: dict[str, object]) -> None:
    scores = np.repeat([0.01, 0.99], 40)
    usual = [drift.figures_of(image) for image in images(0.5, 80, seed=4)]
    assert drift.dataset_warnings(usual, scores, population) == []
    dark = [drift.figures_of(image) for image in images(0.4, 80, seed=4)]
    assert "brightness" in drift.dataset_warnings(dark, scores, population)[0]
    (text,) = drift.dataset_warnings(usual, np.full(80, 0.99), population)
    assert "scores are distributed otherwise" in text
    assert drift.dataset_warnings(dark[:10], scores[:10], population) == []  # too few to say


def test_the_distance_of_scores_is_that_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(2)
    ours = (rng.integers(0, 20, 300) + 0.5) / 20  # in the middle of bins: binning loses nothing
    theirs = (np.minimum(19, rng.poisson(6, 200)) + 0.5) / 20
    histogram = np.histogram(ours, 20, (0, 1))[0].tolist()
    expected = ks_2samp(ours, theirs).statistic
    assert drift.score_distance(histogram, theirs) == pytest.approx(expected, abs=1e-12)


def test_changes_keep_the_shape_and_do_what_they_say() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    for change in CHANGES.values():
        changed = change(image)
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
        assert not np.array_equal(changed, image)
    assert np.array_equal(shifted(0.25, 0)(image)[:, 8:], image[:, :-8])
    assert np.array_equal(shifted(0, 0.25)(image)[8:], image[:-8])
    assert brighter(0.1)(image).mean() > image.mean()
