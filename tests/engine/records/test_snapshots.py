"""Snapshots and bundles: whichever moment a kill or a full disk strikes, they belong together."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config import UserError
from engine.records import checkpoint
from engine.records.snapshots import KEYS, Snapshots

from ..conftest import ROOT, fill

Noted = list[tuple[Any, ...]]


def snapshot(epoch: int, best: int | None, uid: str = "a") -> dict[str, Any]:
    """One after `epoch`, with every key and little in it."""
    known = {"run_uid": uid, "best_epoch": best, "scores": best and f"of {best}\n"}
    return {**dict.fromkeys(KEYS), **known, "state": {"epoch": epoch + 1}}


def bundle(epoch: int, uid: str = "a", size: int = 10) -> dict[str, Any]:
    return {"run_uid": uid, "epoch": epoch, "weights": {"w": torch.full((size,), float(epoch))}}


def opened(folder: Path, uid: str = "a", noted: Noted | None = None) -> Snapshots:
    noted = [] if noted is None else noted
    return Snapshots(
        folder,
        uid,
        on_saved=lambda path, epoch, reason: noted.append((path.name, epoch, reason)),
        on_failed=lambda path, error: noted.append(("failed", path.name, error.errno)),
        scores_path=folder / "scores.csv",
    )


def trained(folder: Path, *epochs: tuple[int, int]) -> None:
    """Snapshots of a run with those (epoch, best epoch)."""
    snapshots = opened(folder)
    snapshots.begin()
    for epoch, best in epochs:
        snapshots.save(snapshot(epoch, best), bundle(epoch) if best == epoch else None, epoch, "")
        assert snapshots.finish(lambda: 0) is None


def published(folder: Path) -> tuple[int, str]:
    return checkpoint.load(folder / "best_model.pt")["epoch"], (folder / "scores.csv").read_text()


def test_the_bundle_is_published_with_its_scores_and_old_ones_are_removed(tmp_path: Path) -> None:
    noted: Noted = []
    snapshots = opened(tmp_path, noted=noted)
    snapshots.begin()
    for epoch, best in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 3)):
        snapshots.save(snapshot(epoch, best), bundle(epoch) if best == epoch else None, epoch, "e")
        assert snapshots.finish(lambda: 0) is None
        assert published(tmp_path) == (best, f"of {best}\n")
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        *("best_model.pt", "last.pt", "previous.pt", ".best_00003.pt")
    }
    assert noted[:3] == [("best_model.pt", 1, "best"), ("last.pt", 1, "e"), ("last.pt", 2, "e")]
    snapshots.discard()
    assert {path.name for path in tmp_path.iterdir()} == {"best_model.pt", "scores.csv"}


KILLED_AT_EVERY_OPERATION = """
import os, signal, sys
from pathlib import Path
from tests.engine.records.test_snapshots import bundle, opened, published, snapshot, trained

folder, moments, left = Path(sys.argv[1]), 0, set()
trained(folder, (1, 1))
while True:
    child = os.fork()
    if child == 0:
        counted = 0

        def count(event, arguments):
            global counted
            if event in ("open", "os.rename", "os.link", "os.remove"):
                if counted == moments:
                    os.kill(os.getpid(), signal.SIGKILL)
                counted += 1

        snapshots = opened(folder)
        snapshots.load()
        sys.addaudithook(count)
        snapshots.save(snapshot(2, 2), bundle(2), 2, "epoch")
        snapshots.save(snapshot(3, 2), None, 3, "epoch")
        os._exit(0 if snapshots.finish(lambda: 0) is None else 1)
    _, status = os.waitpid(child, 0)
    loaded = opened(folder).load()
    assert not loaded.warnings, (moments, loaded.warnings)
    best = loaded.state["best_epoch"]
    assert published(folder) == (best, f"of {best}\\n"), (moments, best)
    assert not list(folder.glob(".*.tmp")), moments
    left.add((loaded.state["state"]["epoch"] - 1, best))
    if status == 0:
        break
    moments += 1
    for path in folder.iterdir():
        path.unlink()
    trained(folder, (1, 1))
