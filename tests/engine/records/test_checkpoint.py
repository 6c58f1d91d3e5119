"""Checkpoints: whole or not at all, verified, and free of code."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import UserError
from engine.records import checkpoint

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
        # A flip in the archive's padding changes nothing that is read.
        assert checkpoint.checksum(loaded) == checkpoint.checksum(STATE)


def test_the_one_before_is_used_where_the_last_is_damaged(tmp_path: Path) -> None:
    for epoch in (1, 2):
        checkpoint.save({"epoch": epoch}, tmp_path / "last.pt", keep=tmp_path / "previous.pt")
    assert checkpoint.load_last(tmp_path)["epoch"] == 2
    (tmp_path / "last.pt").write_bytes(b"half")
    assert checkpoint.load_last(tmp_path)["epoch"] == 1
    (tmp_path / "last.pt").unlink()
    assert checkpoint.load_last(tmp_path)["epoch"] == 1


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save({"epoch": 1}, path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save({"epoch": 2}, path, keep=tmp_path / "previous.pt")
    assert checkpoint.load(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_pickle_that_executes_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "pwned").write_text, ("x",))

    torch.save({"model": Bomb(), "checksum": ""}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="safely"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_every_random_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    device = torch.device("cpu")
    checkpoint.save(checkpoint.random_state(device), tmp_path / "r.pt")

    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    first = draw()
    checkpoint.set_random_state(checkpoint.load(tmp_path / "r.pt"), device)
    assert draw() == first


def test_a_copy_on_the_host_does_not_follow_later_steps() -> None:
    weights = torch.zeros(3)
    copy = checkpoint.to_host({"a": [weights]})
    weights += 1
    assert copy["a"][0].tolist() == [0, 0, 0]


def test_the_writer_keeps_order_and_hands_on_errors() -> None:
    writer, done = checkpoint.CheckpointWriter(), []
    for number in range(3):
        writer.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    writer.wait()
    assert done == [0, 1, 2]

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer.submit(fail)
    with pytest.raises(OSError, match="No space"):
        writer.wait()
    writer.wait()
