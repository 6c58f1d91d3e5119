"""How a model's decisions change when images are changed in ways that change no diagnosis."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from engine.inference.predictor import Predictor
from engine.inference.scoring import ScoredDataset
from engine.metrics.classification import auroc

IMAGES = 200  # at most, evenly drawn over a data set
BATCH = 64

Change = Callable[[np.ndarray], np.ndarray]  # uint8 [S, S] -> uint8 [S, S]


def jpeg(quality: int) -> Change:
    """As stored once more as JPEG."""

    def changed(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return changed


def shifted(x: float, y: float) -> Change:
    """Moved by shares of the side; the edge is repeated."""

    def changed(image: np.ndarray) -> np.ndarray:
        side = len(image)
        rows = np.clip(np.arange(side) - round(y * side), 0, side - 1)
        columns = np.clip(np.arange(side) - round(x * side), 0, side - 1)
        return image[rows[:, None], columns]

    return changed


def brighter(by: float) -> Change:
    """Every pixel raised, of the range 0 to 1."""

    def changed(image: np.ndarray) -> np.ndarray:
        return np.clip(image.astype(np.float32) + 255 * by, 0, 255).astype(np.uint8)

    return changed


def coarser(factor: int) -> Change:
    """Reduced in size by `factor`, and enlarged again."""

    def changed(image: np.ndarray) -> np.ndarray:
        side = len(image)
        small = (max(1, side // factor),) * 2
        picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))

    return changed


CHANGES: dict[str, Change] = {
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 25": jpeg(25),
    "moved right by 4 %": shifted(0.04, 0.0),
    "moved down by 4 %": shifted(0.0, 0.04),
    "brighter by 0.1": brighter(0.1),
    "darker by 0.1": brighter(-0.1),
    "half the resolution": coarser(2),
}


def robustness(
    model: Predictor, scored: ScoredDataset, threshold: float, most: int = IMAGES
) -> list[dict[str, Any]]:
    """For each change: AUROC, share of decisions that change, mean change of the score.

    Of more than `most` images an even sample is taken. The first row is of the images as they are.
    """
    count = len(scored.labels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
    plain, truth = np.asarray(scored.images[scored.rows[chosen]]), scored.labels[chosen]
    before = _scores(model, plain)
    found = [{"change": "none", "images": len(chosen), "auroc": auroc(before, truth),
              "decisions_changed": 0.0, "mean_score_change": 0.0}]  # fmt: skip
    for name, change in CHANGES.items():
        after = _scores(model, np.stack([change(image) for image in plain]))
        found.append(
            {
                "change": name,
                "images": len(chosen),
                "auroc": auroc(after, truth),
                "decisions_changed": float(((after >= threshold) != (before >= threshold)).mean()),
                "mean_score_change": float((after - before).mean()),
            }
        )
    return found


def _scores(model: Predictor, images: np.ndarray) -> np.ndarray:
    batches = range(0, len(images), BATCH)
    return np.concatenate([model.scores(images[at : at + BATCH]) for at in batches])
