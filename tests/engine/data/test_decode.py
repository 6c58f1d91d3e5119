"""Every image a hospital might hand over, and every broken one."""

from __future__ import annotations

import csv
import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.data.decode import UnreadableImage, decode, perceptual_hash, resize

BROKEN = {"truncated.jpeg", "truncated.png", "empty.jpeg", "html.jpeg"}


def make_image(width: int = 60, height: int = 40) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return ((x * 3 + y * 2) % 256).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_the_messy_folder_gives_what_its_notes_promise(dev_data: Path) -> None:
    folder = dev_data / "messy"
    with (folder / "NOTES.csv").open(newline="", encoding="utf-8") as file:
        notes = {row["file"]: row["expected"] for row in csv.DictReader(file)}
    assert len(notes) == 24
    for name, expected in notes.items():
        data = (folder / "images" / name).read_bytes()
        if name in BROKEN:
            assert "unreadable" in expected
            with pytest.raises(UnreadableImage, match=r"\w"):
                decode(data, name)
            continue
        pixels = decode(data, name).pixels
        assert pixels.dtype == np.uint8, name
        assert pixels.ndim == 2, name
        if name != "black.png":
            assert pixels.std() > 5, name
            assert pixels.max() > 100, name


def test_messy_images_look_like_their_originals(dev_data: Path) -> None:
    folder = dev_data / "messy"
    with (folder / "NOTES.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with zipfile.ZipFile(dev_data / "chest_xray_dev.zip") as archive:
        for row in rows:
            name = row["file"]
            if name in BROKEN or name in ("inverted.jpeg", "black.png"):
                continue
            original = decode(archive.read(f"images/{row['made_from_dev_set']}"), name).pixels
            found = decode((folder / "images" / name).read_bytes(), name).pixels
            side = 8 if name == "tiny.png" else 64
            one = resize(original, side).astype(float).ravel()
            other = resize(found, side).astype(float).ravel()
            least = 0.7 if name in ("one_bit.png", "rgba_half.png") else 0.97
            assert np.corrcoef(one, other)[0, 1] > least, name


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(make_image()), "PNG"),
        (Image.fromarray(make_image()), "BMP"),
        (Image.fromarray(make_image()), "TIFF"),
        (Image.fromarray(make_image()).convert("RGB"), "PNG"),
        (Image.fromarray(make_image()).convert("RGBA"), "PNG"),
        (Image.fromarray(make_image()).convert("LA"), "PNG"),
        (Image.fromarray(make_image().astype(np.uint16) * 257), "PNG"),
        (Image.fromarray(make_image().astype(np.int32) * 257), "TIFF"),
        (Image.fromarray(make_image().astype(np.float32) / 255), "TIFF"),
        (Image.fromarray(make_image().astype(np.float32)), "TIFF"),
        (Image.fromarray(make_image()).convert("P"), "PNG"),
        (Image.fromarray(make_image()).convert("P"), "GIF"),
    ],
)
def test_every_lossless_kind_gives_the_same_grey(image: Image.Image, kind: str) -> None:
    found = decode(encoded(image, kind), f"image.{kind.lower()}")
    np.testing.assert_allclose(found.pixels.astype(int), make_image().astype(int), atol=1)
    assert (found.width, found.height) == (60, 40)


def test_twelve_bits_in_sixteen_are_not_black() -> None:
    values = (make_image().astype(np.uint16) * 16).clip(0, 4095)
    found = decode(encoded(Image.fromarray(values), "PNG"), "image.png").pixels
    np.testing.assert_allclose(found.astype(int), values / 4095 * 255, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_upright(orientation: int) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = Image.fromarray(make_image())
    stored = image.transpose(back) if back is not None else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(stored, "PNG", exif=exif), "image.png")
    np.testing.assert_array_equal(found.pixels, make_image())
    assert (found.width, found.height) == (60, 40)


def test_reduced_decoding_keeps_enough_and_looks_the_same() -> None:
    smooth = Image.fromarray(make_image()).resize((1200, 900), Image.Resampling.BICUBIC)
    data = encoded(smooth.convert("RGB"), "JPEG", quality=95)
    whole, reduced = decode(data, "a.jpg"), decode(data, "a.jpg", at_least=200)
    assert min(reduced.pixels.shape) >= 200
    assert reduced.pixels.size < whole.pixels.size
    assert (reduced.width, reduced.height) == (whole.width, whole.height) == (1200, 900)
    one, other = resize(whole.pixels, 200).astype(int), resize(reduced.pixels, 200).astype(int)
    assert np.abs(one - other).mean() < 2


def test_a_header_of_thirty_gigapixels_costs_nothing() -> None:
    header = struct.pack(">IIBBBBB", 200_000, 150_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n"
    for part in (chunk, b"IDATxx"):
        data += struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    with pytest.raises(UnreadableImage, match="30000000000 pixels"):
        decode(data, "bomb.png")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_are_decoded_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]))
    raw = bytearray(encoded(Image.fromarray(make_image()), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(raw), "image")
    except UnreadableImage:
        return
    assert found.pixels.dtype == np.uint8
    assert found.pixels.ndim == 2


def test_the_perceptual_hash_knows_a_image_again_and_no_other() -> None:
    rng = np.random.default_rng(0)

    def some_image() -> Image.Image:
        small = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
        return small.resize((300, 260), Image.Resampling.BICUBIC)

    one, other = some_image(), some_image()
    mark = perceptual_hash(np.asarray(one))
    again = decode(encoded(one.resize((200, 180)), "JPEG", quality=70), "a.jpg").pixels
    assert (mark ^ perceptual_hash(again)).bit_count() <= 15
    assert (mark ^ perceptual_hash(np.asarray(other))).bit_count() > 50
    assert perceptual_hash(np.zeros((30, 30), np.uint8)) == perceptual_hash(
        np.full((20, 20), 90, np.uint8)
    )


def dicom(values: np.ndarray, **tags: object) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("image.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = values.astype(np.uint16).tobytes()
    for tag, value in tags.items():
        setattr(data, tag, value)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(file, data)
    return file.getvalue()


def test_dicom_with_window_slope_and_inversion() -> None:
    values = make_image().astype(np.uint16) * 16
    plain = decode(dicom(values), "image.dcm")
    assert plain.mode == "DICOM"
    span = values.astype(float) - values.min()
    np.testing.assert_allclose(plain.pixels, span / span.max() * 255, atol=1)
    inverted = decode(dicom(values, PhotometricInterpretation="MONOCHROME1"), "image.dcm")
    np.testing.assert_allclose(inverted.pixels, 255 - plain.pixels.astype(int), atol=1)
    window = {
        "RescaleSlope": 2,
        "RescaleIntercept": -100,
        "WindowCenter": 3000,
        "WindowWidth": 1000,
    }
    windowed = decode(dicom(values, **window), "image.dcm").pixels
    rescaled = values.astype(float) * 2 - 100
    assert windowed[rescaled < 2490].max() == 0
    assert windowed[rescaled > 3510].min() == 255


def test_a_damaged_dicom_is_unreadable() -> None:
    data = dicom(make_image().astype(np.uint16))
    with pytest.raises(UnreadableImage, match="DICOM"):
        decode(data[: len(data) // 2], "image.dcm")