assert left >= {(1, 1), (3, 2)}, left
print(moments)
"""


def test_a_kill_at_every_file_operation_leaves_bundle_and_scores_of_the_best_epoch(
    tmp_path: Path,
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_OPERATION, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 10


def test_an_epoch_that_is_trained_again_and_is_no_longer_the_best_leaves_no_model(
    tmp_path: Path,
) -> None:
    trained(tmp_path, (1, 1))
    checkpoint.save(bundle(2), tmp_path / ".best_00002.pt")  # killed before its snapshot came
    again = opened(tmp_path)
    assert again.load().state["best_epoch"] == 1
    again.save(snapshot(2, 1), None, 2, "epoch")
    assert again.finish(lambda: 0) is None
    assert published(tmp_path) == (1, "of 1\n")
    assert not (tmp_path / ".best_00002.pt").exists()


def test_a_damaged_snapshot_gives_way_to_the_one_before_with_its_own_bundle(
    tmp_path: Path,
) -> None:
    trained(tmp_path, (1, 1), (2, 2))
    (tmp_path / "last.pt").write_bytes(b"half")
    loaded = opened(tmp_path).load()
    assert loaded.state["best_epoch"] == 1
    assert "last.pt" in loaded.warnings[0]
    assert published(tmp_path) == (1, "of 1\n")
    assert opened(tmp_path).load().warnings == []  # the damaged file is gone
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(UserError, match=r"last\.pt .*cannot be resumed"):
        opened(tmp_path).load()


def test_where_the_best_model_is_lost_that_is_said(tmp_path: Path) -> None:
    trained(tmp_path, (1, 1), (2, 1))
    for name in (".best_00001.pt", "best_model.pt"):
        (tmp_path / name).unlink()
    loaded = opened(tmp_path).load()
    assert loaded.state["best_epoch"] is None
    assert "best epoch, 1, is missing" in loaded.warnings[0]


def test_the_files_of_another_run_are_neither_resumed_nor_overwritten(tmp_path: Path) -> None:
    trained(tmp_path, (1, 1))
    other = opened(tmp_path, uid="b")
    with pytest.raises(UserError, match=r"uid a, not to this one \(b\)"):
        other.load()
    with pytest.raises(UserError, match=r"best_model\.pt, last\.pt of another run"):
        other.begin()
    assert published(tmp_path)[0] == 1


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    trained(tmp_path, (1, 1))
    (tmp_path / ".last.pt.77.tmp").write_bytes(b"half")
    opened(tmp_path).load()
    assert not list(tmp_path.glob(".*.tmp"))
    for name in ("last.pt", "best_model.pt"):
        (tmp_path / name).unlink()
    (tmp_path / ".last.pt.78.tmp").write_bytes(b"half")
    opened(tmp_path).begin()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_keys_of_another_version_are_named(tmp_path: Path) -> None:
    state = snapshot(1, None)
    del state["random"]
    checkpoint.save(state | {"ema": 1}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="missing: random; unknown: ema"):
        opened(tmp_path).load()


def test_a_slow_disk_never_makes_the_training_wait(tmp_path: Path) -> None:
    noted: Noted = []
    begun, done = threading.Event(), threading.Event()

    class Slow(list[tuple[Any, ...]]):
        def append(self, entry: tuple[Any, ...]) -> None:  # on the writer's thread
            noted.append(entry)
            begun.set()
            assert done.wait(60)

    snapshots = opened(tmp_path, noted=Slow())
    snapshots.begin()
    snapshots.save(snapshot(1, 1), bundle(1), 1, "epoch")
    assert begun.wait(60)
    began = time.monotonic()
    snapshots.save(snapshot(2, 2), bundle(2), 2, "epoch")
    for epoch in range(3, 8):
        snapshots.save(snapshot(epoch, 2), None, epoch, "epoch")
    assert time.monotonic() - began < 30  # the write that has begun takes 60 s
    done.set()
    assert snapshots.finish(lambda: 0) is None
    assert published(tmp_path) == (2, "of 2\n")
    written = [epoch for name, epoch, _ in noted if name == "last.pt"]
    assert written == [1, 7]  # what was still waiting was replaced by what is newer


def test_a_full_disk_is_said_once_and_written_later(
    small_disk: Callable[[int], Path],
) -> None:
    folder, noted = small_disk(4 << 20), list[tuple[Any, ...]]()
    snapshots = opened(folder, noted=noted)
    snapshots.begin()
    snapshots.save(snapshot(1, 1), bundle(1, size=100_000), 1, "epoch")
    assert snapshots.finish(lambda: 0) is None
    filler = fill(folder)
    noted.clear()
    for epoch in (2, 3, 4):
        best = bundle(3, size=100_000) if epoch == 3 else None
        snapshots.save(snapshot(epoch, 1 if epoch == 2 else 3), best, epoch, "epoch")
        snapshots._writer.join()
    assert [entry[0] for entry in noted] == ["failed"]
    assert published(folder)[0] == 1
    filler.unlink()
    snapshots.save(snapshot(5, 3), None, 5, "epoch")
    assert snapshots.finish(lambda: 0) is None
    assert published(folder) == (3, "of 3\n")
    assert opened(folder).load().state["state"]["epoch"] == 6


def test_the_end_waits_for_room(small_disk: Callable[[int], Path]) -> None:
    folder = small_disk(4 << 20)
    snapshots = opened(folder)
    snapshots.begin()
    filler = fill(folder)
    snapshots.save(snapshot(1, 1), bundle(1, size=100_000), 1, "epoch")
    assert snapshots.finish(lambda: 0) is not None
    assert not snapshots.has_best(1)
    snapshots.save(snapshot(2, 1), None, 2, "epoch")
    snapshots._writer.join()
    threading.Timer(1.0, filler.unlink).start()
    assert snapshots.finish(lambda: 60) is None
    assert snapshots.has_best(1)


def test_where_links_are_not_supported_the_bundle_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    trained(tmp_path, (1, 1), (2, 2))
    assert published(tmp_path) == (2, "of 2\n")
