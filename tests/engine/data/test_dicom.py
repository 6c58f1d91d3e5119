"""DICOM: windows, tables, padding, bits; what is refused, and in how much memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.decode import UnreadableImage, decode
from tests.engine.data.test_decode import encoded, make_image
from tests.engine.data.test_hostile import PEAK, ROOT

pydicom = pytest.importorskip("pydicom")


def dicom(values: np.ndarray, **tags: object) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("image.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = values.astype(f"{values.dtype.kind}2").tobytes()
    for tag, value in tags.items():
        setattr(data, tag, value)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(file, data)
    return file.getvalue()


VALUES = make_image().astype(np.uint16) * 16  # at most 4080 of 4095


def grey_of(values: np.ndarray, **tags: object) -> np.ndarray:
    return decode(dicom(values, **tags), "image.dcm").pixels


def test_without_a_window_the_scale_is_that_of_the_stored_bits() -> None:
    found = decode(dicom(VALUES), "image.dcm")
    assert found.mode == "DICOM"
    np.testing.assert_allclose(found.pixels, VALUES / 4095 * 255, atol=1)
    dim = VALUES // 16
    np.testing.assert_allclose(grey_of(dim), dim / 4095 * 255, atol=1)
    bright = dim.copy()
    bright[0, 0] = 4095
    np.testing.assert_array_equal(grey_of(bright).ravel()[1:], grey_of(dim).ravel()[1:])


def test_sixteen_stored_bits_of_which_fewer_are_used_are_scaled_as_in_a_png() -> None:
    data = dicom(VALUES, BitsStored=16, HighBit=15)
    np.testing.assert_allclose(decode(data, "a.dcm").pixels, VALUES / 4095 * 255, atol=1)
    found = decode(data, "a.dcm", bits=14)
    np.testing.assert_allclose(found.pixels, VALUES / 16383 * 255, atol=1)
    assert found.depth is not None
    assert found.depth.bits == 14


def test_signed_values_and_a_slope_keep_the_scale_of_the_stored_bits() -> None:
    signed = VALUES.astype(np.int16) - 2048
    tags = {"PixelRepresentation": 1, "RescaleSlope": 2, "RescaleIntercept": -100}
    np.testing.assert_allclose(grey_of(signed, **tags), VALUES / 4095 * 255, atol=1)


@pytest.mark.parametrize("offset", [0, 2048])
def test_signed_values_of_unknown_bits_are_not_flat(offset: int) -> None:
    signed = VALUES.astype(np.int16) - offset
    found = grey_of(signed, PixelRepresentation=1, BitsStored=16, HighBit=15)
    np.testing.assert_allclose(found, VALUES / 4095 * 255, atol=1)


def test_monochrome1_is_inverted_and_padding_is_black() -> None:
    values = VALUES.copy()
    values[:5] = 0
    plain = grey_of(values)
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(grey_of(values, **tags), 255 - plain)
    padded = grey_of(values, **tags, PixelPaddingValue=0)
    assert (padded[:5] == 0).all()
    np.testing.assert_array_equal(padded[values > 0], 255 - plain[values > 0])


def test_a_window_is_applied_after_the_rescale() -> None:
    window = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": [3000, 1],
              "WindowWidth": [1000, 1]}  # fmt: skip
    windowed = grey_of(VALUES, **window)
    rescaled = VALUES.astype(float) * 2 - 100
    assert windowed[rescaled < 2490].max() == 0
    assert windowed[rescaled > 3510].min() == 255
    middle = np.abs(rescaled - 3000) < 20
    assert np.abs(windowed[middle].astype(int) - 128).max() < 7
    for function in ("SIGMOID", "LINEAR_EXACT"):
        other = grey_of(VALUES, **window, VOILUTFunction=function)
        assert np.abs(other[middle].astype(int) - 128).max() < 12


def test_a_lookup_table_is_applied_before_a_window() -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table.add_new("LUTData", "US", [4095 - value for value in range(4096)])
    found = grey_of(VALUES, VOILUTSequence=[table], WindowCenter=10, WindowWidth=10)
    np.testing.assert_allclose(found, 255 - VALUES / 4095 * 255, atol=1)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
        ({"BitsAllocated": 64}, "64 bits"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000"),
    ],
)
def test_what_is_no_single_grey_image_is_refused_in_words(
    tags: dict[str, object], words: str
) -> None:
    with pytest.raises(UnreadableImage, match=words):
        decode(dicom(VALUES, **tags), "image.dcm")


def encapsulated(values: np.ndarray, frame: bytes, syntax: str) -> bytes:
    data = pydicom.dcmread(io.BytesIO(dicom(values, BitsAllocated=8, BitsStored=8, HighBit=7)))
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = pydicom.encaps.encapsulate([frame])
    data["PixelData"].VR = "OB"
    file = io.BytesIO()
    data.save_as(file)
    return file.getvalue()


def test_a_jpeg_within_is_decoded_where_its_size_is_that_of_the_header() -> None:
    jpeg = encoded(Image.fromarray(make_image()), "JPEG", quality=95)
    found = decode(encapsulated(make_image(), jpeg, "1.2.840.10008.1.2.4.50"), "a.dcm").pixels
    assert np.abs(found.astype(int) - make_image()).mean() < 5
    large = encoded(Image.new("L", (6000, 6000)), "JPEG")
    with pytest.raises(UnreadableImage, match="6000 x 6000, and its header says 60 x 40"):
        decode(encapsulated(make_image(), large, "1.2.840.10008.1.2.4.50"), "a.dcm")


def rle(segment: bytes) -> bytes:
    return struct.pack("<16I", 1, 64, *[0] * 14) + segment


def test_run_length_encoded_pixels_are_decoded_and_no_bomb_is() -> None:
    values = np.full((40, 64), 77, np.uint8)
    good = rle(bytes((193, 77)) * 40)  # a run of 64 a row
    found = decode(encapsulated(values, good, "1.2.840.10008.1.2.5"), "a.dcm").pixels
    assert (found == 77).all()
    bomb = rle(bytes((129, 77)) * 1_100_000)  # 140 MB
    with pytest.raises(UnreadableImage, match="decode to more than"):
        decode(encapsulated(values, bomb, "1.2.840.10008.1.2.5"), "a.dcm")


def deflated(values: np.ndarray, surplus: int = 0) -> bytes:
    """A file whose data set is deflated, with so many megabytes of zeros in it."""
    plain, syntax = dicom(values), b"1.2.840.10008.1.2.1.99"
    start = plain.index(struct.pack("<HH", 0x0028, 0x0002))  # the first element of the data set
    short = b"UI" + struct.pack("<H", 20) + syntax[:19] + b"\0"
    meta = plain[:start].replace(short, b"UI" + struct.pack("<H", 22) + syntax)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(plain[start:])
    if surplus:
        private = struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"OB", 0, surplus << 20)
        packed += packer.compress(private) + packer.flush(zlib.Z_FULL_FLUSH)
        packed += (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)) * surplus
    return meta + packed + packer.flush()


DECODE = f"""{PEAK}
from engine.data.decode import UnreadableImage, decode
try:
    print(decode(Path(sys.argv[1]).read_bytes(), "a.dcm").pixels.shape)
except UnreadableImage as error:
    print(error)
print(peak())
"""


def test_a_deflated_file_is_inflated_no_further_than_allowed(tmp_path: Path) -> None:
    np.testing.assert_array_equal(decode(deflated(VALUES), "a.dcm").pixels, grey_of(VALUES))
    path = tmp_path / "bomb.dcm"
    path.write_bytes(deflated(VALUES, surplus=700))
    assert path.stat().st_size < 4_000_000
    command = [sys.executable, "-c", DECODE, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    words, peak = done.stdout.splitlines()
    assert "inflates to more than" in words
    assert float(peak) < 300


def test_a_damaged_dicom_is_unreadable() -> None:
    data = dicom(make_image().astype(np.uint16))
    with pytest.raises(UnreadableImage, match="DICOM"):
        decode(data[: len(data) // 2], "image.dcm")
