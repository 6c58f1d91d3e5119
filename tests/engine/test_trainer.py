"""A whole run in one process: what it returns, what it leaves, and that it repeats."""

from __future__ import annotations

import asyncio
import csv
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import Config, ConfigManager, UserError
from engine import CentralizedTrainer, metrics
from engine.data.inputs import normalise, to_float
from engine.data.phantoms import write_demo_dataset
from engine.model.resnet import build_model
from engine.records import checkpoint
from engine.records.database import create_run_sync
from engine.reproduce import reproduce
from engine.run import Run, TrainingDiverged
from engine.stop import StoppedEarly


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)


def small(tmp_path: Path, **changes: Any) -> Config:
    output = tmp_path / "output"
    return ConfigManager.load(
        overrides={
            "system.device": "cpu",
            "system.precision": "fp32",
            "system.batch_size": 16,
            "system.num_workers": 0,
            "experiment.epochs": 2,
            "model.backbone": "resnet18",
            "model.weights": "none",
            "data.image_size": 32,
            "output.keep_snapshots": True,
            "output.checkpoint_dir": str(output / "checkpoints"),
            "output.log_dir": str(output / "logs"),
            "output.results_dir": str(output / "results"),
            "output.cache_dir": str(output / "cache"),
            "output.database": str(output / "pneumoscope.db"),
            **{key.replace("__", "."): value for key, value in changes.items()},
        },
        environ={},
    )


def rows(config: Config, query: str) -> list[Any]:
    with sqlite3.connect(config.output.database) as database:
        database.row_factory = sqlite3.Row
        found = database.execute(query).fetchall()
    database.close()
    return found


def final_weights(config: Config, run_id: int) -> str:
    folder = Path(config.output.checkpoint_dir) / f"run_{run_id}"
    return checkpoint.checksum(checkpoint.load(folder / "last.pt")["learner"]["model"])


