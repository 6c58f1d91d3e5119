"""Stored values of DICOM as 8-bit grey: rescaled, windowed, inverted, unpadded (PS3.3, C.11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.decoded import Depth, UnreadableImage
from engine.data.grey import BAND, OTHER_DETECTOR, VALUES, choose_depth, count_values

if TYPE_CHECKING:
    from pydicom import Dataset


def stored_to_grey(
    image: Dataset, stored: np.ndarray, bits: int | None
) -> tuple[np.ndarray, Depth | None]:
    """uint8 [H, W] of the stored values, and how 16-bit ones of unknown use were scaled.

    Values of 16 bits go through a table of them all: the image is never held in floats. `bits` is
    what the 16-bit images of the data set use.
    """
    if stored.ndim != 2 or stored.dtype.kind not in "iuf":
        raise UnreadableImage(f"DICOM: it holds {stored.dtype} {stored.shape}, no grey image")
    if stored.dtype.itemsize > 2:
        return _wide_to_grey(image, stored), None
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    index = stored.view(f"u{stored.dtype.itemsize}")
    depth, signed = None, stored.dtype.kind == "i"
    used = min(int(image.get("BitsStored", 16)), 8 * stored.dtype.itemsize)
    if used == 16 and not _has_window(image):  # 16 of 16 is what many say who do not know
        step = max(1, BAND // stored.shape[1])
        counts = count_values(index[at : at + step] for at in range(0, len(index), step))
        if signed:
            counts, signed = _by_magnitude(counts)
        depth = choose_depth(counts, bits)
        used = depth.bits
    low = -(1 << used - 1) if signed else 0
    return _grey_table(image, stored.dtype, low, low + (1 << used) - 1)[index], depth


def _wide_to_grey(image: Dataset, stored: np.ndarray) -> np.ndarray:
    """uint8 [H, W] of values of 32 bits: by the window, or else over the image's own range.

    No detector has so many bits: the file was made by a program, as a 32-bit TIFF is.
    """
    slope, intercept = (
        float(image.get(tag) or default)
        for tag, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if stored.dtype.kind == "f":
        stored = np.nan_to_num(stored, nan=0.0, posinf=0.0, neginf=0.0)
    ends = np.array([stored.min(), stored.max()], np.float64) * slope + intercept
    low, high = float(ends.min()), float(ends.max())
    window, function = _window(image), str(image.get("VOILUTFunction", "LINEAR"))
    grey = np.empty(stored.shape, np.uint8)
    step = max(1, BAND // stored.shape[1])
    for at in range(0, len(stored), step):
        values = stored[at : at + step].astype(np.float64) * slope + intercept
        if window is not None:
            share = _windowed(values, *window, function)
        else:
            share = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
        grey[at : at + step] = np.rint(share * 255)
    return 255 - grey if _is_inverted(image) else grey


def _is_inverted(image: Dataset) -> bool:
    """Whether high values are shown dark.

    A file that says MONOCHROME1 and INVERSE says it once, in two ways (PS3.3, C.8.11.3.1.2); one
    that says MONOCHROME1 and IDENTITY contradicts itself, and viewers follow the first.
    """
    shape = image.get("PresentationLUTShape")
    return bool(image.get("PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE")


def _by_magnitude(counts: np.ndarray) -> tuple[np.ndarray, bool]:
    """Counts of 16-bit patterns, int64 [65536], in an order in which fewer bits come first.

    Signed values in the order 0, -1, 1, -2...; from 0 up where next to none is negative (False).
    """
    positive, negative = counts[: VALUES // 2], counts[VALUES // 2 :]
    ordered = np.zeros_like(counts)
    if negative.sum() <= OTHER_DETECTOR * counts.sum():
        ordered[: VALUES // 2] = positive
        ordered[0] += negative.sum()
        return ordered, False
    ordered[0::2], ordered[1::2] = positive, negative[::-1]
    return ordered, True


def _has_window(image: Dataset) -> bool:
    return bool(image.get("VOILUTSequence")) or _window(image) is not None


def _grey_table(image: Dataset, dtype: np.dtype[Any], low: int, high: int) -> np.ndarray:
    """uint8 [256 or 65536]: the grey of each stored value, signed ones at their unsigned place.

    `low` and `high` are the smallest and the largest value that the stored bits can hold.
    """
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    size = 1 << (8 * dtype.itemsize)
    stored = np.arange(size, dtype=f"u{dtype.itemsize}").view(dtype).astype(np.int32)
    values = np.asarray(apply_modality_lut(stored.clip(low, high), image), np.float64)
    window = _window(image)
    if image.get("VOILUTSequence"):
        first = int(image.VOILUTSequence[0].LUTDescriptor[1])
        inside = np.rint(values).clip(first, first + VALUES - 1).astype(np.int32)
        share = _stretched(np.asarray(apply_voi(inside, image), np.float64))
    elif window is not None:
        share = _windowed(values, *window, str(image.get("VOILUTFunction", "LINEAR")))
    else:
        share = _stretched(values)  # over all that the bits can hold, not over this image's values
    grey = np.rint(share * 255).astype(np.uint8)
    if _is_inverted(image):
        grey = 255 - grey
    grey[_padding(image, stored)] = 0
    return grey


def _stretched(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-12)


def _window(image: Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window that the file offers."""
    centre, width = (_first(image.get(name)) for name in ("WindowCenter", "WindowWidth"))
    return None if centre is None or width is None or width < 1 else (centre, width)


def _first(value: Any) -> float | None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else None
    return None if value in (None, "") else float(value)


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """0 to 1 (DICOM PS3.3, C.11.2.1)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp((-4 * (values - centre) / width).clip(-500, 500)))
    if function == "LINEAR_EXACT":
        return ((values - centre) / width + 0.5).clip(0, 1)
    return ((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5).clip(0, 1)


def _padding(image: Dataset, stored: np.ndarray) -> np.ndarray:
    """Which stored values are no part of the image; they are shown black."""
    value = image.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    ends = sorted((int(value), int(image.get("PixelPaddingRangeLimit", value))))
    return (stored >= ends[0]) & (stored <= ends[1])
