"""Archives of every kind give the images of the folder that was packed; NPZ; squash and pad."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.schema import Data
from engine.data.archive import Reader, list_files
from engine.data.decode import decode, resize
from engine.data.problems import DatasetError
from engine.data.source import Source, open_source


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((9, 7), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


FILES = {
    f"{part}/{folder}/{number}.png": png(number * 10 + at)
    for part in ("train", "val")
    for at, folder in enumerate(("NORMAL", "PNEUMONIA"))
    for number in range(3)
}


def contents(source: Source) -> dict[str, tuple[bytes, int, str | None]]:
    with source.reader() as reader:
        again: Reader = pickle.loads(pickle.dumps(reader))  # as a process gets it
        with again:
            return {r.name: (again.read(r.name), r.label, r.split) for r in source.records}


def folder(at: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(content)
    return at


def pack_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pack_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def part_of(name: str) -> dict[str, bytes]:
    return {k.removeprefix(f"{name}/"): v for k, v in FILES.items() if k.startswith(name)}


def test_archives_of_every_kind_give_what_the_folder_gives(tmp_path: Path) -> None:
    expected = contents(open_source(folder(tmp_path / "folder", FILES), Data()))
    assert len(expected) == 12
    wrapped = {f"chest/{name}": content for name, content in FILES.items()}
    pack_zip(tmp_path / "zips" / "train.zip", part_of("train"))
    pack_zip(tmp_path / "zips" / "val.zip", {f"val/{k}": v for k, v in part_of("val").items()})
    (tmp_path / "tars").mkdir()
    for name in ("train", "val"):
        pack_tar(tmp_path / "tars" / f"{name}.tar.gz", part_of(name))
    for path in (
        pack_tar(tmp_path / "a.tar.gz", FILES),
        pack_tar(tmp_path / "b.tgz", wrapped),
        pack_tar(tmp_path / "c.tar", {f"./{name}": c for name, c in FILES.items()}, "w"),
        tmp_path / "zips",
        tmp_path / "tars",
    ):
        assert contents(open_source(path, Data())) == expected, path


def test_a_table_beside_several_zips_lists_their_images(tmp_path: Path) -> None:
    names = [name for name in FILES if name.startswith("train")]
    rows = [f"{name.replace('/', '_')},{int('PNEUMONIA' in name)}" for name in names]
    (tmp_path / "metadata.csv").write_text("\n".join(["filename,label", *rows]))
    flat = {name.replace("/", "_"): FILES[name] for name in names}
    halves = [dict(list(flat.items())[at::2]) for at in (0, 1)]
    for number, half in enumerate(halves):
        pack_zip(tmp_path / f"images_{number}.zip", {f"images/{k}": v for k, v in half.items()})
    source = open_source(tmp_path, Data())
    assert Counter(record.label for record in source.records) == {0: 3, 1: 3}
    assert not any(code == "unlisted_images" for code, _ in source.warnings)
    found = contents(source)
    assert {name.rpartition("/")[2]: value[0] for name, value in found.items()} == flat


def hostile(kind: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo({"parent": "../a.png", "absolute": "/a.png"}.get(kind, "a.png"))
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("kind", "words"),
    [("parent", "leads out"), ("absolute", "leads out"), ("link", "link"), ("twice", "two memb")],
)
def test_a_hostile_tar_is_refused_in_words(tmp_path: Path, kind: str, words: str) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for _ in range(2 if kind == "twice" else 1):
            archive.addfile(hostile(kind))
    with pytest.raises(DatasetError, match=words):
        list_files(tmp_path / "a.tar.gz", 1e9)


def test_a_tar_that_is_too_large_or_damaged_is_refused_in_words(tmp_path: Path) -> None:
    bomb = pack_tar(tmp_path / "bomb.tar.gz", {"a.png": bytes(5_000_000)})
    with pytest.raises(DatasetError, match="max_unpacked_gb"):
        list_files(bomb, 4e6)
    content = pack_tar(tmp_path / "a.tar.gz", {"a.png": os.urandom(100_000)}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(content[:50_000])
    with pytest.raises(DatasetError, match="damaged"):
        list_files(tmp_path / "cut.tar.gz", 1e9)


def npz(path: Path, labels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 20), ("val", 8), ("test", 6)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    if labels is not None:
        arrays["val_labels"] = labels
    np.savez_compressed(path, **arrays)
    return arrays


def test_an_npz_gives_its_pixels_labels_and_parts(tmp_path: Path) -> None:
    arrays = npz(tmp_path / "a.npz")
    source = open_source(tmp_path / "a.npz", Data())
    assert source.label_names == ("NORMAL", "PNEUMONIA")
    assert Counter(r.split for r in source.records) == {"train": 20, "val": 8, "test": 6}
    for name, (content, label, split) in contents(source).items():
        number = int(Path(name).stem)
        np.testing.assert_array_equal(
            decode(content, name).pixels, arrays[f"{split}_images"][number]
        )
        assert label == arrays[f"{split}_labels"][number, 0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [(np.zeros((8, 14), np.uint8), "one whole number"), (np.array([{}] * 8), "pickle")],
)
def test_an_npz_with_other_labels_is_refused_in_words(
    tmp_path: Path, labels: np.ndarray, words: str
) -> None:
    npz(tmp_path / "a.npz", labels)
    with pytest.raises(DatasetError, match=words):
        open_source(tmp_path / "a.npz", Data())


def test_pneumoniamnist_as_it_is_published() -> None:
    folder = os.environ.get("PNEUMOSCOPE_DEV_DATA")
    if not folder:
        pytest.skip("PNEUMOSCOPE_DEV_DATA is not set")
    source = open_source(Path(folder) / "pneumoniamnist_dev.npz", Data())
    counts = Counter((record.split, record.label) for record in source.records)
    assert counts == {("train", 0): 1214, ("train", 1): 3494, ("val", 0): 135, ("val", 1): 389}


def test_pad_keeps_the_aspect_ratio_and_squash_fills_the_square() -> None:
    wide = np.full((30, 60), 200, np.uint8)
    assert (resize(wide, 32) == 200).all()
    padded = resize(wide, 32, "pad")
    assert padded.shape == (32, 32)
    assert (padded[8:24] == 200).all()
    assert not padded[:8].any()
    assert not padded[24:].any()
    np.testing.assert_array_equal(resize(wide.T, 32, "pad"), padded.T)
    assert resize(np.full((1, 500), 9, np.uint8), 32, "pad").max() == 9