def test_a_run_leaves_everything_and_all_of_it_agrees(dataset: Path, tmp_path: Path) -> None:
    config = small(tmp_path)
    trainer = CentralizedTrainer(config=config, run_name="first")
    report = trainer.prepare_data(dataset_path=str(dataset))
    results = trainer.train(dataset_path=str(dataset))
    assert json.dumps(report)
    assert results["total_epochs_run"] == 2
    assert results["status"] == "completed"
    run_id = results["run_id"]

    best = checkpoint.load(Path(results["best_model_path"]))
    assert best["epoch"] == results["best_epoch"]
    row = rows(config, f"SELECT * FROM run WHERE run_id = {run_id}")[0]
    assert row["status"] == "completed"
    assert row["best_epoch"] == results["best_epoch"]
    assert row["best_model_path"] == results["best_model_path"]

    recorded = rows(config, f"SELECT * FROM run_metrics WHERE run_id = {run_id} ORDER BY epoch")
    assert [r["epoch"] for r in recorded] == [1, 2]
    kept = recorded[results["best_epoch"] - 1]
    assert kept["val_auroc"] == pytest.approx(results["best_auroc"])

    folder = Path(config.output.results_dir)
    with (folder / f"scores_{run_id}.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    scores = np.array([float(r["score"]) for r in table])
    labels = np.array([int(r["label"]) for r in table])
    point = best["operating_points"][best["default_operating_point"]]
    assert results["operating_point"]["rule"] == point["rule"]
    expected = metrics.summary(scores, labels, point["threshold"])
    for name in ("accuracy", "precision", "recall", "f1", "auroc", "specificity"):
        assert results[f"best_{name}"] == pytest.approx(expected[name], nan_ok=True), name
    assert "the figures flatter the model" in results["conclusion"]
    for name in (f"metrics_{run_id}.json", f"result_{run_id}.json", f"validation_{run_id}.json"):
        json.loads((folder / name).read_text(), parse_constant=pytest.fail)
    assert (folder / f"metrics_{run_id}.csv").read_text().count("\n") == 3
    assert "epoch" in (Path(config.output.log_dir) / f"run_{run_id}.log").read_text()


def test_the_kept_weights_give_the_kept_scores(dataset: Path, tmp_path: Path) -> None:
    config = small(tmp_path)
    trainer = CentralizedTrainer(config=config, run_name="kept")
    results = trainer.train(dataset)
    best = checkpoint.load(Path(results["best_model_path"]))
    network = build_model(config.model, config.experiment.dropout_rate)
    network.load_state_dict(best["weights"])
    assert trainer._prepared is not None
    prepared = trainer._prepared[1]
    images = torch.from_numpy(np.asarray(prepared.images[prepared.rows[prepared.split.val]]))[
        :, None
    ]
    with torch.inference_mode():
        logits = network.eval()(normalise(to_float(images)).contiguous())
    scores = (logits.double() / best["temperature"]).softmax(1)[:, 1].numpy()
    folder = Path(config.output.results_dir)
    with (folder / f"scores_{results['run_id']}.csv").open(newline="") as file:
        kept = [float(r["score"]) for r in csv.DictReader(file)]
    np.testing.assert_allclose(scores, kept, atol=1e-5)


def test_the_same_seed_gives_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    config = small(tmp_path)
    first = CentralizedTrainer(config=config, run_name="a").train(dataset)
    torch.rand(3)
    second = CentralizedTrainer(config=config, run_name="b").train(dataset)
    assert final_weights(config, first["run_id"]) == final_weights(config, second["run_id"])
    other = CentralizedTrainer(small(tmp_path, system__seed=7), run_name="c").train(dataset)
    assert final_weights(config, other["run_id"]) != final_weights(config, first["run_id"])


def test_workers_change_nothing(dataset: Path, tmp_path: Path) -> None:
    none = small(tmp_path, experiment__epochs=1)
    two = small(tmp_path, experiment__epochs=1, system__num_workers=2)
    first = CentralizedTrainer(config=none, run_name="a").train(dataset)
    second = CentralizedTrainer(config=two, run_name="b").train(dataset)
    assert final_weights(none, first["run_id"]) == final_weights(two, second["run_id"])


EVERY_INGREDIENT = {
    "recipe__warmup_epochs": 1.5,
    "recipe__ema": 0.9,
    "recipe__label_smoothing": 0.1,
    "recipe__balance": "sampling",
    "recipe__mixup": 0.3,
    "recipe__zero_init": True,
    "recipe__small_epochs": 1,
    "recipe__stage_rate": 0.7,
    "recipe__average_views": "flip",
    "model__grey_input": True,
    "data__image_size": 64,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        EVERY_INGREDIENT,
        {**EVERY_INGREDIENT, "recipe__balance": "loss", "model__freeze_epochs": 1},
    ],
    ids=["plain", "every ingredient", "balanced loss, freezing"],
)
def test_a_stopped_run_is_resumed_exactly(
    dataset: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path, experiment__epochs=3, **changes)
    whole = CentralizedTrainer(config=config, run_name="whole").train(dataset)

    broken = CentralizedTrainer(config=config, run_name="broken")
    after_step = Run._after_step

    def stop_in_the_second_epoch(self: Any, state: Any) -> None:
        after_step(self, state)
        if state.epoch == 2 and state.step == 2:
            self.stop.set("test")

    with monkeypatch.context() as patch:
        patch.setattr("engine.run.Run._after_step", stop_in_the_second_epoch)
        stopped = broken.train(dataset)
    assert stopped["status"] == "stopped"
    run_id = stopped["run_id"]
    assert rows(config, f"SELECT status FROM run WHERE run_id = {run_id}")[0][0] == "stopped"

    torch.rand(5)  # a new process would not stand where the old one did either
    resumed = CentralizedTrainer(config, "broken", run_id=run_id).train(dataset, resume=True)
    assert final_weights(config, run_id) == final_weights(config, whole["run_id"])
    kept = [checkpoint.load(Path(each["best_model_path"])) for each in (resumed, whole)]
    assert checkpoint.checksum(kept[0]["weights"]) == checkpoint.checksum(kept[1]["weights"])
    own = {"run_id", "run_uid", "training_time", "best_model_path", "conclusion"}
    # As text: an undefined figure is nan, which equals nothing.
    assert [f"{k}: {resumed[k]}" for k in resumed if k not in own] == [
        f"{k}: {whole[k]}" for k in whole if k not in own
    ]
    columns = "epoch, train_loss, val_loss, val_recall, val_auroc, learning_rate"
    query = f"SELECT {columns} FROM run_metrics WHERE run_id = %d ORDER BY epoch"
    assert [tuple(r) for r in rows(config, query % run_id)] == [
        tuple(r) for r in rows(config, query % whole["run_id"])
    ]


def test_a_run_is_not_resumed_with_other_data(dataset: Path, tmp_path: Path) -> None:
    config = small(tmp_path)
    trainer = CentralizedTrainer(config=config, run_name="a")
    trainer.prepare_data(dataset)
    trainer.stop()
    first = trainer.train(dataset)
    other = write_demo_dataset(tmp_path / "other.zip", images=60, patients=30, size=48, seed=4)
    again = CentralizedTrainer(config, "a", run_id=first["run_id"])
    with pytest.raises(UserError, match="no longer the one"):
        again.train(other, resume=True)


def test_a_diverged_run_names_the_batch_and_is_recorded(dataset: Path, tmp_path: Path) -> None:
    config = small(tmp_path, experiment__learning_rate=10.0, experiment__gradient_clip=0.0)
    trainer = CentralizedTrainer(config=config, run_name="diverged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "engine.data.inputs.normalise", lambda x, _: x.expand(-1, 3, -1, -1) * torch.nan
        )
        with pytest.raises(TrainingDiverged, match=r"step 1, on the batch of images/"):
            trainer.train(dataset)
    row = rows(config, f"SELECT * FROM run WHERE run_id = {trainer.run_id}")[0]
    assert row["status"] == "failed"
    assert "not a finite number" in row["error"]
    log = (Path(config.output.log_dir) / f"run_{trainer.run_id}.log").read_text()
    assert "Traceback" in log


