"""Any image a hospital might hand over, as 8-bit grey."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

MAX_PIXELS = 178_000_000  # from the header, before anything is decoded; Pillow has the same
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")
DEFAULT_12_BIT = 4095
BAND = 1 << 18  # pixels that are made grey at a time
BAND_BYTES = 32  # that one of them takes meanwhile
CODEC_MODULES = r"(PIL|pydicom|engine\.data\.decode)\b"
CODEC_WARNINGS = ("ignore", None, Warning, re.compile(CODEC_MODULES), 0)  # as `warnings` keeps it
THUMBNAIL = 32  # side of what the perceptual hash looks at
HASH_BYTES = 32
_COSINES = np.cos(np.pi / THUMBNAIL * np.arange(16)[:, None] * (np.arange(THUMBNAIL) + 0.5))


class UnreadableImage(ValueError):
    """The bytes are no image that can be shown whole; the message says why."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A image and what it was."""

    pixels: np.ndarray  # uint8 [H, W], upright
    mode: str  # of the file: L, RGB, I;16, P, CMYK, DICOM, ...
    width: int  # of the whole image, upright, also where it was decoded at a reduced scale
    height: int


def decode(
    data: bytes,
    name: str,
    at_least: int | None = None,
    reserve: Callable[[int], None] | None = None,
) -> Decoded:
    """Decode by content, not by name. Raises UnreadableImage.

    Where `at_least` is given, a JPEG may be decoded at a reduced scale (1/2, 1/4 or 1/8 in its
    frequency domain) as long as both sides keep that many pixels. `reserve` is called with the
    bytes that decoding will take, before it takes them, and may raise UnreadableImage.
    """
    if not data:
        raise UnreadableImage("the file is empty")
    if data[128:132] == b"DICM":
        return _decode_dicom(data)
    _ignore_codec_warnings()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _decode_image(image, at_least, reserve or (lambda _: None))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(_not_an_image(data)) from None
    except Exception as error:  # a damaged file can make a codec raise nearly anything
        raise UnreadableImage(str(error) or type(error).__name__) from error


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W] -> uint8 [size, size], antialiased; the whole image, its sides made equal."""
    if pixels.shape == (size, size):
        return pixels
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0))


def perceptual_hash(pixels: np.ndarray) -> int:
    """256-bit hash of uint8 [H, W]: images that look the same differ in few bits.

    Which of the 16 x 16 lowest frequencies of a 32 x 32 thumbnail's cosine transform are above
    their median (Zauner, 2010). The usual 64 bits cannot tell one chest from another.
    """
    small = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    frequencies = _COSINES @ np.asarray(small, dtype=np.float64) @ _COSINES.T
    low = np.round(frequencies.reshape(-1)[1:], 6)  # without the mean; a flat image is all zero
    return int.from_bytes(np.packbits(np.append(low > np.median(low), False)).tobytes(), "big")


def _ignore_codec_warnings() -> None:
    """Ignore warnings of the codecs' own modules from now on.

    Not with `catch_warnings`: it is not safe in threads, and may leave every warning ignored.
    """
    if CODEC_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=CODEC_MODULES)


def _decode_image(
    image: ImageFile.ImageFile, at_least: int | None, reserve: Callable[[int], None]
) -> Decoded:
    mode = image.mode
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded"
        )
    if at_least is not None and image.format in ("JPEG", "MPO") and mode in ("L", "RGB"):
        _reduce(image, at_least)
    reserve(_memory_needed(image, width * height))
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    if orientation in (5, 6, 7, 8):  # on its side
        width, height = height, width
    return Decoded(_upright(_to_grey(image, mode), orientation), mode, width, height)


def _memory_needed(image: ImageFile.ImageFile, pixels: int) -> int:
    """Bytes that decoding takes at most; `pixels` of the whole image, `image` maybe reduced."""
    decoded = image.width * image.height
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    needed = decoded * (stored + 2)  # the grey image, and its upright copy
    needed += min(decoded, BAND) * BAND_BYTES
    if image.format == "WEBP":
        needed += pixels * 12
    elif image.format == "JPEG2000":
        needed += pixels * 5 * len(image.getbands())
    elif image.format == "TIFF":
        needed += pixels * 4  # a strip may be as large as the image
    elif "progressive" in image.info:  # keeps the frequencies of the whole image, 16 bits each
        needed += pixels * 2 * len(image.getbands())
    return needed


def _upright(grey: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror uint8 [H, W] as the EXIF orientation 1 to 8 says."""
    if orientation in (5, 6, 7, 8):
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return np.ascontiguousarray(grey)


