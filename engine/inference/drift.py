"""Whether images or scores lie far from those of the training: simple statistics in the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FAR = 4.0  # spreads of training images, that one image's figure may be off
FAR_MEAN = 1.0  # likewise the mean over a data set
DISTANCE = 0.3  # of two distributions of scores: the largest difference of their cumulated shares
FEWEST = 30  # images, below which a data set says nothing
# The figures of one image, each in 0..1: brightness and contrast.
FIGURES = {"mean": "brightness", "std": "contrast"}


def figures_of(image: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation of one decoded image, uint8 [S, S], in 0..1."""
    pixels = image.astype(np.float32)
    return {"mean": float(pixels.mean()) / 255, "std": float(pixels.std()) / 255}


def statistics(found: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and spread over images of what `figures_of` gave for each; kept in the bundle."""
    result = {}
    for name in FIGURES:
        values = np.array([one[name] for one in found])
        result[name] = {"mean": float(values.mean()), "spread": float(values.std())}
    return result


def image_warnings(image: np.ndarray, population: dict[str, Any] | None) -> list[str]:
    """What is unusual of one decoded image beside the training's; empty where it is usual."""
    if image.max() == image.min():
        return ["the image is of one grey value: its score means nothing"]
    known = (population or {}).get("image_figures") or {}
    warnings = []
    for name, value in figures_of(image).items():
        if name in known and (off := _off(value, known[name])) > FAR:
            warnings.append(
                f"the {FIGURES[name]} is {off:.1f} spreads from the training images': is this an "
                "image of the same kind?"
            )
    return warnings


def dataset_warnings(
    figures: Sequence[dict[str, float]], scores: np.ndarray, population: dict[str, Any] | None
) -> list[str]:
    """Where a data set's images, or its scores [N], lie far from the training's.

    `figures` holds what `figures_of` gave for each image.
    """
    kept = population or {}
    if len(figures) < FEWEST:
        return []
    warnings = []
    known = kept.get("image_figures") or {}
    means = statistics(figures)
    for name, title in FIGURES.items():
        if name in known and (off := _off(means[name]["mean"], known[name])) > FAR_MEAN:
            warnings.append(
                f"the images' {title} ({means[name]['mean']:.2f} on average) is {off:.1f} spreads "
                f"from the training images' ({known[name]['mean']:.2f}): another kind of image?"
            )
    histogram = kept.get("val_scores")
    if histogram and sum(histogram):
        distance = score_distance(histogram, scores)
        if distance > DISTANCE:
            warnings.append(
                f"the scores are distributed otherwise than on the validation images (largest "
                f"difference of cumulated shares {distance:.2f}): another mix of patients, or "
                "another kind of image?"
            )
    return warnings


def score_distance(histogram: Sequence[int], scores: np.ndarray) -> float:
    """Largest difference of the cumulated shares at the histogram's edges (Kolmogorov-Smirnov)."""
    counts = np.asarray(histogram, dtype=np.float64)
    other = np.histogram(scores, len(counts), (0.0, 1.0))[0]
    return float(np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(other) / other.sum()).max())


def _off(value: float, known: dict[str, float]) -> float:
    return abs(value - known["mean"]) / max(known["spread"], 1e-6)
