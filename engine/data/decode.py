"""Any image a hospital might hand over, as 8-bit grey."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_PIXELS = 178_000_000  # from the header, before anything is decoded; Pillow has the same
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")
DEFAULT_12_BIT = 4095
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


def decode(data: bytes, name: str, at_least: int | None = None) -> Decoded:
    """Decode by content, not by name. Raises UnreadableImage.

    Where `at_least` is given, a JPEG may be decoded at a reduced scale (1/2, 1/4 or 1/8 in its
    frequency domain) as long as both sides keep that many pixels.
    """
    if not data:
        raise UnreadableImage("the file is empty")
    if data[128:132] == b"DICM":
        return _decode_dicom(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's size warning: the limit below is ours
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _decode_image(image, at_least)
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


def _decode_image(image: ImageFile.ImageFile, at_least: int | None) -> Decoded:
    mode = image.mode
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded"
        )
    if at_least is not None and image.format in ("JPEG", "MPO") and mode in ("L", "RGB"):
        _reduce(image, at_least)
    image.load()
    turned = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # on its side
        width, height = height, width
    return Decoded(_to_grey(turned, mode), mode, width, height)


def _reduce(image: ImageFile.ImageFile, at_least: int) -> None:
    """Ask the JPEG decoder for the smallest scale that keeps `at_least` on both sides."""
    width, height = image.size
    for scale in (8, 4, 2):
        if min(width, height) // scale >= at_least:
            image.draft("L" if image.mode == "L" else "RGB", (width // scale, height // scale))
            return


def _to_grey(image: Image.Image, mode: str) -> np.ndarray:
    """uint8 [H, W] of any mode."""
    if mode.startswith("I;16") or mode == "I":
        return _scale_integers(np.asarray(image).astype(np.int64))
    if mode == "F":
        return _scale_floats(np.asarray(image, dtype=np.float32))
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))  # outside the image it is dark
        image = Image.alpha_composite(black, rgba).convert("RGB")
    elif mode not in ("L", "RGB", "1"):
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _scale_integers(values: np.ndarray) -> np.ndarray:
    """16-bit values / 257; values that fill only 8 or 12 bits by those, or they would be black."""
    low, high = int(values.min()), int(values.max())
    if low < 0:
        values, high = values - low, high - low
    top = next((limit for limit in (255, DEFAULT_12_BIT, 65535) if high <= limit), high)
    return np.rint(values * (255 / top)).astype(np.uint8)


def _scale_floats(values: np.ndarray) -> np.ndarray:
    """0..1 or 0..255 as they are, other ranges stretched; what is not finite is black."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of every small breach of the standard
            image = pydicom.dcmread(io.BytesIO(data))
            if (
                int(image.Rows) * int(image.Columns) * int(image.get("NumberOfFrames", 1))
                > MAX_PIXELS
            ):
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
