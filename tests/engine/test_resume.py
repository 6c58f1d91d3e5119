"""What can be resumed or started, with which changes, and what is refused in words."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import ConfigManager, UserError
from config.schema import RULES
from engine import train
from engine.data.phantoms import write_demo_dataset
from engine.records import checkpoint
from engine.records.database import create_run_sync, get_run_sync, metrics_sync, update_run_sync
from engine.records.resume import MAY_CHANGE
from engine.trainer import CentralizedTrainer

from .conftest import query

SMALL = {
    "system.device": "cpu",
    "system.precision": "fp32",
    "system.batch_size": 16,
    "system.num_workers": 0,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "data.image_size": 32,
}


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stop_after_an_epoch(trainer: CentralizedTrainer, folder: Path) -> threading.Thread:
    def watch() -> None:
        wait_until(lambda: query(folder, "SELECT 1 FROM run_metrics"))
        trainer.stop("test")

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of run 1, stopped after its first epochs; tests only read it."""
    folder = tmp_path_factory.mktemp("stopped")
    dataset = write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)
    before = Path.cwd()
    os.chdir(folder)
    try:
        config = ConfigManager.load(overrides={**SMALL, "experiment.epochs": 500}, environ={})
        trainer = CentralizedTrainer(config, "stopped")
        watcher = stop_after_an_epoch(trainer, folder)
        assert trainer.train(dataset)["status"] == "stopped"
        watcher.join()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def in_folder(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(stopped)
    return stopped


def row(folder: Path) -> dict[str, Any]:
    found = get_run_sync(folder / "output" / "pneumoscope.db", 1)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume", "1", "--set", "system.batch_size=8"], "only these may change: experiment.ep"),
        (["--resume", "1", "--set", "experiment.learning_rate=1"], "its own experiment.learning_r"),
        (["--resume", "1", "--run-name", "b"], "keeps its name"),
        (["--resume", "1", "--run-description", ""], "keeps its name"),
        (["--resume", "1", "--set", "output.checkpoint_dir=elsewhere"], "output.checkpoint_dir=FO"),
        (["--resume", "1", "--set", "output.results_dir=elsewhere"], "output.results_dir"),
        (["--resume", "1", "--set", "output.log_dir=elsewhere"], "output.log_dir"),
        (["--resume", "2"], "there is no run 2 in"),
        (["--resume", "1", "--set", "output.database=nowhere.db"], "there is no database nowhere"),
        (["--run-id", "1", "--set", "output.database=nowhere.db"], "there is no database nowhere"),
        (["--run-id", "1"], "continue it with --resume 1"),
    ],
)
def test_what_would_lose_or_change_a_run_is_refused(
    in_folder: Path, arguments: list[str], words: str
) -> None:
    before = row(in_folder)
    with pytest.raises(UserError, match=words):
        train.main(arguments)
    assert row(in_folder) == before
    assert not Path("nowhere.db").exists()


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted", "in_progress"])
def test_only_a_queued_run_is_started(
    stopped: Path, tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ConfigManager.load(overrides=SMALL, environ={}).absolute()
    create_run_sync(
        Path(config.output.database),
        run_name="a",
        status=status,
        config=config.to_dict(),
        dataset_path=str(stopped / "images.zip"),
    )
    with pytest.raises(UserError, match="continue it with --resume 1"):
        train.main(["--run-id", "1"])


def test_recorded_epochs_without_a_snapshot_are_not_trained_over(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stopped / "output", tmp_path / "output")
    monkeypatch.chdir(tmp_path)
    database = tmp_path / "output" / "pneumoscope.db"
    config = ConfigManager.load(overrides=SMALL, environ={}).absolute().to_dict()
    config["experiment"]["epochs"] = 500
    update_run_sync(database, 1, config=config)
    folder = tmp_path / "output" / "checkpoints" / "run_1"
    for name in ("last.pt", "previous.pt"):
        (folder / name).unlink(missing_ok=True)
    before = metrics_sync(database, 1)
    with pytest.raises(UserError, match=f"snapshot {folder / 'last.pt'} is not there"):
        train.main(["--resume", "1"])
    assert metrics_sync(database, 1) == before


def test_a_run_is_resumed_from_another_folder_with_what_may_change(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stopped, tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    database = tmp_path / "a" / "output" / "pneumoscope.db"
    done = len(metrics_sync(database, 1))
    output = tmp_path / "a" / "output"
    folders = {"checkpoint_dir": "checkpoints", "log_dir": "logs", "results_dir": "results"}
    words = ["--set", f"output.database={database}", "--set", f"output.cache_dir={tmp_path / 'c'}"]
    for key, name in folders.items():
        words += ["--set", f"output.{key}={output / name}"]
    assert train.main(["--resume", "1", "--epochs", str(done + 1), *words]) == 0
    assert [r["epoch"] for r in metrics_sync(database, 1)] == list(range(1, done + 2))
    found = get_run_sync(database, 1)
    assert found is not None
    assert found["status"] == "completed"
    assert found["config"]["experiment"]["epochs"] == done + 1
    assert f"experiment.epochs: 500 -> {done + 1}" in (output / "logs" / "run_1.log").read_text()
    assert not (tmp_path / "output").exists()
    best = checkpoint.load(output / "checkpoints" / "run_1" / "best_model.pt")
    assert best["run_uid"] == found["run_uid"]


def test_a_run_without_any_epoch_is_resumed_at_the_first(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ConfigManager.load(overrides={**SMALL, "experiment.epochs": 1}, environ={}).absolute()
    create_run_sync(
        Path(config.output.database),
        run_name="a",
        status="interrupted",
        config=config.to_dict(),
        dataset_path=str(stopped / "images.zip"),
    )
    assert train.main(["--resume", "1"]) == 0
    assert query(tmp_path, "SELECT status FROM run") == [("completed",)]
    assert query(tmp_path, "SELECT 1 FROM event WHERE payload LIKE '%it begins at epoch 1%'")


def test_what_may_change_are_keys_of_the_configuration() -> None:
    assert set(MAY_CHANGE) <= set(RULES)


def test_to_resume_needs_a_run() -> None:
    with pytest.raises(UserError, match="run_id"):
        CentralizedTrainer().train("images.zip", resume=True)
