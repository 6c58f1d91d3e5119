"""The surest mistakes of a model, with their images and heat maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from config import UserError
from engine.inference.explain import overlay
from engine.inference.predictor import Predictor
from engine.report.facts import ImageSource, Part
from engine.report.pictures import data_url

SHOWN = 4  # of each kind
SIDE = 224  # pixels of a picture at most
TRUSTED = 0.5  # correlation with the maps of random weights, above which none is shown


@dataclass(frozen=True)
class Mistake:
    """One image called wrongly; pictures are data: URLs, None where they are not shown."""

    name: str
    score: float
    picture: str | None = None
    heat_map: str | None = None


@dataclass(frozen=True)
class Mistakes:
    """The surest mistakes of one part."""

    missed: list[Mistake]  # positive images with the lowest scores
    false_alarms: list[Mistake]  # negative images with the highest scores
    missed_count: int
    false_alarm_count: int
    correlation: float | None  # of heat maps with those of random weights; None: not checked
    note: str  # why there are no pictures; empty where there are


def find_mistakes(
    part: Part,
    threshold: float,
    model: Predictor | None = None,
    images: ImageSource | None = None,
    note: str = "",
) -> Mistakes:
    """The surest mistakes, with pictures where both `model` and `images` are given."""
    called = part.scores >= threshold
    missed = np.flatnonzero(~called & (part.labels == 1))
    alarms = np.flatnonzero(called & (part.labels == 0))
    first = missed[np.argsort(part.scores[missed], kind="stable")][:SHOWN].tolist()
    last = alarms[np.argsort(-part.scores[alarms], kind="stable")][:SHOWN].tolist()
    pixels: dict[int, np.ndarray] = {}
    correlation = None
    if model is not None and images is not None and first + last:
        try:
            pixels = {row: images.read(part.names[row]) for row in first + last}
            correlation = model.heat_map_check(np.stack(list(pixels.values())))
        except (UserError, OSError) as error:
            pixels, note = {}, f"The images are not shown: {error}."
    hot = correlation is not None and correlation < TRUSTED

    def mistake(row: int) -> Mistake:
        name, score = part.names[row], float(part.scores[row])
        if row not in pixels or model is None:
            return Mistake(name, score)
        image = pixels[row]
        heat = data_url(overlay(image, model.heat_map(image)), SIDE) if hot else None
        return Mistake(name, score, data_url(Image.fromarray(image), SIDE), heat)

    return Mistakes(
        [mistake(row) for row in first],
        [mistake(row) for row in last],
        len(missed),
        len(alarms),
        correlation,
        note,
    )
