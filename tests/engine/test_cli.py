"""What the commands share: options, limits, streams that are closed, broken or not UTF-8."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from engine import train
from engine.data.phantoms import write_demo_dataset

from .conftest import ROOT, query

SMALL = (
    "--epochs 1 --set model.backbone=resnet18 --set model.weights=none --set data.image_size=32 "
    "--set system.batch_size=16 --set system.num_workers=0"
)


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash, in which $train is the command."""
    found = {"PYTHONPATH": str(ROOT), "train": f"{sys.executable} -m engine.train", "SMALL": SMALL}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, **found, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_demo_dataset(tmp_path / "images.zip", images=60, patients=30, size=48, seed=3)
    return tmp_path


@pytest.mark.parametrize(
    ("option", "meant"), [("--datset", "--dataset"), ("--resum", "--resume"), ("--sett=1", "--set")]
)
def test_an_unknown_option_is_answered_with_the_nearest(
    option: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main([option, "x.zip"] if option != "--resum" else ["--resum", "x"])
    assert caught.value.code == 2
    assert meant in capsys.readouterr().err.splitlines()[-1]


def test_closed_streams_do_not_end_a_run(folder: Path) -> None:
    done = shell("$train --dataset images.zip $SMALL <&- >&- 2>&-", folder)
    assert done.returncode == 0
    assert query(folder, "SELECT status, total_epochs_run FROM run") == [("completed", 1)]
    assert query(folder, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_that_left_and_an_ascii_terminal_do_not_end_a_run(folder: Path) -> None:
    line = "$train --dataset images.zip --run-name $'\\xc3\\x9cbung \\xff' $SMALL 2>&1 | head -n 1"
    done = shell(f"{line}; exit ${{PIPESTATUS[0]}}", folder, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stdout
    ((name, status),) = query(folder, "SELECT run_name, status FROM run")
    assert status == "completed"
    assert name == "Übung \\udcff"
    assert done.stdout.startswith(b"run 1 '\\xdcbung ")


def test_a_path_that_is_not_utf_8_is_refused_in_words(folder: Path) -> None:
    done = shell("mv images.zip $'\\xff.zip'; $train --dataset $'\\xff.zip' $SMALL", folder)
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("limit", "value", "code", "words"),
    [
        (resource.RLIMIT_NOFILE, 32, 2, b"ulimit -n"),
        (resource.RLIMIT_AS, 1 << 30, 1, b"ulimit -v"),
    ],
)
def test_a_limit_that_is_too_low_is_named_with_a_way_out(
    folder: Path, limit: int, value: int, code: int, words: bytes
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine.train", "--dataset", "images.zip", *SMALL.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert b"Traceback" not in done.stderr