def test_it_trains_inside_a_running_event_loop_and_in_a_thread(
    dataset: Path, tmp_path: Path
) -> None:
    config = small(tmp_path, experiment__epochs=1)

    async def in_a_loop() -> dict[str, Any]:
        return CentralizedTrainer(config=config, run_name="loop").train(dataset)

    assert asyncio.run(in_a_loop())["status"] == "completed"
    found: list[dict[str, Any]] = []
    trainer = CentralizedTrainer(config=config, run_name="thread")
    thread = threading.Thread(target=lambda: found.append(trainer.train(dataset)))
    thread.start()
    thread.join()
    assert found[0]["status"] == "completed"


def test_an_output_folder_that_cannot_be_written_is_named_before_any_work(
    dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    config = small(tmp_path, output__results_dir=str(tmp_path / "file" / "results"))
    with pytest.raises(UserError, match=r"output\.results_dir"):
        CentralizedTrainer(config=config, run_name="x").train(dataset)
    assert not (tmp_path / "output" / "pneumoscope.db").exists()


def test_a_stop_during_preparation_keeps_the_images_and_ends_as_stopped(
    dataset: Path, tmp_path: Path
) -> None:
    config = small(tmp_path)
    run_id = create_run_sync(Path(config.output.database), run_name="queued", status="queued")
    trainer = CentralizedTrainer(config, "queued", run_id=run_id)
    trainer.stop("not now")
    with pytest.raises(StoppedEarly, match="not now"):
        trainer.train(dataset)
    row = rows(config, "SELECT status, total_epochs_run FROM run")[0]
    assert tuple(row) == ("stopped", 0)
    again = CentralizedTrainer(config, "queued", run_id=run_id).train(dataset, resume=True)
    assert again["status"] == "completed"


def test_a_queued_run_with_bad_data_is_recorded_as_failed(tmp_path: Path) -> None:
    config = small(tmp_path)
    run_id = create_run_sync(Path(config.output.database), run_name="queued", status="queued")
    with pytest.raises(UserError, match="no such file"):
        CentralizedTrainer(config, "queued", run_id=run_id).train(tmp_path / "nowhere.zip")
    row = rows(config, "SELECT status, error FROM run")[0]
    assert row["status"] == "failed"
    assert "nowhere.zip" in row["error"]


def test_early_stopping_ends_a_run_and_says_so(dataset: Path, tmp_path: Path) -> None:
    config = small(
        tmp_path,
        experiment__epochs=9,
        experiment__min_epochs=1,
        experiment__early_stopping_patience=1,
        experiment__early_stopping_min_delta=1.0,
    )
    found = CentralizedTrainer(config, "early").train(dataset)
    assert found["early_stopped"]
    assert found["total_epochs_run"] < 9
    assert rows(config, "SELECT early_stopped FROM run")[0][0] == 1
    assert rows(config, "SELECT 1 FROM event WHERE event = 'early_stopping_triggered'")


def test_neither_workers_nor_the_cache_change_a_bit(dataset: Path, tmp_path: Path) -> None:
    found = set()
    for workers in (0, 1, 2, 0):  # the last finds every image decoded
        config = small(
            tmp_path, system__num_workers=workers, output__cache_dir=str(tmp_path / f"c{workers}")
        )
        result = CentralizedTrainer(config, f"{workers} workers").train(dataset)
        recorded = rows(config, f"SELECT * FROM run_metrics WHERE run_id = {result['run_id']}")
        figures = [(row["train_loss"], row["val_loss"], row["val_auroc"]) for row in recorded]
        found.add((final_weights(config, result["run_id"]), *figures))
    assert len(found) == 1


def test_images_on_the_device_change_nothing(dataset: Path, tmp_path: Path) -> None:
    host = small(tmp_path, experiment__epochs=1)
    device = small(tmp_path, experiment__epochs=1, data__residency="device")
    first = CentralizedTrainer(host, "host").train(dataset)
    second = CentralizedTrainer(device, "device").train(dataset)
    assert final_weights(host, first["run_id"]) == final_weights(device, second["run_id"])


def test_a_run_is_reproduced_and_what_differs_is_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path, experiment__epochs=1)
    CentralizedTrainer(config, "first").train(dataset)
    base = small(tmp_path)
    assert reproduce(1, None, base) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    other = write_demo_dataset(tmp_path / "other.zip", images=60, patients=30, size=48, seed=4)
    assert reproduce(1, other, base) == 1
    printed = capsys.readouterr().out
    assert "differs: dataset.fingerprint" in printed
    assert "epoch 1: train_loss" in printed
    with pytest.raises(UserError, match="no run 77"):
        reproduce(77, None, base)
