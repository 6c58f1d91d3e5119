"""Pixels of any mode as 8-bit grey, band by band: a copy of the whole in other modes is never held.

The values of 16-bit images are divided by a white that is a number of bits, decided for the whole
data set (`engine/data/bits.py`): never by one image's maximum, which a single pixel can change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from engine.data.decoded import Depth

BAND = 1 << 18  # pixels that are made grey at a time
BAND_BYTES = 32  # that one of them takes meanwhile
VALUES = 1 << 16
BITS = (8, 10, 12, 13, 14, 15, 16)  # that detectors have
HIGH = 0.999  # of the pixels do not exceed `Depth.high`: burnt-in text and dead pixels do
OTHER_DETECTOR = 0.01  # share of the pixels above the data set's white: the image has its own


def to_grey(
    image: Image.Image, mode: str, bits: int | None, declared: int | None
) -> tuple[np.ndarray, Depth | None]:
    """uint8 [H, W] of a loaded image of any mode, and how 16-bit values were scaled.

    `bits` is what the data set uses, `declared` what the file says that it uses.
    """
    grey = np.empty((image.height, image.width), np.uint8)
    depth = None
    if mode.startswith("I") and _is_16_bit(image, mode):
        if declared is None:
            depth = choose_depth(count_values(np.asarray(b) for _, b in bands(image)), bits)
        table = scale_table(depth.bits if depth is not None else declared or 16)
        for rows, band in bands(image):
            grey[rows] = table[np.asarray(band)]
    elif mode in ("I", "F"):
        low, high = _range(image)
        for rows, band in bands(image):
            values = np.asarray(band)
            if mode == "F":
                grey[rows] = _scale_floats(values, low, high)
            else:
                grey[rows] = np.rint(
                    (values.astype(np.int64) - int(low)) * (255 / max(high - low, 1))
                )
    else:
        for rows, band in bands(image):
            grey[rows] = np.asarray(_colour_to_grey(band, mode))
    return grey, depth


def count_values(parts: Iterable[np.ndarray]) -> np.ndarray:
    """int64 [65536]: how many pixels of the parts have each 16-bit value."""
    counts = np.zeros(VALUES, np.int64)
    for part in parts:
        counts += np.bincount(part.ravel(), minlength=VALUES)
    return counts


def choose_depth(counts: np.ndarray, bits: int | None) -> Depth:
    """White for an image with these counts of values, int64 [65536].

    `bits` is what the data set uses; None where the image is alone: then nothing is clipped. An
    image of which it would clip more than OTHER_DETECTOR has a white of its own.
    """
    below = np.cumsum(counts) / counts.sum()
    high = int(np.searchsorted(below, HIGH))
    if bits is None:
        bits = bits_for(int(np.flatnonzero(counts)[-1]))
    elif 1 - below[(1 << bits) - 1] > OTHER_DETECTOR:
        bits = max(bits, bits_for(high))
    return Depth(bits, high, float(1 - below[(1 << bits) - 1]))


def bits_for(value: int) -> int:
    """The smallest of BITS whose range holds a 16-bit value."""
    return next(bits for bits in BITS if value < 1 << bits)


def scale_table(bits: int) -> np.ndarray:
    """uint8 [65536]: the grey of each 16-bit value; 255 for the largest of `bits` and above."""
    white = (1 << bits) - 1
    return np.rint(np.arange(VALUES).clip(max=white) * (255 / white)).astype(np.uint8)


def bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The image in groups of whole rows, of about BAND pixels."""
    step = max(1, BAND // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        whole = step >= image.height
        yield slice(top, bottom), image if whole else image.crop((0, top, image.width, bottom))


def _is_16_bit(image: Image.Image, mode: str) -> bool:
    """Whether all values are; mode I is 32 bits wide, and of 16-bit files in some formats."""
    if mode != "I":
        return True
    low, high = _range(image)
    return low >= 0 and high < VALUES


def _range(image: Image.Image) -> tuple[float, float]:
    """Lowest and highest finite value; of what is not finite, zero."""
    finite = (np.nan_to_num(np.asarray(b), posinf=0.0, neginf=0.0) for _, b in bands(image))
    extremes = [(band.min(), band.max()) for band in finite]
    return float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))


def _colour_to_grey(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))  # outside the image it is dark
        image = Image.alpha_composite(black, rgba).convert("RGB")
    elif mode not in ("L", "RGB", "1"):
        image = image.convert("RGB")
    return image.convert("L")


def _scale_floats(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0..1 or 0..255 as they are, other ranges stretched; what is not finite is black."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if low >= 0 and high <= 1:
        scaled = values * 255
    elif low >= 0 and high <= 255:
        scaled = values
    else:
        scaled = (values - low) * (255 / max(high - low, 1e-12))
    return np.rint(scaled).astype(np.uint8)
