"""The decode cache: what it holds, when it decodes, and what interrupts it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from config import UserError
from config.schema import Data
from engine.data import decode
from engine.data.cache import Scan, open_cache, room
from engine.data.phantoms import write_demo_dataset
from engine.data.source import Source, open_source

ROOT = Path(__file__).parents[3]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(write_demo_dataset(tmp_path / "images.zip", 30, 20, size=40), Data())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were decoded, as they are."""
    names: list[str] = []
    original = decode.decode

    def counting(data: bytes, name: str, **options: Any) -> decode.Decoded:
        names.append(name)
        return original(data, name, **options)

    monkeypatch.setattr(decode, "decode", counting)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The images of `source`, unpacked."""
    path = write_demo_dataset(tmp_path / "to_unpack.zip", 30, 20, size=40)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    return tmp_path / "folder"


def opened(source: Source, cache: Path, size: int = 32) -> tuple[np.ndarray, list[Scan]]:
    found = open_cache(source, size, cache, 1)
    assert not found.warnings
    return found.images[:], found.scans


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_every_image_is_what_decode_and_resize_give(source: Source, tmp_path: Path) -> None:
    images, scans = opened(source, tmp_path / "cache")
    assert images.shape == (30, 32, 32)
    for row, record in enumerate(source.records):
        image = decode.decode(source.read(record.name), record.name)
        np.testing.assert_array_equal(images[row], decode.resize(image.pixels, 32))
        assert (scans[row].width, scans[row].height, scans[row].mode) == (40, 40, "L")


def test_a_second_start_decodes_nothing(source: Source, tmp_path: Path, decoded: list[str]) -> None:
    first, scans = opened(source, tmp_path / "cache")
    assert len(decoded) == 30
    again, scans_again = opened(source, tmp_path / "cache")
    assert len(decoded) == 30
    np.testing.assert_array_equal(first, again)
    assert scans == scans_again


def test_only_new_and_changed_images_are_decoded(
    folder: Path, tmp_path: Path, decoded: list[str]
) -> None:
    opened(open_source(folder, Data()), tmp_path / "cache")
    decoded.clear()
    Image.fromarray(np.full((40, 40), 77, np.uint8)).save(folder / "images/phantom_0003.png")
    os.utime(folder / "images/phantom_0004.png")  # touched, and the same
    images, _ = opened(open_source(folder, Data()), tmp_path / "cache")
    assert decoded == ["images/phantom_0003.png"]
    assert (images[3] == 77).all()


def test_a_moved_data_set_is_found_again(tmp_path: Path, decoded: list[str]) -> None:
    path = write_demo_dataset(tmp_path / "images.zip", 30, 20, size=40)
    opened(open_source(path, Data()), tmp_path / "cache")
    moved = path.rename(tmp_path / "elsewhere.zip")
    opened(open_source(moved, Data()), tmp_path / "cache")
    assert len(decoded) == 30


def test_unreadable_images_have_a_reason_and_are_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "images/phantom_0005.png").write_bytes(b"rubbish")
    source = open_source(folder, Data())
    images, scans = opened(source, tmp_path / "cache")
    assert [row for row, scan in enumerate(scans) if scan.error] == [5]
    assert not images[5].any()
    monkeypatch.setattr(  # as if what it needs had been installed meanwhile
        decode,
        "decode",
        lambda *_, **__: decode.Decoded(np.full((9, 9), 7, np.uint8), "L", 9, 9),
    )
    images, scans = opened(source, tmp_path / "cache")
    assert [scan.error for scan in scans] == [None] * 30
    assert (images[5] == 7).all()
    assert images[4].std() > 5  # the others are as they were


def test_equal_pixels_in_different_files_have_one_hash(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    image = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40).astype(np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        for name, kind in (("a.png", "PNG"), ("b.bmp", "BMP"), ("c.png", "PNG"), ("d.png", "PNG")):
            file = io.BytesIO()
            (image if name != "d.png" else image.transpose(Image.Transpose.ROTATE_90)).save(
                file, kind
            )
            archive.writestr(f"images/{name}", file.getvalue())
        archive.writestr("metadata.csv", "filename,label\na.png,1\nb.bmp,0\nc.png,1\nd.png,0\n")
    _, scans = opened(open_source(path, Data()), tmp_path / "cache")
    assert scans[0].pixels == scans[1].pixels == scans[2].pixels != scans[3].pixels
    assert scans[0].content == scans[2].content != scans[1].content


PREPARE = """
import sys
from pathlib import Path
from config.schema import Data
from engine.data import decode
from engine.data.cache import fill, open_cache
from engine.data.source import open_source

