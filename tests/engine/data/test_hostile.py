"""Data sets made to do harm, and names and files that do it by accident."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from config.schema import Data
from engine.data import zipped
from engine.data.source import DatasetError, UnreadableFile, open_source
from tests.engine.data.test_source import GOOD, IMAGES, make_folder, make_zip, problems

ROOT = Path(__file__).parents[3]


def hostile(tmp_path: Path, member: zipfile.ZipInfo | str, content: bytes = b"x") -> str:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, content)
    with pytest.raises(DatasetError) as caught:
        open_source(path, Data())
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "images/../../evil.png", "/etc/passwd", "C:/evil.png", "..\\evil.png",
     "images/con.png", "NUL"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    assert repr(name) in hostile(tmp_path, name)


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("images/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "symbolic link" in hostile(tmp_path, member, b"/etc/passwd")


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        assert "2 members have this name" in hostile(tmp_path, "images/1.png")


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"metadata.csv": GOOD.encode(), **IMAGES}.items():
            archive.writestr(name, content)
        for n in range(3):  # names in the directory alone, for the bytes of one image
            again = copy.copy(archive.filelist[-1])
            again.filename = f"images/again{n}.png"
            archive.filelist.append(again)
    with pytest.raises(DatasetError, match=r"'images/again2\.png': it shares its bytes"):
        open_source(path, Data())


def test_a_zip_in_a_zip_is_not_opened(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"images/deep.png": b"x" * 1000})
    files = {"metadata.csv": GOOD, **IMAGES, "images/inner.zip": inner.read_bytes()}
    source = open_source(make_zip(tmp_path / "set.zip", files), Data())
    assert not any("deep" in name for name in source.files)


def test_a_name_that_is_no_utf8_is_a_damaged_zip(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES, "images/\u00fc.png": b""}
    )
    path.write_bytes(path.read_bytes().replace("\u00fc".encode(), b"\xff\xfe"))
    with pytest.raises(DatasetError, match="damaged"):
        open_source(path, Data())


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match="encrypted"):
        open_source(path, Data())


def test_a_zip_that_would_unpack_past_the_limit_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.csv", GOOD)
        archive.writestr("images/bomb.png", bytes(30_000_000))
    path = tmp_path / "set.zip"
    path.write_bytes(buffer.getvalue())
    assert path.stat().st_size < 100_000
    with pytest.raises(DatasetError, match=r"data\.max_unpacked_gb"):
        open_source(path, dataclasses.replace(Data(), max_unpacked_gb=0.02))


def test_a_damaged_zip_is_reported_as_damaged(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 rubbish", os.urandom(400)):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"set\.zip"):
            open_source(path, Data())


def test_a_wrong_checksum_is_an_unreadable_image_and_not_a_crash(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    path.write_bytes(path.read_bytes().replace(b"image 3", b"image X", 1))
    source = open_source(path, Data())
    with pytest.raises(UnreadableFile, match="CRC"):
        source.read("images/3.png")


@pytest.mark.long
def test_a_hundred_thousand_tiny_members_open_in_time(tmp_path: Path) -> None:
    count = 100_000
    rows = "".join(f"P{n},{n}.png,{n % 2}\n" for n in range(count))
    files = {f"images/{n}.png": b"" for n in range(count)}
    path = make_zip(
        tmp_path / "set.zip", {"metadata.csv": f"patient_id,filename,label\n{rows}", **files}
    )
    assert len(open_source(path, Data()).records) == count


# names


@pytest.mark.parametrize("name", ["a\x1b[31m.png", "a\nb.png", "a\u2028b.png", "a\x85b.png"])
def test_control_characters_in_names_are_refused_and_escaped(tmp_path: Path, name: str) -> None:
    zipped_set = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, f"images/{name}": b"x"})
    folder = make_folder(tmp_path / "set", {"metadata.csv": GOOD, f"images/{name}": b"x"})
    for path in (zipped_set, folder):
        with pytest.raises(DatasetError, match="control characters") as caught:
            open_source(path, Data())
        assert name not in str(caught.value)
        assert repr(f"images/{name}") in str(caught.value)


@pytest.mark.parametrize("column", ["P4", "4.png", "NORMAL"])
def test_control_characters_in_cells_are_refused_and_escaped(tmp_path: Path, column: str) -> None:
    message = problems(tmp_path, GOOD.replace(column, f"{column}\x1b[2J"))
    assert "\x1b" not in message
    assert "line 6" in message or "control characters" in message


def test_a_folder_with_a_name_that_is_not_utf8_is_refused_in_words(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "set", {"metadata.csv": GOOD, **IMAGES})
    Path(os.fsdecode(os.fsencode(folder) + b"/images/caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(DatasetError, match="not valid UTF-8; rename it") as caught:
        open_source(folder, Data())
    str(caught.value).encode()


def test_what_macos_leaves_behind_is_no_reason_to_refuse(tmp_path: Path) -> None:
    files = {"metadata.csv": GOOD, **IMAGES, "images/Icon\r": b"x", "__MACOSX/._Icon\r": b"x"}
    for path in (make_zip(tmp_path / "set.zip", files), make_folder(tmp_path / "set", files)):
        assert len(open_source(path, Data()).records) == 8


def test_a_zip_with_flipped_bytes_is_read_or_refused_in_words(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    whole = path.read_bytes()
    for seed in range(500):
        chance = random.Random(seed)
        flipped = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 4, 16])):
            flipped[chance.randrange(len(whole))] = chance.choice([0, 255, chance.randrange(256)])
        path.write_bytes(flipped)
        with contextlib.suppress(DatasetError, UnreadableFile):
            source = open_source(path, Data())
            for record in source.records:
                source.read(record.name)


def test_names_of_250_characters_work(tmp_path: Path) -> None:
    name = "\u00fc" * 123 + ".png"  # 250 bytes, the longest that common file systems have is 255
    table = GOOD.replace("4.png", name)
    images = {key.replace("4.png", name): data for key, data in IMAGES.items()}
    files = {"metadata.csv": table, **images}
    for path in (make_zip(tmp_path / "set.zip", files), make_folder(tmp_path / "set", files)):
        source = open_source(path, Data())
        assert source.read(f"images/{name}") == b"image 4"


@pytest.mark.parametrize("name", ["x" * 300 + ".zip", "a\x1b.zip", "caf\udce9"])
def test_a_path_that_cannot_be_is_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        open_source(tmp_path / name, Data())
    str(caught.value).encode()


# files that are none


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "set", {"metadata.csv": GOOD, **IMAGES})
    for n in range(3):
        (folder / f"images/{n}.png").unlink()
    os.mkfifo(folder / "images/0.png")
    (folder / "images/1.png").symlink_to("/dev/zero")
    monkeypatch.chdir(folder / "images")  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("2.png")
        source = open_source(folder, Data())
        for name, what in (("0", "a pipe"), ("1", "a device"), ("2", "a socket")):
            with pytest.raises(UnreadableFile, match=f"not a file but {what}"):
                source.read(f"images/{name}.png")


def test_a_pipe_as_a_data_set_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(DatasetError, match="this is not a folder, a ZIP"):
        open_source(tmp_path / "set.zip", Data())


# memory

PEAK = """
import resource, sys
from pathlib import Path
def peak():
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    # Not getrusage: its figure begins with that of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))
"""
OPEN = f"""{PEAK}
from config.schema import Data
from engine.data.source import DatasetError, UnreadableFile, open_source
try:
    source = open_source(sys.argv[1], Data())
    print(source.read("images/0.png")[:10])