def _reduce(image: ImageFile.ImageFile, at_least: int) -> None:
    """Ask the JPEG decoder for the smallest scale that keeps `at_least` on both sides."""
    width, height = image.size
    for scale in (8, 4, 2):
        if min(width, height) // scale >= at_least:
            image.draft("L" if image.mode == "L" else "RGB", (width // scale, height // scale))
            return


def _to_grey(image: Image.Image, mode: str) -> np.ndarray:
    """uint8 [H, W] of any mode, band by band: a copy of the whole in other modes is never held."""
    grey = np.empty((image.height, image.width), np.uint8)
    if mode == "F" or mode.startswith("I"):
        low, high = _range(image)
        for rows, band in _bands(image):
            values = np.asarray(band)
            if mode == "F":
                grey[rows] = _scale_floats(values, low, high)
            else:
                grey[rows] = _scale_integers(values.astype(np.int64), int(low), int(high))
    else:
        for rows, band in _bands(image):
            grey[rows] = np.asarray(_colour_to_grey(band, mode))
    return grey


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The image in groups of whole rows, of about BAND pixels."""
    step = max(1, BAND // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        whole = step >= image.height
        yield slice(top, bottom), image if whole else image.crop((0, top, image.width, bottom))


def _range(image: Image.Image) -> tuple[float, float]:
    """Lowest and highest finite value; of what is not finite, zero."""
    bands = (np.nan_to_num(np.asarray(b), posinf=0.0, neginf=0.0) for _, b in _bands(image))
    extremes = [(band.min(), band.max()) for band in bands]
    return float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))


def _colour_to_grey(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))  # outside the image it is dark
        image = Image.alpha_composite(black, rgba).convert("RGB")
    elif mode not in ("L", "RGB", "1"):
        image = image.convert("RGB")
    return image.convert("L")


def _scale_integers(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """16-bit values / 257; values that fill only 8 or 12 bits by those, or they would be black."""
    if low < 0:
        values, high = values - low, high - low
    top = next((limit for limit in (255, DEFAULT_12_BIT, 65535) if high <= limit), high)
    return np.rint(values * (255 / top)).astype(np.uint8)


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


def _decode_dicom(data: bytes) -> Decoded:
    """A DICOM image with rescale, window and MONOCHROME1 applied, as its viewer shows it."""
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError:
        raise UnreadableImage(
            "it is DICOM, which needs pydicom: pip install 'pneumoscope[dicom]'"
        ) from None
    _ignore_codec_warnings()  # pydicom warns of every small breach of the standard
    try:
        image = pydicom.dcmread(io.BytesIO(data))
        if int(image.Rows) * int(image.Columns) * int(image.get("NumberOfFrames", 1)) > MAX_PIXELS:
            raise UnreadableImage(f"{image.Columns} x {image.Rows} pixels are too many")
        values = image.pixel_array
        if values.ndim != 2:
            raise UnreadableImage(f"it holds {values.shape} values, not one grey image")
        values = apply_voi_lut(apply_modality_lut(values, image), image).astype(np.float64)
    except UnreadableImage:
        raise
    except Exception as error:  # pydicom raises nearly anything on a damaged file
        raise UnreadableImage(f"DICOM: {str(error).splitlines()[0]}") from error
    low, high = float(values.min()), float(values.max())
    grey = np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    if image.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 255 - grey
    return Decoded(grey, "DICOM", grey.shape[1], grey.shape[0])


def _not_an_image(data: bytes) -> str:
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "it is an HTML page, not an image"
    return "it is not an image of a known kind"
