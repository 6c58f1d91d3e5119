"""Runs that belong together: folds, seeds, what is left after a stop, and the ensemble of all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Config, UserError
from engine import group, load_model
from engine.data.phantoms import write_demo_dataset
from engine.data.prepare import prepare
from engine.records.database import get_run_sync
from engine.records.identity import run_folder
from engine.stop import StoppedEarly

from .test_faults import in_folder


@contextlib.contextmanager
def unguarded(_stop: Callable[[str], None]) -> Iterator[None]:
    yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return write_demo_dataset(folder / "images.zip", images=60, patients=30, size=32, seed=3)


def summary_of(config: Config, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(group.group_path(config, name).read_text())
    return found


def test_seeds_share_a_split_and_their_ensemble_answers_as_the_mean_of_their_logits(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = in_folder(tmp_path, experiment__epochs=1, system__test_split=0.2)
    name = group.begin(config, dataset, "seeds", group.members_of(config, None, 2))
    stops = 0

    @contextlib.contextmanager
    def stop_the_second(stop: Callable[[str], None]) -> Iterator[None]:
        nonlocal stops
        stops += 1
        if stops == 2:
            stop("test")
        yield

    with pytest.raises(StoppedEarly):
        group.train_group(config, name, stop_the_second)
    assert f"--resume-group {name}" in capsys.readouterr().out
    assert group.train_group(config, name, unguarded)
    content = summary_of(config, name)
    runs = [member["run_id"] for member in content["members"]]
    rows = [get_run_sync(Path(config.output.database), run) for run in runs]
    assert [row and row["status"] for row in rows] == ["completed", "completed"]
    assert len({row["dataset_fingerprint"] for row in rows if row}) == 1  # one split

    folders = [run_folder(config.to_dict()["output"], run) for run in runs]
    members = [load_model(folder / "best_model.pt", "cpu") for folder in folders]
    ensemble = load_model(content["ensemble"]["path"], "cpu")
    data = prepare(dataset, group.changed(config, content["members"][0]["settings"]))
    images = np.asarray(data.images[data.rows[data.split.test]])
    odds = np.mean([np.log(s / (1 - s)) for s in (m.scores(images) for m in members)], axis=0)
    scaled = odds / (ensemble.bundle["temperature"] or 1.0)
    np.testing.assert_allclose(ensemble.scores(images), 1 / (1 + np.exp(-scaled)), atol=1e-5)
    figures = content["ensemble"]["metrics"]["test"]
    called = ensemble.scores(images) >= ensemble.threshold
    labels = data.labels[data.split.test]
    assert figures["confusion"]["tp"] == int((called & (labels == 1)).sum())
    folder = Path(config.output.results_dir)
    each = [json.loads((folder / f"result_{run}.json").read_text())["test"] for run in runs]
    mean, low, high = content["summary"]["test"]["auroc"]
    assert mean == pytest.approx(np.mean([found["auroc"] for found in each]))
    assert low <= mean <= high
    assert ensemble.heat_map(images[0]).shape == (32, 32)


def test_folds_are_by_patient_and_class_and_each_image_is_validated_once(
    dataset: Path, tmp_path: Path
) -> None:
    config = in_folder(tmp_path, system__test_split=0.2)
    seen: list[int] = []
    tests = set()
    for settings in group.members_of(config, "3", None):
        data = prepare(dataset, group.changed(config, settings))
        seen += data.split.val.tolist()
        tests.add(tuple(data.split.test.tolist()))
        shares = [data.labels[part].mean() for part in (data.split.train, data.split.val)]
        assert abs(shares[0] - shares[1]) < 0.15
        owners = [
            {data.patients[i] for i in part.tolist()}
            for part in (data.split.train, data.split.val, data.split.test)
        ]
        assert not owners[0] & owners[1]
        assert not (owners[0] | owners[1]) & owners[2]
    assert len(tests) == 1
    assert sorted([*seen, *tests.pop()]) == list(range(60))


def test_a_given_fold_file_is_obeyed_and_a_wrong_one_refused_in_words(
    dataset: Path, tmp_path: Path
) -> None:
    config = in_folder(tmp_path)
    data = prepare(dataset, config)
    people = sorted({str(patient) for patient in data.patients})
    fold_of = {
        name: people.index(str(patient)) // 2 % 2 + 1
        for name, patient in zip(data.names, data.patients, strict=True)
    }
    path = tmp_path / "folds.csv"

    def write(changes: dict[str, int]) -> None:
        rows = [f"{name},{fold}" for name, fold in {**fold_of, **changes}.items() if fold]
        path.write_text("\n".join(["filename,fold", *rows]))

    write({})
    members = group.members_of(config, str(path), None)
    assert len(members) == 2
    split = prepare(dataset, group.changed(config, members[1])).split
    assert {fold_of[data.names[i]] for i in split.val.tolist()} == {2}
    assert {fold_of[data.names[i]] for i in split.train.tolist()} == {1}
    write({data.names[0]: 0})
    with pytest.raises(UserError, match="no fold for 1 images"):
        prepare(dataset, group.changed(config, members[1]))
    twin = next(
        i for i in range(1, 60) if data.patients[i] == data.patients[0]
    )  # of the same patient
    write({data.names[twin]: 3 - fold_of[data.names[twin]]})
    with pytest.raises(UserError, match="images of one patient, or identical ones, in two folds"):
        prepare(dataset, group.changed(config, members[1]))
    with pytest.raises(UserError, match="--folds"):
        group.members_of(config, "1", None)
