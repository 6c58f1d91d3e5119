"""The bundle of an ensemble, made of its members' bundles and their recorded scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from config import UserError
from engine.metrics.calibrated import at_operating_point, calibrate
from engine.metrics.calibration import apply_temperature

SAME = ("architecture", "preprocessing", "label_names")


@dataclass(frozen=True)
class Scores:
    """A part's calibrated scores and labels, each [N], with the images' names."""

    names: list[str]
    labels: np.ndarray
    scores: np.ndarray


def of_members(
    bundles: Sequence[dict[str, Any]],
    validated: Sequence[Scores],
    tested: Sequence[Scores],
    uid: str,
    wanted: str,
    target_specificity: float,
) -> dict[str, Any]:
    """The content of the ensemble's bundle; its `metrics` are on the same parts as the members'.

    Members with one validation part are averaged there, and the temperature of the mean is fitted.
    Members of a cross-validation have different ones: every image then has the score of the one
    member that did not train on it, and thresholds are chosen on these. `wanted` is the rule of the
    default operating point. Raises UserError where the members do not fit together.
    """
    first = bundles[0]
    for key in SAME:
        if any(bundle[key] != first[key] for bundle in bundles[1:]):
            raise UserError(f"the members of the ensemble differ in their {key}")
    shared = all(part.names == validated[0].names for part in validated)
    val = mean_of(validated) if shared else joined(validated)
    found = calibrate(val.scores, val.labels, wanted, fit="temperature" if shared else "none")
    point = found.points[found.default]
    metrics = {"val": at_operating_point(found.scores, val.labels, point, target_specificity)}
    if tested:
        test = mean_of(tested)
        scores = apply_temperature(test.scores, found.temperature or 1.0)
        metrics["test"] = at_operating_point(scores, test.labels, point, target_specificity)
    temperatures = [float(bundle["temperature"] or 1.0) for bundle in bundles]
    weights = {
        f"members.{number}.{name}": tensor
        for number, bundle in enumerate(bundles)
        for name, tensor in bundle["weights"].items()
    }
    return {
        **first,
        "run_uid": uid,
        "epoch": 0,  # each member has its own
        "architecture": {**first["architecture"], "members": len(bundles)},
        "weights": {"temperatures": torch.tensor(temperatures), **weights},
        "temperature": found.temperature,
        "operating_points": found.points,
        "default_operating_point": found.default,
        "metrics": metrics,
    }


def mean_of(parts: Sequence[Scores]) -> Scores:
    """The same images' scores as the ensemble gives them: the mean of the logits."""
    if any(part.names != parts[0].names for part in parts):
        raise UserError("the members of the ensemble were not scored on the same images")
    scores = np.stack([part.scores for part in parts])
    clipped = np.clip(scores, np.finfo(np.float64).tiny, 1 - 2**-53)
    logits = (np.log(clipped) - np.log1p(-clipped)).mean(axis=0)
    return Scores(parts[0].names, parts[0].labels, 1 / (1 + np.exp(-logits)))


def joined(parts: Sequence[Scores]) -> Scores:
    """All parts' images, each with its own score."""
    return Scores(
        [name for part in parts for name in part.names],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )
