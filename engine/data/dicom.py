"""DICOM images as 8-bit grey, as a viewer shows them, with what their headers say."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

from engine.data.decoded import MAX_PIXELS, Decoded, Reserve, UnreadableImage
from engine.data.dicom_grey import stored_to_grey
from engine.data.encapsulated import (
    decode_extended,
    is_encoded,
    needs_gdcm,
    require_bounded,
    require_decoder,
)
from engine.data.headers import header_facts

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 132  # bytes before the first element
MAX_INFLATED = 512 << 20  # bytes of a deflated file
DEFLATED = "1.2.840.10008.1.2.1.99"
GREY = ("MONOCHROME1", "MONOCHROME2")
HEADER = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
LONGEST = 300  # characters of pydicom's words


def decode_dicom(
    data: bytes,
    reserve: Reserve,
    bits: int | None = None,
    name: str = "",
    patient_key: bytes | None = None,
) -> Decoded:
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
        require_decoder(syntax)
        if syntax != DEFLATED:
            reserve(len(data) + pixels * _bytes_a_pixel(header, syntax))
        image = pydicom.dcmread(io.BytesIO(data))
        require_bounded(image, syntax)
        stored = decode_extended(image) if needs_gdcm(image, syntax) else image.pixel_array
        grey, depth = stored_to_grey(image, stored, bits)
        facts = header_facts(image, name, patient_key) if patient_key is not None else {}
    except UnreadableImage:
        raise
    except Exception as error:  # pydicom raises nearly anything on a damaged file
        words = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"DICOM: {words[:LONGEST]}") from error
    return Decoded(grey, "DICOM", grey.shape[1], grey.shape[0], depth, facts)


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
    if "Rows" not in header:
        raise UnreadableImage("DICOM: it holds no image (a report, a plan, or another object)")
    kind = str(header.get("PhotometricInterpretation") or GREY[1])
    if int(header.get("SamplesPerPixel", 1)) != 1 or kind not in GREY:
        raise UnreadableImage(f"DICOM: it holds a colour image ({kind}), not a grey one")
    if int(header.BitsAllocated) not in (1, 8, 16, 32):
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
    stored = max(1, int(header.BitsAllocated) // 8)
    return (2 * stored + 4 if is_encoded(syntax) else stored) + 1
