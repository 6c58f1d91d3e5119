"""Encoded pixels within DICOM: their decoders, and their size before they take memory."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.data.decoded import UnreadableImage

if TYPE_CHECKING:
    from pydicom import Dataset

JPEG, RLE = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5"  # how the UIDs of the two kinds begin
EXTENDED = "1.2.840.10008.1.2.4.51"
RLE_GROWTH = 64  # times a run-length encoded frame can grow
RLE_UNCHECKED = 128 << 20  # bytes to which a frame may grow without being measured first
# Start of frame in JPEG of any process (ITU-T T.81, B.1.1.3) and JPEG-LS (T.87): not 0xC4, C8, CC.
FRAME_MARKERS = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def is_encoded(syntax: str) -> bool:
    """Whether files of this transfer syntax hold their pixels encoded."""
    return syntax.startswith((JPEG, RLE))


def require_decoder(syntax: str) -> None:
    """Raises UnreadableImage that names the package where nothing installed decodes `syntax`."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    if not is_encoded(syntax):
        return
    name = UID(syntax).name
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        raise UnreadableImage(f"DICOM: {name} is an encoding that nothing here reads") from None
    if not decoder.is_available:
        raise UnreadableImage(
            f"DICOM: {name} needs the package python-gdcm: pip install 'pneumoscope[dicom]'"
        )


def require_bounded(image: Dataset, syntax: str) -> None:
    """That an encoded frame decodes to the size in the header, and not to gigabytes."""
    if not is_encoded(syntax):
        return
    frame = _frame(image)
    if syntax == RLE:
        expected = int(image.Rows) * int(image.Columns) * int(image.BitsAllocated) // 8
        if len(frame) * RLE_GROWTH > RLE_UNCHECKED and _rle_size(frame) > 2 * expected:
            raise UnreadableImage("DICOM: its pixels decode to more than the image has")
        return
    size = _jpeg_size(frame) or _jpeg2000_size(frame)
    if size is not None and size != (image.Columns, image.Rows):
        raise UnreadableImage(
            f"DICOM: its pixels are {size[0]} x {size[1]}, and its header says {image.Columns} x "
            f"{image.Rows}"
        )


def needs_gdcm(image: Dataset, syntax: str) -> bool:
    """Whether it is the one encoding that GDCM decodes and pydicom does not ask it for."""
    return syntax == EXTENDED and int(image.BitsStored) > 8


def decode_extended(image: Dataset) -> np.ndarray:
    """uint16 [H, W] of JPEG Extended with 12 bits. Raises UnreadableImage."""
    try:
        import gdcm
    except ImportError:
        raise UnreadableImage(
            "DICOM: JPEG Extended of 12 bits needs the package python-gdcm: "
            "pip install 'pneumoscope[dicom]'"
        ) from None
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(_frame(image))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    encoded = gdcm.Image()
    encoded.SetNumberOfDimensions(2)
    encoded.SetDimensions((image.Columns, image.Rows, 1))
    encoded.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(image.PhotometricInterpretation)
    encoded.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(EXTENDED))
    encoded.SetTransferSyntax(syntax)
    encoded.SetPixelFormat(gdcm.PixelFormat(1, 16, int(image.BitsStored), image.HighBit, 0))
    buffer = encoded.GetBuffer()
    values = np.frombuffer((buffer or "").encode("utf-8", "surrogateescape"), "<u2")
    if values.size != image.Rows * image.Columns:
        raise UnreadableImage("DICOM: its pixels are damaged (JPEG Extended)")
    return values.reshape(image.Rows, image.Columns)


def _frame(image: Dataset) -> bytes:
    from pydicom.encaps import generate_frames

    frame: bytes = next(generate_frames(image.PixelData, number_of_frames=1))
    return frame


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG or JPEG-LS stream declares; None where it is none."""
    at = 2
    while frame.startswith(b"\xff\xd8") and at + 9 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] in FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return width, height
        if frame[at + 1] == 0xFF:  # fill before a marker
            at += 1
        else:
            at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


def _jpeg2000_size(frame: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as encoded:
            return encoded.size
    except UnidentifiedImageError:
        return None


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
