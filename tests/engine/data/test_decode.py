"""Images of every kind, and broken ones."""

from __future__ import annotations

import csv
import io
import struct
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


@pytest.mark.parametrize("bits", [10, 13, 14, 15])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_image_of_any_detector_is_not_black(bits: int, kind: str) -> None:
    values = make_image().astype(np.uint16) << (bits - 8)
    found = decode(encoded(Image.fromarray(values), kind), "image").pixels
    np.testing.assert_allclose(found, values / ((1 << bits) - 1) * 255, atol=1)


def test_white_is_that_of_the_data_set_and_not_of_one_pixel() -> None:
    values = make_image().astype(np.uint16) * 15  # at most 3825 of 8191
    once = decode(encoded(Image.fromarray(values), "PNG"), "image", bits=13)
    np.testing.assert_allclose(once.pixels, values / 8191 * 255, atol=1)
    values[0, 0] = 65535
    again = decode(encoded(Image.fromarray(values), "PNG"), "image", bits=13)
    assert again.pixels[0, 0] == 255
    np.testing.assert_array_equal(once.pixels.ravel()[1:], again.pixels.ravel()[1:])
    assert again.depth is not None
    assert again.depth.clipped == pytest.approx(1 / values.size)


def test_an_image_of_another_detector_is_not_white_all_over() -> None:
    values = make_image().astype(np.uint16) * 257
    found = decode(encoded(Image.fromarray(values), "PNG"), "image", bits=12)
    np.testing.assert_allclose(found.pixels, make_image(), atol=1)
    assert found.depth is not None
    assert found.depth.bits == 16


def tiff_of(tags: dict[int, int], content: bytes, offset: int, count: int) -> bytes:
    """A TIFF with one strip or tile; `offset` and `count` are the tags that say where it is."""
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = sorted({**tags, offset: start, count: len(content)}.items())
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + content


def test_a_tile_far_larger_than_its_tiff_is_counted_in_its_memory() -> None:
    def tiff(side: int) -> bytes:
        tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
        return tiff_of(tags, zlib.compress(bytes(64)), offset=324, count=325)

    with pytest.raises(UnreadableImage, match="tiles of 1,073,741,824 pixels"):
        decode(tiff(32_768), "bomb.tif")
    reserved: list[int] = []
    with pytest.raises(UnreadableImage):
        decode(tiff(8192), "bomb.tif", reserve=reserved.append)
    assert reserved[0] >= 8192 * 8192


def test_a_tiff_that_says_how_many_bits_it_uses_is_believed() -> None:
    values = make_image().astype(np.uint16)  # at most 255 of 4095
    packed = bytearray()
    for first, second in values.reshape(-1, 2).tolist():
        packed += bytes((first >> 4, (first & 15) << 4 | second >> 8, second & 255))
    tags = {256: 60, 257: 40, 258: 12, 259: 1, 262: 1, 277: 1, 278: 40}
    tiff = tiff_of(tags, bytes(packed), offset=273, count=279)
    found = decode(tiff, "image.tif", bits=8)
    np.testing.assert_allclose(found.pixels, values / 4095 * 255, atol=1)
    assert found.depth is None


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


def test_the_perceptual_hash_is_near_for_the_same_image_and_far_for_others() -> None:
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
