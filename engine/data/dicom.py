"""DICOM images as 8-bit grey, as a viewer shows them: rescaled, windowed, inverted, unpadded."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.data.decoded import MAX_PIXELS, Decoded, Depth, Reserve, UnreadableImage
from engine.data.grey import BAND, OTHER_DETECTOR, VALUES, choose_depth, count_values

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 132  # bytes before the first element
MAX_INFLATED = 512 << 20  # bytes of a deflated file
RLE_GROWTH = 64  # times a run-length encoded frame can grow
RLE_UNCHECKED = 128 << 20  # bytes to which a frame may grow without being measured first
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
HEADER = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
LONGEST = 300  # characters of pydicom's words


def decode_dicom(data: bytes, reserve: Reserve, bits: int | None = None) -> Decoded:
    """Arguments as for `decode`. Raises UnreadableImage."""
    try:
        import pydicom
    except ImportError:
        raise UnreadableImage(
            "it is DICOM, which needs pydicom: pip install 'pneumoscope[dicom]'"
        ) from None
    try:
        syntax, start = _transfer_syntax(data)
        if syntax == DEFLATED:
            size = _inflated_size(data[start:])
            reserve(len(data) + 5 * size)
            data = _inflate(data, start)
        header = pydicom.dcmread(
            io.BytesIO(data), stop_before_pixels=True, specific_tags=list(HEADER)
        )
        pixels = _require_one_grey_image(header)
        if syntax != DEFLATED:
            reserve(len(data) + pixels * _bytes_a_pixel(header, syntax))
        image = pydicom.dcmread(io.BytesIO(data))
        _require_bounded(image, syntax)
        grey, depth = _to_grey(image, image.pixel_array, bits)
    except UnreadableImage:
        raise
    except Exception as error:  # pydicom raises nearly anything on a damaged file
        words = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"DICOM: {words[:LONGEST]}") from error
    return Decoded(grey, "DICOM", grey.shape[1], grey.shape[0], depth)


def _transfer_syntax(data: bytes) -> tuple[str, int]:
    """Its UID, and where the data set begins after the group of file information."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(data)
    file.seek(PREAMBLE)
    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2
    )
    return str(meta.get("TransferSyntaxUID", "")), file.tell()


def _inflated_size(packed: bytes) -> int:
    """Bytes of a deflate stream, without holding them. Raises UnreadableImage above the limit."""
    unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while packed and not unpacker.eof:
        size += len(unpacker.decompress(packed, 1 << 20))
        packed = unpacker.unconsumed_tail
        if size > MAX_INFLATED:
            raise UnreadableImage(f"DICOM: it inflates to more than {MAX_INFLATED / 1e6:.0f} MB")
    return size


def _inflate(data: bytes, start: int) -> bytes:
    """The same file, not deflated."""
    plain = DEFLATED[: DEFLATED.rindex(".")].ljust(len(DEFLATED), "\0")
    head = data[:start].replace(DEFLATED.encode(), plain.encode())
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    return head + unpacker.decompress(data[start:], MAX_INFLATED)


def _require_one_grey_image(header: Dataset) -> int:
    """Its number of pixels."""
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise UnreadableImage(f"DICOM: it holds {frames} frames, not one image")
    if int(header.get("SamplesPerPixel", 1)) != 1:
        kind = header.get("PhotometricInterpretation", "colour")
        raise UnreadableImage(f"DICOM: it holds a colour image ({kind}), not a grey one")
    if int(header.BitsAllocated) not in (8, 16):
        raise UnreadableImage(f"DICOM: it has {header.BitsAllocated} bits a pixel, not 8 or 16")
    pixels = int(header.Rows) * int(header.Columns)
    if pixels > MAX_PIXELS:
        raise UnreadableImage(
            f"{header.Columns} x {header.Rows} pixels are more than the {MAX_PIXELS:,} that are "
            "decoded"
        )
    return pixels


def _bytes_a_pixel(header: Dataset, syntax: str) -> int:
    """Bytes that decoding holds for each pixel: stored once or more, and its grey."""
    stored = int(header.BitsAllocated) // 8
    encoded = syntax.startswith(("1.2.840.10008.1.2.4.", RLE))
    return (2 * stored + 4 if encoded else stored) + 1


def _require_bounded(image: Dataset, syntax: str) -> None:
    """That an encoded frame decodes to the size in the header, and not to gigabytes."""
    from pydicom.encaps import generate_frames

    if not syntax.startswith(("1.2.840.10008.1.2.4.", RLE)):
        return
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    if syntax == RLE:
        expected = int(image.Rows) * int(image.Columns) * int(image.BitsAllocated) // 8
        if len(frame) * RLE_GROWTH > RLE_UNCHECKED and _rle_size(frame) > 2 * expected:
            raise UnreadableImage("DICOM: its pixels decode to more than the image has")
        return
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as encoded:
            if encoded.size != (image.Columns, image.Rows):
                raise UnreadableImage(
                    f"DICOM: its pixels are {encoded.width} x {encoded.height}, and its header "
                    f"says {image.Columns} x {image.Rows}"
                )
    except UnidentifiedImageError:
        pass  # JPEG-LS, for one, which other decoders of pydicom read


def _rle_size(frame: bytes) -> int:
    """Bytes that run-length encoded segments decode to (DICOM PS3.5, annex G)."""
    size, at = 0, 64  # after the table of the segments
    while at < len(frame):
        length = frame[at] + 1
        if length > 129:
            size, at = size + 258 - length, at + 2
        else:
            size, at = size + length % 129, at + 1 + length % 129
    return size


def _to_grey(
    image: Dataset, stored: np.ndarray, bits: int | None
) -> tuple[np.ndarray, Depth | None]:
    """uint8 [H, W] through a table of all stored values: the image is never held in floats."""
    if stored.ndim != 2 or stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        raise UnreadableImage(f"DICOM: it holds {stored.dtype} {stored.shape}, no grey image")
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
    if image.get("PhotometricInterpretation") == "MONOCHROME1":
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
