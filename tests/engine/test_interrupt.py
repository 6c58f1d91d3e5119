"""Runs that are ended from Python: Ctrl-C, a stop from a thread, an end that cannot be logged."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config import Config, ConfigManager
from engine.data.phantoms import write_demo_dataset
from engine.run import TrainingDiverged
from engine.trainer import CentralizedTrainer

from .conftest import query

SMALL = {
    "system.device": "cpu",
    "system.precision": "fp32",
    "system.batch_size": 16,
    "system.num_workers": 0,
    "experiment.epochs": 500,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "data.image_size": 32,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return ConfigManager.load(overrides=SMALL, environ={})


def when_an_epoch_is_recorded(folder: Path, act: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        deadline = time.monotonic() + 60
        while not query(folder, "SELECT 1 FROM run_metrics"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice() -> None:
    interrupt()
    time.sleep(0.01)
    interrupt()


@pytest.mark.parametrize("act", [interrupt, interrupt_twice])
def test_ctrl_c_in_python_ends_the_run_as_stopped_and_saved(
    dataset: Path, tmp_path: Path, config: Config, act: Callable[[], None]
) -> None:
    watcher = when_an_epoch_is_recorded(tmp_path, act)
    with pytest.raises(KeyboardInterrupt):
        CentralizedTrainer(config, "interrupted").train(dataset)
    watcher.join()
    ((status, epochs, error),) = query(tmp_path, "SELECT status, total_epochs_run, error FROM run")
    assert (status, error) == ("stopped", None)
    assert epochs == len(query(tmp_path, "SELECT 1 FROM run_metrics")) >= 1
    last = "SELECT event FROM event ORDER BY event_id DESC LIMIT 1"
    assert query(tmp_path, last) == [("training_stopped",)]
    assert (tmp_path / "output" / "checkpoints" / "run_1" / "last.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_the_data_are_prepared_interrupts(
    dataset: Path, tmp_path: Path, config: Config
) -> None:
    def progress(_done: int, _total: int) -> None:
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        CentralizedTrainer(config, "interrupted").prepare_data(dataset, progress)
    assert query(tmp_path, "SELECT 1 FROM run") == []


def test_a_failure_whose_log_cannot_be_written_is_recorded(
    dataset: Path, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "output" / "logs"

    def lose_the_log(x: torch.Tensor, *_: Any) -> Any:
        shutil.rmtree(logs, ignore_errors=True)
        logs.write_text("a file in place of the folder")
        return x.expand(-1, 3, -1, -1) * torch.nan

    monkeypatch.setattr("engine.data.inputs.normalise", lose_the_log)
    with pytest.raises(TrainingDiverged):
        CentralizedTrainer(config, "failed").train(dataset)
    ((status, error),) = query(tmp_path, "SELECT status, error FROM run")
    assert status == "failed"
    assert "not a finite number" in error
    assert "could not be logged" in error


def test_a_run_that_sigterm_stopped_is_resumed_by_the_same_trainer(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ConfigManager.load(overrides={**SMALL, "experiment.epochs": 12}, environ={})
    trainer = CentralizedTrainer(config, "terminated")
    watcher = when_an_epoch_is_recorded(tmp_path, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = trainer.train(dataset)
    watcher.join()
    assert stopped["status"] == "stopped"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = trainer.train(dataset, resume=True)
    assert (resumed["status"], resumed["run_id"]) == ("completed", stopped["run_id"])
