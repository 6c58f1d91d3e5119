"""Files that the first version wrote are resumed from; what does not fit is refused in words."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from config import Config, UserError
from engine.data.phantoms import write_demo_dataset
from engine.data.prepare import prepare
from engine.model.resnet import build_model
from engine.records import checkpoint
from engine.run import Run
from engine.stop import StopRequest
from engine.stream.events import EpochMetrics, Event, RunWarning, TrainingResumed

from .test_faults import in_folder

FIXTURES = Path(__file__).parent / "records" / "fixtures"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)


def old_files(folder: Path, fingerprint: str, **changes: Any) -> None:
    """What a run of the first version left in `folder` when it was stopped in its second epoch."""
    folder.mkdir(parents=True)
    for name in ("last", "best_model"):
        content = gzip.decompress((FIXTURES / f"format1_{name}.pt.gz").read_bytes())
        (folder / f"{name}.pt").write_bytes(content)
    last = torch.load(folder / "last.pt", weights_only=True)
    del last["checksum"], last["format"]
    last |= {"fingerprint": fingerprint, **changes}  # of the data as this version reads them
    last |= {"checksum": checkpoint.checksum(last), "format": 1}
    torch.save(last, folder / "last.pt")


def resumed(config: Config, dataset: Path, seen: list[Event], **changes: Any) -> Run:
    data = prepare(dataset, config)
    old_files(Path(config.output.checkpoint_dir) / "run_1", data.fingerprint, **changes)
    network = build_model(config.model, config.experiment.dropout_rate)
    return Run(1, "uid", "old", config, data, network, seen.append, StopRequest())


def test_a_run_of_the_first_version_is_resumed_in_the_middle_of_its_epoch(
    dataset: Path, tmp_path: Path
) -> None:
    config = in_folder(tmp_path, experiment__epochs=3, model__head_sizes=[8])
    seen: list[Event] = []
    run = resumed(config, dataset, seen)
    with run.saving.snapshots:
        assert run.train(resume=True)
        assert run.saving.snapshots.finish(lambda: 0) is None
    (resumption,) = [event for event in seen if isinstance(event, TrainingResumed)]
    ((name, first),) = resumption.history
    assert (name, first["epoch"]) == ("training_metrics_update", 1)
    assert first["train_seconds"] == first["epoch_seconds"]  # all that was measured then
    assert [event.epoch for event in seen if isinstance(event, EpochMetrics)] == [2, 3]
    assert not [event for event in seen if isinstance(event, RunWarning) and "snap" in event.code]
    best = checkpoint.load(run.saving.snapshots.best_path)
    assert best["epoch"] == run.state.selection.best_epoch
    last = checkpoint.load(run.saving.snapshots.folder / "last.pt")
    assert (last["format"], last["run_uid"]) == (2, "uid")


def test_a_lost_best_model_of_the_first_version_is_said_and_chosen_anew(
    dataset: Path, tmp_path: Path
) -> None:
    """It overwrote best_model.pt before last.pt knew of it: a kill in between lost the old one."""
    config = in_folder(tmp_path, experiment__epochs=2, model__head_sizes=[8])
    seen: list[Event] = []
    best = {"best": {"epoch": 7, "recall": 1.0, "specificity": 1.0, "auroc": 1.0, "val_loss": 0.0}}
    run = resumed(config, dataset, seen, best=best | {"eligible_seen": True})
    with run.saving.snapshots:
        assert run.train(resume=True)
        assert run.saving.snapshots.finish(lambda: 0) is None
    assert [e.message for e in seen if isinstance(e, RunWarning) and e.code == "snapshot_damaged"]
    assert run.state.selection.best_epoch == 2
    assert checkpoint.load(run.saving.snapshots.best_path)["epoch"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {}},
        {"model": {"conv1.weight": torch.zeros(1)}},
        {"random": {"torch": None}},
        {"story": [["an event of another version", {}]]},
        {"story": [["training_metrics_update", {"epoch": 1, "new": 2}]]},
        {"early": {}},
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_in_words(
    dataset: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = in_folder(tmp_path, model__head_sizes=[8])
    run = resumed(config, dataset, [], **changes)
    with run.saving.snapshots, pytest.raises(UserError, match=r"run 1 .*does not fit"):
        run.train(resume=True)


def test_a_snapshot_for_another_network_is_refused_in_words(dataset: Path, tmp_path: Path) -> None:
    config = in_folder(tmp_path, model__head_sizes=[16])
    run = resumed(config, dataset, [])
    with (
        run.saving.snapshots,
        pytest.raises(UserError, match=r"run 1 .*does not fit its configuration"),
    ):
        run.train(resume=True)
