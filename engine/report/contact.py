"""What the network will see, as pictures: plain and augmented images, and those that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from config import Config
from engine.data.augment import augment, epoch_parameters
from engine.data.inputs import to_float
from engine.data.prepare import Prepared
from engine.data.split import PARTS
from engine.report.pictures import data_url

SHOWN = 8  # images of each class and part
GROUPS = 8  # of identical images, and pairs of nearly identical ones
SIDE = 128  # pixels of a picture at most


@dataclass(frozen=True)
class Picture:
    """One image of the data set."""

    name: str
    label: str
    url: str  # a data: URL
    part: str


@dataclass(frozen=True)
class Row:
    """Images that belong together."""

    title: str
    pictures: list[Picture]


def contact_sheet(data: Prepared, config: Config) -> list[Row]:
    """For each part and class some images as they are; those of train augmented, too."""
    rows = []
    for part in PARTS:
        members = getattr(data.split, part)
        for label, name in enumerate(data.label_names):
            places = members[data.labels[members] == label]
            if not len(places):
                continue
            spread = np.linspace(0, len(places) - 1, min(SHOWN, len(places))).astype(np.int64)
            chosen = places[spread]
            pixels = np.asarray(data.images[data.rows[chosen]])
            rows.append(Row(f"{part}, {name}", _pictures(data, chosen, pixels, part)))
            if part == "train":
                changed = _augmented(data, chosen, pixels, config)
                title = f"{part}, {name}, augmented"
                rows.append(Row(title, _pictures(data, chosen, changed, part)))
    return rows


def alike(data: Prepared) -> tuple[list[Row], list[Row]]:
    """Two images of each group of identical ones, and pairs that nearly are, in two parts.

    Groups with two labels come first, then those in two parts; at most GROUPS of each kind.
    """
    place = {name: at for at, name in enumerate(data.names)}
    groups = [[place[n] for n in names] for names in data.report["exact_duplicates"]["listed"]]
    part_of = _part_of(data)
    groups.sort(
        key=lambda group: (
            len({int(data.labels[at]) for at in group}) < 2,
            len({part_of[at] for at in group}) < 2,
        )
    )
    near = data.report["near_duplicates_across_splits"]["listed"]
    pairs = [[place[name] for name in pair] for pair in near]
    return _rows(data, groups), _rows(data, pairs)


def _rows(data: Prepared, groups: Sequence[Sequence[int]]) -> list[Row]:
    part_of = _part_of(data)
    found = []
    for group in groups[:GROUPS]:
        first = group[0]
        # Of two labels one of each, of two parts one of each.
        others = (at for at in group[1:] if data.labels[at] != data.labels[first])
        elsewhere = (at for at in group[1:] if part_of[at] != part_of[first])
        second = next(others, next(elsewhere, group[1]))
        pair = (first, second)
        pictures = [
            _picture(data, at, np.asarray(data.images[int(data.rows[at])]), part_of[at])
            for at in pair
        ]
        two_parts = part_of[first] != part_of[second]
        words = ["in two parts"] if two_parts and data.labels[first] == data.labels[second] else []
        words += ["two labels"] if data.labels[first] != data.labels[second] else []
        words += [f"and {len(group) - 2} more"] if len(group) > 2 else []
        found.append(Row(", ".join(words), pictures))
    return found


def _part_of(data: Prepared) -> dict[int, str]:
    found: dict[int, str] = {}
    for part in PARTS:
        found |= dict.fromkeys(getattr(data.split, part).tolist(), part)
    return found


def _augmented(
    data: Prepared, places: np.ndarray, pixels: np.ndarray, config: Config
) -> np.ndarray:
    """The images as the first epoch changes them, uint8 [B, S, S]."""
    seed, side = config.system.seed, pixels.shape[-1]
    table = epoch_parameters(len(data.labels), seed, 1, config.augment, side)
    images = to_float(torch.from_numpy(pixels.copy())[:, None])
    changed = augment(images, table[torch.from_numpy(places)], seed, config.augment)
    return changed.mul(255).round().byte()[:, 0].numpy()


def _pictures(data: Prepared, places: np.ndarray, pixels: np.ndarray, part: str) -> list[Picture]:
    pairs = zip(places.tolist(), pixels, strict=True)
    return [_picture(data, at, image, part) for at, image in pairs]


def _picture(data: Prepared, at: int, pixels: np.ndarray, part: str) -> Picture:
    label = data.label_names[int(data.labels[at])]
    return Picture(data.names[at], label, data_url(Image.fromarray(pixels), SIDE), part)