except (DatasetError, UnreadableFile) as error:
    print(error)
print(peak())
"""


def run_measured(script: str, path: Path) -> tuple[str, float]:
    """What a script says of a file in a process of its own, and its peak memory in MB."""
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    words, _, megabytes = done.stdout.rstrip().rpartition("\n")
    return words, float(megabytes)


def zeros(gigabytes: float) -> tuple[bytes, int]:
    """A deflate stream of so many zeros, and their number."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = int(gigabytes * 16)
    return piece * count + packer.flush(), count << 26


def zip_of_zeros(path: Path, name: str, gigabytes: float, declared: int | None = None) -> Path:
    """A data set of which one member is zeros; `declared` is a size that is not true."""
    stream, size = zeros(gigabytes)
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo(name)
        archive.writestr(member, stream)
        member.compress_type = zipfile.ZIP_DEFLATED
        member.file_size = size if declared is None else declared
        if name != "metadata.csv":
            archive.writestr("metadata.csv", GOOD)
        for other, content in IMAGES.items():
            if other != name:
                archive.writestr(other, content)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<H", raw, 8, zipfile.ZIP_DEFLATED)  # in the member's own header too
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("name", "declared", "words"),
    [
        ("metadata.csv", 100, "metadata.csv"),
        ("metadata.csv", None, "256 MB"),
        ("images/0.png", 100, "CRC"),
        ("images/0.png", None, "512 MB"),
    ],
)
def test_a_bomb_is_unpacked_no_further_than_allowed(
    tmp_path: Path, name: str, declared: int | None, words: str
) -> None:
    path = zip_of_zeros(tmp_path / "set.zip", name, 0.625, declared)
    assert path.stat().st_size < 3e6
    said, peak = run_measured(OPEN, path)
    assert words in said
    assert peak < (100 if declared else 900)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_cannot_be_unpacked_in_pieces_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", method) as archive:
        archive.writestr("metadata.csv", GOOD)
    with pytest.raises(DatasetError, match="make the ZIP with deflate"):
        open_source(tmp_path / "set.zip", Data())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (lambda: b"patient,filename,label\n" + b"P1,0.png,1\n" * 4_000_000, "1,000,000 rows"),
        (lambda: b"patient,filename,label\n" + b"x\n" * 1_500_000, "and 1,499,950 more"),
        (lambda: b"filename,label\n" + b"," * 100_000_000, "quotation mark"),
        (lambda: b'filename,label\n' + b'"\n",' * 10_000_000, "quotation mark"),
    ],
)  # fmt: skip
def test_a_hostile_table_takes_less_than_a_gigabyte(
    tmp_path: Path, table: Callable[[], bytes], words: str
) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("metadata.csv", table())
        archive.writestr("images/0.png", b"x")
    said, peak = run_measured(OPEN, path)
    assert words in said
    assert len(said) < 20_000
    assert peak < 1000


def test_a_zip_of_too_many_files_is_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    monkeypatch.setattr(zipped, "MAX_FILES", 8)
    with pytest.raises(DatasetError, match="more than 8 files"):
        open_source(path, Data())