slowly = float(sys.argv[3])
original = decode.decode
def slow(*arguments, **options):
    import time
    time.sleep(slowly)
    return original(*arguments, **options)
decode.decode = slow
fill.FLUSH_EVERY = 0.05
source = open_source(sys.argv[1], Data())
found = open_cache(source, 32, Path(sys.argv[2]), 1, workers=1)
print(int(found.images[:].sum()), len(found.scans), found.warnings)
"""


def prepare(path: Path, folder: Path, slowly: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PREPARE), str(path), str(folder), str(slowly)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_preparation_is_continued(tmp_path: Path, decoded: list[str]) -> None:
    path = write_demo_dataset(tmp_path / "images.zip", 60, 30, size=40)
    folder = tmp_path / "cache"
    process = prepare(path, folder, 0.1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        index = next(iter(folder.glob("*.partial/images.jsonl")), None)
        if index is not None and index.read_text().count("\n") >= 5:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert entries(folder)[0].suffix == ".partial"
    source = open_source(path, Data())
    images, scans = opened(source, folder)
    assert 0 < len(decoded) <= 55
    assert [entry.suffix for entry in entries(folder)] == [""]
    fresh, fresh_scans = opened(source, tmp_path / "other")
    np.testing.assert_array_equal(images, fresh)
    assert scans == fresh_scans


def test_two_at_once_prepare_once(tmp_path: Path) -> None:
    path = write_demo_dataset(tmp_path / "images.zip", 30, 20, size=40)
    began = time.monotonic()
    both = [prepare(path, tmp_path / "cache", 0.05) for _ in range(2)]
    output = [process.communicate(timeout=120)[0] for process in both]
    assert output[0] == output[1] != ""
    assert [process.returncode for process in both] == [0, 0]
    assert time.monotonic() - began < 60
    assert len(entries(tmp_path / "cache")) == 1


def test_the_least_recently_used_goes_first(tmp_path: Path, source: Source) -> None:
    folder = tmp_path / "cache"
    for size in (32, 40, 48):
        opened(source, folder, size)
        time.sleep(0.02)
    opened(source, folder)  # used again
    largest = 30 * 64 * 64
    limit = sum(room.disk_usage(entry) for entry in entries(folder)) + largest - 1
    open_cache(source, 64, folder, limit / 1e9)
    sizes = {int(entry.name.partition("px")[0]) for entry in entries(folder)}
    assert sizes == {32, 48, 64}


def test_no_room_is_an_error_before_any_work(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    with pytest.raises(UserError, match=r"data\.cache_max_gb"):
        open_cache(source, 32, tmp_path / "cache", 1e-6)
    usage = room.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="are free"):
        opened(source, tmp_path / "cache")
    assert not decoded


LIMITED = """
import resource, signal, sys
from pathlib import Path
from config import UserError
from config.schema import Data
from engine.data.cache import open_cache
from engine.data.source import open_source

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source = open_source(sys.argv[1], Data())
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    open_cache(source, 32, Path(sys.argv[2]), 1)
except UserError as error:
    print(error)
"""


def test_a_disk_that_fills_up_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = write_demo_dataset(tmp_path / "images.zip", 30, 20, size=40)
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(path), str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "output.cache_dir" in done.stdout


def test_it_works_where_no_main_guard_is(tmp_path: Path) -> None:
    """Decoding must not need a process that imports the caller's script again."""
    script = tmp_path / "script.py"
    path = write_demo_dataset(tmp_path / "images.zip", 30, 20, size=40)
    script.write_text(
        "from engine.data.cache import open_cache\nfrom engine.data.source import open_source\n"
        "from config.schema import Data\nfrom pathlib import Path\n"
        f"source = open_source({str(path)!r}, Data())\n"
        "print(open_cache(source, 32, Path('cache'), 1).images.shape)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "(30, 32, 32)", done.stderr
