"""The file format: complete or absent, verified, and free of code."""

from __future__ import annotations

import gzip
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import UserError
from engine.records import checkpoint

from ..conftest import fill

FIXTURES = Path(__file__).parent / "fixtures"
STATE: dict[str, Any] = {
    "model": {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)},
    "epoch": 4,
    "loss": 0.25,
    "list": [1, "a", None],
}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint.save(STATE, tmp_path / "a" / "last.pt")
    loaded = checkpoint.load(tmp_path / "a" / "last.pt")
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert loaded["epoch"] == 4
    assert loaded.pop("format") == checkpoint.FORMAT
    assert checkpoint.checksum(loaded) == checkpoint.checksum(STATE)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["last.pt"]


@pytest.mark.parametrize("cut", [0, 10, 500, -200])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"last\.pt"):
        checkpoint.load(path)


def test_no_flipped_byte_passes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(150):
        place = generator.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            loaded = checkpoint.load(path)
        except UserError:
            continue
        del loaded["format"]
        # A flip in the archive's padding changes nothing that is read.
        assert checkpoint.checksum(loaded) == checkpoint.checksum(STATE)


@pytest.mark.parametrize("free", [0, 4096, 60_000, 150_000, 190_000])
def test_a_full_disk_is_an_oserror_and_leaves_the_old_file_alone(
    small_disk: Callable[[int], Path], free: int
) -> None:
    folder = small_disk(1 << 20)
    path = folder / "last.pt"
    checkpoint.save({"epoch": 1}, path)
    fill(folder, leave=free)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save({"w": torch.zeros(50_000)}, path, keep=folder / "previous.pt")
    assert checkpoint.load(path)["epoch"] == 1
    assert sorted(p.name for p in folder.iterdir()) == ["filler", "last.pt"]


def test_a_limit_on_file_sizes_is_an_oserror_too(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.save({"w": torch.zeros(50_000)}, tmp_path / "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_newer_format_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    checkpoint.save(STATE, tmp_path / "last.pt")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"last\.pt has format 3, .* reads formats 1 to 2"):
        checkpoint.load(tmp_path / "last.pt")


def test_files_of_the_first_version_are_verified_too(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    content = bytearray(gzip.decompress((FIXTURES / "format1_best_model.pt.gz").read_bytes()))
    path.write_bytes(content)
    assert checkpoint.load(path)["format"] == 1
    content[20_000_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best_model\.pt"):
        checkpoint.load(path)


def test_a_pickle_that_executes_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "pwned").write_text, ("x",))

    torch.save({"model": Bomb(), "checksum": ""}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="safely"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_every_random_generator_continues_where_it_was(tmp_path: Path) -> None:
    device = torch.device("cpu")
    checkpoint.save(checkpoint.random_state(device), tmp_path / "r.pt")

    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    first = draw()
    checkpoint.set_random_state(checkpoint.load(tmp_path / "r.pt"), device)
    assert draw() == first


def test_a_staged_copy_does_not_follow_later_steps() -> None:
    weights = torch.zeros(3)
    staged = checkpoint.Staged({"a": [weights], "b": {"same": weights}})
    weights += 1
    copy = staged.state()
    assert copy["a"][0].tolist() == [0, 0, 0]
    assert copy["b"]["same"] is copy["a"][0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_staging_from_a_gpu_waits_for_nothing_and_keeps_the_old_values() -> None:
    weights = [torch.full((1 << 18,), float(i), device="cuda") for i in range(50)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        staged = checkpoint.Staged({"weights": weights})
        for tensor in weights:
            tensor += 100
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for i, copy in enumerate(staged.state()["weights"]):
        assert copy.device.type == "cpu"
        assert copy.unique().tolist() == [i]
