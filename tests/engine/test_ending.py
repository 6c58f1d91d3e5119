"""The end of a run: the test part, what is kept and removed, and a disk that is full then."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import UserError
from engine import ending, metrics, trainer
from engine.data.phantoms import write_demo_dataset
from engine.data.prepare import prepare
from engine.inference import bundle
from engine.model.resnet import build_model
from engine.records import checkpoint
from engine.run import Run
from engine.stop import StopRequest
from engine.stream.events import EpochMetrics, Event, TrainingProgress
from engine.trainer import CentralizedTrainer
from engine.training import progress

from .conftest import fill, query
from .test_faults import in_folder, wait_until


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)


def test_the_test_part_is_scored_once_with_the_kept_weights(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = in_folder(tmp_path, experiment__epochs=2, system__test_split=0.2)
    results = CentralizedTrainer(config, "tested").train(dataset)
    folder = tmp_path / "output" / "results"
    with (folder / "scores_test_1.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    scores = np.array([float(row["score"]) for row in table])
    labels = np.array([int(row["label"]) for row in table])
    content = bundle.load(Path(results["best_model_path"]))
    point = content["operating_points"][content["default_operating_point"]]
    expected = metrics.summary(scores, labels, point["threshold"])
    stored = json.loads((folder / "result_1.json").read_text())["test"]
    for name in ("recall", "specificity", "auroc"):
        assert stored[name] == pytest.approx(expected[name]) == results["test"][name]
        low, high = stored["intervals"][name]  # by patient
        assert low <= stored[name] <= high
    assert stored["patients"] < stored["count"]
    assert content["metrics"]["test"]["recall"] == stored["recall"]
    assert len(table) == stored["count"] == results["test"]["count"] > 0
    logged = query(tmp_path, "SELECT payload FROM event WHERE event = 'training_complete'")
    assert json.loads(logged[0][0])["test"]["recall"] == pytest.approx(stored["recall"])
    printed = capsys.readouterr().out
    assert f"on the test part: accuracy {stored['accuracy']:.4f} (" in printed
    assert f"On the {stored['count']} images of {stored['patients']} patients" in printed
    assert "which chose nothing" in printed


def test_without_a_test_part_there_is_nothing_of_it(dataset: Path, tmp_path: Path) -> None:
    config = in_folder(tmp_path, experiment__epochs=1)
    assert "test" not in CentralizedTrainer(config, "untested").train(dataset)
    assert not (tmp_path / "output" / "results" / "scores_test_1.csv").exists()


def test_a_completed_run_keeps_its_model_and_nothing_to_resume(
    dataset: Path, tmp_path: Path
) -> None:
    config = in_folder(tmp_path, experiment__epochs=2, output__keep_snapshots=False)
    stopped = CentralizedTrainer(config, "done")
    stopped.prepare_data(dataset)
    stopped.stop()
    assert stopped.train(dataset)["status"] == "stopped"
    folder = tmp_path / "output" / "checkpoints" / "run_1"
    assert (folder / "last.pt").exists()
    done = CentralizedTrainer(config, "done", run_id=1).train(dataset, resume=True)
    assert done["status"] == "completed"
    assert {path.name for path in folder.iterdir()} == {
        "best_model.pt",
        "model_card.md",
        "run.json",
    }
    assert checkpoint.load(folder / "best_model.pt")["epoch"] == done["best_epoch"]


def at_the_end(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen when the last epoch is done and its files are written."""
    end = trainer.end_run

    def end_run(run: Run, completed: bool) -> dict[str, Any]:
        run.saving.snapshots.finish(lambda: 0)
        happens()
        return end(run, completed)

    monkeypatch.setattr(trainer, "end_run", end_run)


def warnings(folder: Path) -> list[str]:
    text = "SELECT json_extract(payload, '$.message') FROM event WHERE event = 'warning'"
    return [message for (message,) in query(folder, text)]


def test_a_disk_that_is_full_at_the_end_is_waited_for(
    dataset: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = small_disk(1 << 20)

    def full_for_a_while() -> None:
        filler = fill(disk)

        def make_room() -> None:
            wait_until(lambda: any("trying again" in text for text in warnings(tmp_path)))
            filler.unlink()

        threading.Thread(target=make_room).start()

    at_the_end(monkeypatch, full_for_a_while)
    config = in_folder(tmp_path, experiment__epochs=1, output__results_dir=str(disk / "results"))
    assert CentralizedTrainer(config, "late").train(dataset)["status"] == "completed"
    assert json.loads((disk / "results" / "result_1.json").read_text())["best_epoch"] == 1


def test_results_that_cannot_be_written_are_named_and_the_run_is_completed(
    dataset: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "PATIENCE", 0.5)
    disk = small_disk(1 << 20)
    at_the_end(monkeypatch, lambda: fill(disk))
    config = in_folder(
        tmp_path,
        experiment__epochs=1,
        system__test_split=0.2,
        output__results_dir=str(disk / "results"),
    )
    assert CentralizedTrainer(config, "full").train(dataset)["status"] == "completed"
    assert query(tmp_path, "SELECT status FROM run") == [("completed",)]
    for name in ("scores_test_1.csv", "result_1.json"):
        assert any(f"{name} could not be written" in text for text in warnings(tmp_path)), name


def test_a_best_model_that_cannot_be_saved_fails_the_run_which_can_be_resumed(
    dataset: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "PATIENCE", 0.5)
    disk = small_disk(400 << 20)
    config = in_folder(tmp_path, experiment__epochs=1, output__checkpoint_dir=str(disk / "kept"))
    filler = fill(disk, leave=60 << 20)  # the snapshot of the start has 45 MB, the bundle, too
    with pytest.raises(UserError, match="make room there and resume run 1"):
        CentralizedTrainer(config, "full").train(dataset)
    assert query(tmp_path, "SELECT status FROM run") == [("failed",)]
    filler.unlink()
    again = CentralizedTrainer(config, "full", run_id=1).train(dataset, resume=True)
    assert again["status"] == "completed"
    assert checkpoint.load(Path(again["best_model_path"]))["epoch"] == again["best_epoch"]


def test_progress_says_how_long_the_run_will_take(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_EVERY", 0.0)
    config = in_folder(tmp_path, experiment__epochs=3, system__test_split=0.2)
    seen: list[Event] = []
    network = build_model(config.model, config.experiment.dropout_rate)
    run = Run(
        1, "uid", "timed", config, prepare(dataset, config), network, seen.append, StopRequest()
    )
    with run.saving.snapshots:
        outcome = ending.end_run(run, run.train(resume=False))
    tests = [e for e in seen if isinstance(e, TrainingProgress) and e.phase == "test"]
    assert {event.epoch for event in tests} == {outcome["best_epoch"]}
    seen = [event for event in seen if event not in tests]
    shown = [event for event in seen if isinstance(event, TrainingProgress)]
    seconds = [event.epoch_seconds for event in seen if isinstance(event, EpochMetrics)]
    assert all(event.run_eta_seconds is None for event in shown if event.epoch == 1)
    second = [event.run_eta_seconds for event in shown if event.epoch == 2]
    assert None not in second
    assert 0 < second[0] <= 2 * seconds[0]
    last = [event for event in shown if event.epoch == 3][-1]
    assert last.run_eta_seconds is not None
    assert last.run_eta_seconds < second[0] + last.eta_seconds
