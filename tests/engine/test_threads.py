"""Trainings on the same cores divide them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from config.schema import System
from engine import threads
from engine.threads import Threads

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
OTHER = """
import sys, torch
from pathlib import Path
from config.schema import System
from engine.threads import Threads
torch.set_num_threads(4)
with Threads(System(), torch.device("cpu"), Path(sys.argv[1])):
    print(torch.get_num_threads(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr("engine.threads.LOOK_EVERY", 0.0)
    yield
    torch.set_num_threads(before)


def other(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_trainings_have_half_the_cores_each_until_one_is_killed(tmp_path: Path) -> None:
    with Threads(System(), CPU, tmp_path) as own:
        assert torch.get_num_threads() == 4
        with other(tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "2\n"  # it sees this one at its start
            own.balance()
            assert torch.get_num_threads() == 2
            second.kill()
        own.balance()
        assert torch.get_num_threads() == 4
    assert not (tmp_path / f"{os.getpid()}.training").exists()


def test_what_a_killed_training_left_is_removed_and_never_counted(tmp_path: Path) -> None:
    old, young = tmp_path / "1.training", tmp_path / "2.training"
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 2 * threads.YOUNG,) * 2)
    with Threads(System(), CPU, tmp_path):
        assert torch.get_num_threads() == 4
    assert not old.exists()
    assert young.exists()  # may be locked in a moment


@pytest.mark.parametrize(
    ("system", "expected"),
    [(System(threads=3), 3), (System(deterministic=True), 4), (System(threads=1), 1)],
)
def test_a_number_and_determinism_do_not_depend_on_others(
    tmp_path: Path, system: System, expected: int
) -> None:
    with Threads(System(), CPU, tmp_path / "elsewhere"), other(tmp_path) as second:
        assert second.stdout is not None
        second.stdout.readline()
        with Threads(system, CPU, tmp_path) as own:
            own.balance()
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 4
        second.kill()


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Threads(System(), CPU, tmp_path / "file" / "folder"):
        assert torch.get_num_threads() == 4
