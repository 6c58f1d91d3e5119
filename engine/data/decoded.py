"""What decoding gives, and what the decoders of all kinds share."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

MAX_PIXELS = 178_000_000  # from the header, before anything is decoded; Pillow has the same
CODEC_MODULES = r"(PIL|pydicom|engine\.data\.(decode|dicom|dicom_grey|encapsulated|grey|headers))\b"
CODEC_WARNINGS = ("ignore", None, Warning, re.compile(CODEC_MODULES), 0)  # as `warnings` keeps it
Reserve = Callable[[int], None]  # called once with the bytes that decoding takes


class UnreadableImage(ValueError):
    """The bytes are no image that can be shown completely; the message says why."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How an image of 16-bit values was scaled that does not say how many bits it uses.

    A file that says so (a TIFF of 12 bits, DICOM's BitsStored) has none.
    """

    bits: int  # white is the largest value of so many bits
    high: int  # 99.9 % of the pixels do not exceed it
    clipped: float  # share of the pixels above white


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image and what it was."""

    pixels: np.ndarray  # uint8 [H, W], upright
    mode: str  # of the file: L, RGB, I;16, P, CMYK, DICOM, ...
    width: int  # of the whole image, upright, also where it was decoded at a reduced scale
    height: int
    depth: Depth | None = None
    facts: dict[str, str] = field(default_factory=dict)  # of a DICOM header (`header_facts`)


def ignore_codec_warnings() -> None:
    """Ignore warnings of the codecs' own modules from now on.

    Not with `catch_warnings`: it is not safe in threads, and may leave every warning ignored.
    """
    if CODEC_WARNINGS not in warnings.filters:
        logging.getLogger("pydicom").propagate = False  # it quotes values of headers: ids, dates
        warnings.filterwarnings("ignore", module=CODEC_MODULES)
