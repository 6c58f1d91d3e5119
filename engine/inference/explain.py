"""Heat maps as pictures: the image in grey with the map in colour over it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from config import UserError
from engine.inference.files import ImageFile
from engine.inference.predictor import Predictor

STRENGTH = 0.55  # of the colour, at the hottest place


class HeatMaps:
    """Writes one PNG an image into a folder."""

    def __init__(self, model: Predictor, folder: Path) -> None:
        """Raises UserError where the folder cannot be made."""
        self._model, self._folder = model, folder
        self._used: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror})") from error

    def write(self, file: ImageFile) -> Path:
        """The heat map of one image file that can be read; where it was written."""
        image = self._model.read(file)
        if isinstance(image, str):
            raise UserError(f"{file.path} cannot be read: {image}")
        picture = overlay(image, self._model.heat_map(image))
        target = self._folder / f"{self._name(file.path)}.png"
        picture.save(target)
        return target

    def _name(self, path: Path) -> str:
        """The image's name, with a number where two folders have the same."""
        name = base = re.sub(r"[^\w.-]", "_", path.stem) or "image"
        number = 2
        while name in self._used:
            name, number = f"{base}_{number}", number + 1
        self._used.add(name)
        return name


def overlay_layer(heat: np.ndarray) -> Image.Image:
    """heat [S, S] in 0..1 -> the colour alone, RGBA, to lie over the image."""
    alpha = np.rint(heat * 255 * STRENGTH)
    red, green = np.clip(heat * 2, 0, 1) * 255, np.clip(heat * 2 - 1, 0, 1) * 255
    return Image.fromarray(np.stack([red, green, heat * 0, alpha], axis=2).astype(np.uint8))


def overlay(image: np.ndarray, heat: np.ndarray) -> Image.Image:
    """uint8 [S, S] and heat [S, S] in 0..1 -> an RGB picture; black to red to yellow is hot."""
    grey = np.repeat(image[..., None].astype(np.float32), 3, axis=2)
    colour = np.stack([np.clip(heat * 2, 0, 1), np.clip(heat * 2 - 1, 0, 1), heat * 0], axis=2)
    alpha = (heat * STRENGTH)[..., None]
    return Image.fromarray(np.rint(grey * (1 - alpha) + 255 * colour * alpha).astype(np.uint8))
