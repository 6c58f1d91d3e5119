"""Any image a hospital might hand over, as 8-bit grey."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from engine.data.decoded import (
    MAX_PIXELS,
    Decoded,
    Depth,
    Reserve,
    UnreadableImage,
    ignore_codec_warnings,
)
from engine.data.dicom import decode_dicom
from engine.data.grey import BAND, BAND_BYTES, to_grey

__all__ = ["Decoded", "Depth", "UnreadableImage", "decode", "perceptual_hash", "resize"]

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")
THUMBNAIL = 32  # side of what the perceptual hash looks at
HASH_BYTES = 32
_COSINES = np.cos(np.pi / THUMBNAIL * np.arange(16)[:, None] * (np.arange(THUMBNAIL) + 0.5))


def decode(
    data: bytes,
    name: str,
    at_least: int | None = None,
    reserve: Reserve | None = None,
    bits: int | None = None,
    patient_key: bytes | None = None,
) -> Decoded:
    """Decode by content, not by name. Raises UnreadableImage.

    Where `at_least` is given, a JPEG may be decoded at a reduced scale (1/2, 1/4 or 1/8 in its
    frequency domain) as long as both sides keep that many pixels. `reserve` is called with the
    bytes that decoding will take, before it takes them, and may raise UnreadableImage. `bits` is
    what the 16-bit images of the data set use; by default, white is chosen for this image alone.
    With `patient_key`, what a DICOM header says of the image is given too (`headers.py`).
    """
    reserve = reserve or (lambda _: None)
    ignore_codec_warnings()
    if not data:
        raise UnreadableImage("the file is empty")
    if data[128:132] == b"DICM":
        return decode_dicom(data, reserve, bits, name, patient_key)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _decode_image(image, at_least, reserve, bits)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(_not_an_image(data)) from None
    except Exception as error:  # a damaged file can make a codec raise nearly anything
        raise UnreadableImage(str(error) or type(error).__name__) from error


def resize(pixels: np.ndarray, size: int, fit: str = "squash") -> np.ndarray:
    """uint8 [H, W] -> uint8 [size, size], antialiased; the whole image (`data.fit`).

    `squash` makes its sides equal; `pad` keeps their ratio, in the middle of black.
    """
    if pixels.shape == (size, size):
        return pixels
    height, width = pixels.shape
    scale = size / max(height, width)
    sides = (size, size)
    if fit == "pad":
        sides = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels).resize(sides, Image.Resampling.BILINEAR, reducing_gap=3.0)
    if sides == (size, size):
        return np.asarray(image)
    padded = np.zeros((size, size), np.uint8)
    left, top = (size - sides[0]) // 2, (size - sides[1]) // 2
    padded[top : top + sides[1], left : left + sides[0]] = np.asarray(image)
    return padded


def perceptual_hash(pixels: np.ndarray) -> int:
    """256-bit hash of uint8 [H, W]: images that look the same differ in few bits.

    Which of the 16 x 16 lowest frequencies of a 32 x 32 thumbnail's cosine transform are above
    their median (Zauner, 2010). The usual 64 bits cannot tell one chest from another.
    """
    small = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    frequencies = _COSINES @ np.asarray(small, dtype=np.float64) @ _COSINES.T
    low = np.round(frequencies.reshape(-1)[1:], 6)  # without the mean; a flat image is all zero
    return int.from_bytes(np.packbits(np.append(low > np.median(low), False)).tobytes(), "big")


def _decode_image(
    image: ImageFile.ImageFile, at_least: int | None, reserve: Reserve, bits: int | None
) -> Decoded:
    mode = image.mode
    width, height = image.size
    pixels = width * height
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # a tile may be larger than the image
        tile = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
        pixels = max(pixels, math.prod(int(image.tag_v2.get(tag, 0)) for tag in tile))
    if pixels > MAX_PIXELS:
        what = f"{width} x {height}" if pixels == width * height else f"tiles of {pixels:,}"
        raise UnreadableImage(f"{what} pixels are more than the {MAX_PIXELS:,} that are decoded")
    if at_least is not None and image.format in ("JPEG", "MPO") and mode in ("L", "RGB"):
        _reduce(image, at_least)
    reserve(_memory_needed(image, pixels))
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    if orientation in (5, 6, 7, 8):  # on its side
        width, height = height, width
    grey, depth = to_grey(image, mode, bits, _declared_bits(image))
    return Decoded(_upright(grey, orientation), mode, width, height, depth)


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
        needed += pixels * 4  # a strip or tile may be so large
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


def _declared_bits(image: ImageFile.ImageFile) -> int | None:
    """The bits that a 16-bit file says it uses; None where it does not say.

    PNG's sBIT is not asked: some write it beside values of so many bits, others, as the standard
    has it, beside values that are stretched to all 16.
    """
    if image.format in ("JPEG2000", "PPM"):
        return 16  # Pillow stretches them
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        return int(bits) if 0 < bits < 16 else None
    return None


def _not_an_image(data: bytes) -> str:
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "it is an HTML page, not an image"
    return "it is not an image of a known kind"
