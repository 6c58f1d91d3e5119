"""One white for all 16-bit images of a data set."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.schema import Data
from engine.data import decode
from engine.data.bits import bits_in_use
from engine.data.cache import open_cache
from engine.data.cache.entry import Opened
from engine.data.source import open_source

SIDE = 32


def write_set(path: Path, images: list[np.ndarray]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            archive.writestr(f"images/{number}.png", file.getvalue())
        rows = "".join(f"{number}.png,{number % 2}\n" for number in range(len(images)))
        archive.writestr("metadata.csv", f"filename,label\n{rows}")
    return path


def some_images(count: int, high: int) -> list[np.ndarray]:
    """uint16 [SIDE, SIDE] of exposures that differ up to twofold, the brightest up to `high`."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, high * (count + n) // (2 * count), (SIDE, SIDE), dtype=np.uint16)
        for n in range(1, count + 1)
    ]


def opened(path: Path, cache: Path) -> Opened:
    return open_cache(open_source(path, Data()), SIDE, cache, 1)


@pytest.mark.parametrize("bits", [8, 12, 13, 14, 15, 16])
def test_all_images_of_a_detector_have_one_scale(tmp_path: Path, bits: int) -> None:
    images = some_images(20, (1 << bits) - 1)
    images[3][0, 0] = 65535  # a dead pixel
    found = opened(write_set(tmp_path / "set.zip", images), tmp_path / "cache")
    for row, image in enumerate(images):
        expected = (image / ((1 << bits) - 1)).clip(max=1) * 255
        np.testing.assert_allclose(np.asarray(found.images[[row]])[0], expected, atol=1)
    assert not found.warnings


def test_images_of_another_detector_are_scaled_on_their_own_and_warned_of(tmp_path: Path) -> None:
    images = [*some_images(30, 4095), some_images(1, 65535)[0]]
    found = opened(write_set(tmp_path / "set.zip", images), tmp_path / "cache")
    np.testing.assert_allclose(np.asarray(found.images[[30]])[0], images[30] / 257, atol=1)
    [(code, message)] = found.warnings
    assert code == "bits_exceeded"
    assert "1 images" in message
    assert "12 bits" in message
    assert "images/30.png" in message
    again = opened(tmp_path / "set.zip", tmp_path / "cache")  # from the cache
    assert again.warnings == found.warnings


def test_an_image_that_another_data_set_scaled_otherwise_is_decoded_again(tmp_path: Path) -> None:
    dark, bright = some_images(20, 4095), some_images(20, 65535)
    opened(write_set(tmp_path / "dark.zip", dark), tmp_path / "cache")
    both = opened(write_set(tmp_path / "both.zip", [dark[0], *bright]), tmp_path / "cache")
    np.testing.assert_allclose(np.asarray(both.images[[0]])[0], dark[0] / 257, atol=1)


def test_images_that_cannot_be_of_16_bits_are_not_decoded_for_it(tmp_path: Path) -> None:
    images = [image.astype(np.uint8) for image in some_images(20, 255)]
    source = open_source(write_set(tmp_path / "set.zip", images), Data())

    def refuse(name: str) -> decode.Depth | None:
        raise AssertionError(name)

    with source.reader() as reader:
        assert bits_in_use(reader, [record.name for record in source.records], refuse) is None


def test_images_prepared_while_others_were_unreadable_get_the_white_of_all(tmp_path: Path) -> None:
    """Decoding the large ones takes more memory than the first start allows."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    rows = ["filename,label"]
    for number in range(20):
        side, bits = (40, 12) if number < 4 else (400, 15)
        values = np.linspace(0, 2**bits - 1, side * side).astype(np.uint16).reshape(side, side)
        Image.fromarray(values).save(tmp_path / "set" / "images" / f"{number}.png")
        rows.append(f"{number}.png,{number % 2}")
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(rows))
    source = open_source(tmp_path / "set", Data())
    first = open_cache(source, 32, tmp_path / "cache", 1, memory_gb=0.004)
    assert [scan.error is None for scan in first.scans] == [True] * 4 + [False] * 16
    before = first.images[:4]
    assert before.max() > 200
    again = open_cache(source, 32, tmp_path / "cache", 1)
    expected = open_cache(source, 32, tmp_path / "fresh", 1)
    np.testing.assert_array_equal(again.images[:], expected.images[:])
    assert again.scans == expected.scans
    np.testing.assert_array_equal(first.images[:4], before)  # the first run keeps what it has
