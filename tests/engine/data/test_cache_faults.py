"""A decode cache that is damaged, mistaken for another, contended for, or removed under a run."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config import UserError
from config.schema import Data
from engine.data import decode
from engine.data.cache import CachedImages, open_cache, room
from engine.data.cache.index import INDEX, PIXELS
from engine.data.phantoms import write_demo_dataset
from engine.data.source import Source, open_source

ROOT = Path(__file__).parents[3]
SIZE = 32
AREA = SIZE * SIZE


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(write_demo_dataset(tmp_path / "images.zip", 30, 20, size=40), Data())


def entry_of(cache: Path) -> Path:
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    return entry


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut_last_line(entry: Path) -> None:
    lines = (entry / INDEX).read_bytes().splitlines(keepends=True)
    (entry / INDEX).write_bytes(b"".join(lines[:-1]) + lines[-1][:20])


DAMAGES: dict[str, tuple[Callable[[Path], object], int]] = {  # and how many images it reaches
    "a flipped bit": (lambda e: flip(e / PIXELS, 3 * AREA + 5), 1),
    "zeroed images": (lambda e: os.pwrite(os.open(e / PIXELS, os.O_WRONLY), bytes(2 * AREA), 0), 2),
    "pixels cut short": (lambda e: os.truncate(e / PIXELS, 20 * AREA + 7), 10),
    "no pixels": (lambda e: (e / PIXELS).unlink(), 30),
    "a flipped bit in the index": (lambda e: flip(e / INDEX, 60), 1),
    "half a line": (cut_last_line, 1),
    "rubbish for an index": (lambda e: (e / INDEX).write_bytes(b"\xff\0rubbish\n" * 9), 30),
    "no index": (lambda e: (e / INDEX).unlink(), 30),
    "nothing at all": (lambda e: [path.unlink() for path in e.iterdir()], 30),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_repaired_and_reported(source: Source, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    first = open_cache(source, SIZE, cache, 1)
    expected = first.images[:]
    do, count = DAMAGES[damage]
    do(entry_of(cache))
    again = open_cache(source, SIZE, cache, 1)
    np.testing.assert_array_equal(again.images[:], expected)
    assert again.scans == first.scans
    ((code, message),) = again.warnings
    assert code == "cache_repaired"
    assert message.startswith(f"{count} images")
    assert not open_cache(source, SIZE, cache, 1).warnings


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_does_not_reach_other_data_sets(
    source: Source, tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    expected = open_cache(source, SIZE, cache, 1).images[:]
    DAMAGES[damage][0](entry_of(cache))
    copy = Path(shutil.copy(source.path, tmp_path / "copy.zip"))
    other = open_cache(open_source(copy, Data()), SIZE, cache, 1)
    np.testing.assert_array_equal(other.images[:], expected)
    assert not other.warnings


def folder_of(path: Path, grey: int, when: int) -> Path:
    """Ten images of one grey value in files of equal sizes and times."""
    (path / "images").mkdir(parents=True, exist_ok=True)
    rows = ["filename,label"]
    for number in range(10):
        image = path / "images" / f"{number}.bmp"
        Image.fromarray(np.full((40, 40), grey, np.uint8)).save(image)
        os.utime(image, ns=(when, when))
        rows.append(f"{number}.bmp,{number % 2}")
    (path / "metadata.csv").write_text("\n".join(rows))
    return path


def test_equal_names_sizes_and_times_are_not_taken_for_equal_images(tmp_path: Path) -> None:
    for grey in (10, 20):
        path = folder_of(tmp_path / str(grey), grey, 10**18)
        assert (
            open_cache(open_source(path, Data()), SIZE, tmp_path / "c", 1).images[:] == grey
        ).all()


def test_a_file_replaced_by_one_of_equal_size_and_time_is_noticed(tmp_path: Path) -> None:
    for grey in (10, 20):
        path = folder_of(tmp_path / "set", grey, 10**18)
        found = open_cache(open_source(path, Data()), SIZE, tmp_path / "cache", 1)
        assert (found.images[:] == grey).all()


def with_checksum(data: bytes, wanted: int) -> bytes:
    """The data with its last four bytes changed so that their CRC-32 is `wanted`."""
    value = zlib.crc32(data[:-4] + bytes(4)) ^ wanted
    columns = [
        (
            zlib.crc32(data[:-4] + struct.pack("<I", 1 << bit)) ^ zlib.crc32(data[:-4] + bytes(4)),
            1 << bit,
        )
        for bit in range(32)
    ]
    ending = 0
    for bit in reversed(range(32)):  # elimination: CRC-32 is linear in the bits
        pivot = next(column for column in columns if column[0] >> bit & 1)
        columns = [
            (c ^ pivot[0], e ^ pivot[1]) if c >> bit & 1 else (c, e)
            for c, e in columns
            if (c, e) != pivot
        ]
        if value >> bit & 1:
            value, ending = value ^ pivot[0], ending ^ pivot[1]
    return data[:-4] + struct.pack("<I", ending)


def test_equal_checksums_in_a_zip_are_not_taken_for_equal_images(tmp_path: Path) -> None:
    for grey in (10, 20):
        path = tmp_path / f"{grey}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for image in sorted(folder_of(tmp_path / str(grey), grey, 10**18).glob("images/*")):
                archive.writestr(f"images/{image.name}", with_checksum(image.read_bytes(), 77))
            archive.write(tmp_path / str(grey) / "metadata.csv", "metadata.csv")
            assert {m.CRC for m in archive.infolist() if m.filename.endswith("bmp")} == {77}
        images = open_cache(open_source(path, Data()), SIZE, tmp_path / "cache", 1).images
        assert abs(np.median(images[:]) - grey) < 1


def test_a_killed_process_leaves_an_index_that_continues(source: Source, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = open_cache(source, SIZE, cache, 1).images[:]
    entry = entry_of(cache)
    cut_last_line(entry)
    entry.rename(entry.with_name(entry.name + ".partial"))
    again = open_cache(source, SIZE, cache, 1)
    np.testing.assert_array_equal(again.images[:], expected)
    assert not again.warnings  # a line cut short by a kill is not damage


def test_an_entry_that_a_run_uses_is_not_evicted(source: Source, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    in_use = open_cache(source, SIZE, cache, 1)
    entry = entry_of(cache)
    limit = room.disk_usage(entry) / 1e9
    with pytest.raises(UserError, match="other runs use"):
        open_cache(source, 33, cache, limit)
    assert in_use.images[29].any()
    del in_use
    open_cache(source, 33, cache, limit)
    assert not entry.exists()


def test_pixels_that_are_cut_short_under_a_run_are_an_error_in_words(
    source: Source, tmp_path: Path
) -> None:
    images = open_cache(source, SIZE, tmp_path / "cache", 1).images
    os.truncate(entry_of(tmp_path / "cache") / PIXELS, 7 * AREA)
    assert images[[6, 0]].shape == (2, SIZE, SIZE)
    with pytest.raises(UserError, match="cut short"):
        images[[0, 7]]


def test_repair_does_not_touch_the_file_that_another_run_reads(
    source: Source, tmp_path: Path
) -> None:
    images = open_cache(source, SIZE, tmp_path / "cache", 1).images
    os.truncate(entry_of(tmp_path / "cache") / PIXELS, 7 * AREA)
    assert open_cache(source, SIZE, tmp_path / "cache", 1).images[7].any()
    with pytest.raises(UserError, match="cut short"):  # and not black images while it is repaired
        images[7]


def test_a_deleted_cache_does_not_reach_a_run_that_has_it_open(
    source: Source, tmp_path: Path
) -> None:
    images = open_cache(source, SIZE, tmp_path / "cache", 1).images
    expected = images[:]
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(images[:], expected)
    with pytest.raises(UserError, match="cannot be read"):
        pickle.loads(pickle.dumps(images))


def test_pickled_images_are_opened_again_and_not_copied(source: Source, tmp_path: Path) -> None:
    images = open_cache(source, SIZE, tmp_path / "cache", 1).images
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert isinstance(received, CachedImages)
    np.testing.assert_array_equal(received[:], images[:])


HOLD = """
import sys
from pathlib import Path
from engine.data.cache.room import preparing
with preparing(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_waiting_for_another_process_is_said_and_can_be_stopped(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    open_cache(source, SIZE, cache, 1)
    lock = next(cache.glob("*.lock"))
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(lock)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        said = ""

        def stop(done: int, total: int) -> None:
            nonlocal said
            said += capsys.readouterr().err
            if said:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            open_cache(source, SIZE, cache, 1, progress=stop)
        assert f"process {holder.pid} on" in said
        assert "waiting" in said
        threading.Timer(0.3, holder.stdin.close).start()
        assert open_cache(source, SIZE, cache, 1).images[0].any()  # when it has ended


def test_decoding_in_threads_leaves_the_warnings_of_the_process_alone(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = decode.decode

    def slowly(data: bytes, name: str, **options: object) -> decode.Decoded:
        image = original(data, name, **options)  # type: ignore[arg-type]
        time.sleep(0.001)
        return image

    monkeypatch.setattr(decode, "decode", slowly)
    for turn in range(5):
        open_cache(source, SIZE, tmp_path / str(turn), 1, workers=8)
    with pytest.raises(UserWarning, match="heard"):  # pytest makes warnings errors
        warnings.warn("heard", UserWarning, stacklevel=1)
