"""Faults in the middle of a run, each with its promised end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from config import Config, ConfigManager
from engine import run
from engine.data.phantoms import write_demo_dataset
from engine.failure import memory_hint
from engine.records import checkpoint
from engine.records.log import TRANSIENT
from engine.stream import queue
from engine.trainer import CentralizedTrainer

from .conftest import ROOT, fill, query

SMALL = {
    "system.precision": "fp32",
    "system.batch_size": 16,
    "system.num_workers": 0,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "data.image_size": 32,
    "output.keep_snapshots": "true",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)


def begin(folder: Path, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
    chosen = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
    sets = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    return start(folder, [*arguments, *sets])


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine.train", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def epochs(folder: Path) -> list[int]:
    return [row[0] for row in query(folder, "SELECT epoch FROM run_metrics ORDER BY epoch")]


def final_weights(folder: Path) -> str:
    last = folder / "output" / "checkpoints" / "run_1" / "last.pt"
    return checkpoint.checksum(checkpoint.load(last)["learner"]["model"])


def in_folder(folder: Path, **settings: Any) -> Config:
    output = {
        f"output.{key}": str(folder / "output" / name)
        for key, name in (
            ("checkpoint_dir", "checkpoints"),
            ("log_dir", "logs"),
            ("results_dir", "results"),
            ("cache_dir", "cache"),
            ("database", "pneumoscope.db"),
        )
    }
    chosen = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
    return ConfigManager.load(overrides=output | chosen, environ={})


def test_a_killed_loader_is_a_failure_that_can_be_resumed(dataset: Path, tmp_path: Path) -> None:
    process = begin(tmp_path, "--dataset", str(dataset), "--epochs", "500", system__num_workers=2)
    wait_until(lambda: len(epochs(tmp_path)) >= 2)
    loaders = psutil.Process(process.pid).children(recursive=True)
    assert len(loaders) >= 2
    for loader in loaders:
        loader.kill()
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    ((status, error),) = query(tmp_path, "SELECT status, error FROM run")
    assert status == "failed"
    assert "worker" in error
    seen = len(epochs(tmp_path))
    advice = output[output.index("try: python -m engine.train ") :].splitlines()[0]
    words = advice.partition(" continues")[0].split()[4:]
    assert words == ["--resume", "1", "--set", "system.num_workers=0"]
    again = start(tmp_path, words)
    wait_until(lambda: len(epochs(tmp_path)) > seen)
    again.terminate()
    again.communicate(timeout=180)
    found = epochs(tmp_path)
    assert found == list(range(1, len(found) + 1))


def test_images_that_vanish_after_the_preparation_are_not_missed(
    dataset: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images.zip"
    shutil.copy(dataset, images)
    process = begin(tmp_path, "--dataset", "images.zip", "--epochs", "6")
    wait_until(lambda: epochs(tmp_path))
    images.write_bytes(b"\0" * 1000)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert epochs(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_too_little_memory_names_the_batch_size_to_try(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_arguments: Any, **_options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(run, "train_one_epoch", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        CentralizedTrainer(in_folder(tmp_path, experiment__accumulate=3), "large").train(dataset)
    ((payload,),) = query(tmp_path, "SELECT payload FROM event WHERE event = 'training_failed'")
    failed = json.loads(payload)
    assert "out of memory" in failed["error"]
    assert "system.batch_size=8 and experiment.accumulate=6" in failed["hint"]
    assert "data.image_size" in memory_hint(in_folder(tmp_path, system__batch_size=1))


LEFT = (0, 20_000, 300_000, 4_000_000, 60_000_000, 120_000_000)  # bytes; a snapshot has 134 MB


@pytest.mark.parametrize(
    ("left", "seconds"),
    [(300_000, 2), *(pytest.param(left, 8, marks=pytest.mark.long) for left in LEFT)],
)
def test_a_disk_that_is_full_for_a_while_costs_nothing(
    dataset: Path, small_disk: Callable[[int], Path], left: int, seconds: float
) -> None:
    """Database, files, snapshots and log are all on that disk."""
    disk = small_disk(700 << 20)
    patient = "experiment.early_stopping_patience=500"
    process = begin(disk, "--dataset", str(dataset), "--epochs", "500", "--set", patient)
    wait_until(lambda: len(epochs(disk)) >= 2)
    filler = fill(disk, left)
    time.sleep(seconds)  # the fault's duration, not a wait for something
    assert process.poll() is None
    seen = len(epochs(disk))
    filler.unlink()
    wait_until(lambda: len(epochs(disk)) > seen + 1)
    process.terminate()
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert epochs(disk) == list(range(1, len(epochs(disk)) + 1))
    text = "SELECT json_extract(payload, '$.code') FROM event WHERE event = 'warning'"
    codes = [code for (code,) in query(disk, text)]
    assert codes.count("checkpoint_failed") == 1, output
    ((status, best_epoch),) = query(disk, "SELECT status, best_epoch FROM run")
    assert status == "stopped"
    folder = disk / "output" / "checkpoints" / "run_1"
    assert checkpoint.load(folder / "best_model.pt")["epoch"] == best_epoch
    assert checkpoint.load(folder / "last.pt")["best_epoch"] == best_epoch
    logged = "SELECT count(*) FROM event WHERE event = 'training_metrics_update'"
    assert query(disk, logged) == [(len(epochs(disk)),)]


def test_a_clock_that_steps_back_changes_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CentralizedTrainer(in_folder(tmp_path / "a", experiment__epochs=3), "a").train(dataset)
    steps: Iterator[int] = iter(range(10**6))

    class Backwards(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=next(steps))

    monkeypatch.setattr(queue, "datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: -float(next(steps)))
    found = CentralizedTrainer(in_folder(tmp_path / "b", experiment__epochs=3), "b").train(dataset)
    monkeypatch.undo()
    assert found["training_time"] > 0
    logged = query(tmp_path / "b", "SELECT event, at FROM event ORDER BY event_id")
    assert [at for _, at in logged] == sorted((at for _, at in logged), reverse=True)
    before = query(tmp_path / "a", "SELECT event FROM event ORDER BY event_id")
    assert lasting(name for name, _ in logged) == lasting(name for (name,) in before)
    assert final_weights(tmp_path / "a") == final_weights(tmp_path / "b")


def lasting(names: Iterable[str]) -> list[str]:
    """Without progress, and without checkpoints, which another thread reports when it is done."""
    return [name for name in names if name not in (*TRANSIENT, "checkpoint_saved")]


def test_a_second_sigterm_ends_at_once_and_nothing_is_lost(dataset: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    process = begin(whole, "--dataset", str(dataset), "--epochs", "4")
    assert process.wait(120) == 0
    process.communicate()
    process = begin(tmp_path, "--dataset", str(dataset), "--epochs", "4")
    wait_until(lambda: len(epochs(tmp_path)) >= 2)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)
    again = begin(tmp_path, "--resume", "1")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert epochs(tmp_path) == [1, 2, 3, 4]
    assert final_weights(tmp_path) == final_weights(whole)
