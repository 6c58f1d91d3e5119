"""A kept model in use: the same scores as in its run, for files alone."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from config import Config, ConfigManager, UserError
from engine import CentralizedTrainer, load_model
from engine.data.phantoms import write_demo_dataset
from engine.inference import bundle
from engine.records import checkpoint

FIXTURES = Path(__file__).parents[1] / "records" / "fixtures"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any], Path]:
    """A small run with a test part: its configuration, its results and its images unpacked."""
    folder = tmp_path_factory.mktemp("run")
    dataset = write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)
    output = {
        f"output.{key}": str(folder / key)
        for key in ("checkpoint_dir", "log_dir", "results_dir", "cache_dir")
    }
    config = ConfigManager.load(
        overrides={
            "system.device": "cpu",
            "system.precision": "fp32",
            "system.batch_size": 16,
            "system.num_workers": 0,
            "system.test_split": 0.2,
            "experiment.epochs": 2,
            "model.backbone": "resnet18",
            "model.weights": "none",
            "data.image_size": 32,
            "output.database": str(folder / "pneumoscope.db"),
            **output,
        },
        environ={},
    )
    results = CentralizedTrainer(config, "kept").train(dataset)
    with zipfile.ZipFile(dataset) as archive:
        archive.extractall(folder / "unpacked")
    return config, results, folder / "unpacked"


def scores_of(config: Config, name: str) -> dict[str, float]:
    with (Path(config.output.results_dir) / name).open(newline="") as file:
        return {row["filename"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("table", ["scores_1.csv", "scores_test_1.csv"])
def test_the_scores_are_those_of_the_run(run: Any, table: str) -> None:
    config, results, images = run
    expected = scores_of(config, table)
    model = load_model(results["best_model_path"], device="cpu")
    found = list(model.predict([images / name for name in expected], batch_size=5))
    assert [p.error for p in found] == [None] * len(expected)
    np.testing.assert_allclose([p.score for p in found], list(expected.values()), atol=1e-6)
    for prediction in found:
        assert prediction.score is not None
        assert prediction.label == model.label_names[int(prediction.score >= model.threshold)]


def test_a_bad_file_has_an_error_and_the_rest_is_scored(run: Any, tmp_path: Path) -> None:
    _, results, _ = run
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save(folder / "b.png")
    (folder / "a.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not asked for")
    model = load_model(results["best_model_path"], device="cpu")
    bad, good, gone = model.predict([folder, str(tmp_path / "gone.png")])
    assert (bad.path.name, bad.score, bad.label) == ("a.png", None, None)
    assert bad.error is not None
    assert "not an image" in bad.error
    assert good.error is None
    assert gone.error == "No such file or directory"
    assert list(model.predict([])) == []


def test_a_dicom_file_is_scored_as_its_pixels_are(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from ..data.test_dicom import dicom

    _, results, _ = run
    (tmp_path / "a.dcm").write_bytes(dicom(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)))
    (found,) = load_model(results["best_model_path"], device="cpu").predict(tmp_path / "a.dcm")
    assert found.error is None
    assert found.score is not None


def test_the_bundle_says_what_is_in_it(run: Any) -> None:
    config, results, _ = run
    content = bundle.load(Path(results["best_model_path"]))
    assert content["run_uid"] == results["run_uid"]
    assert content["epoch"] == results["best_epoch"]
    point = content["operating_points"][content["default_operating_point"]]
    assert (point["rule"], point["part"]) == (results["operating_point"]["rule"], "val")
    assert point["figures"]["recall"] == results["best_recall"]
    assert len(point["figures"]["intervals"]["recall"]) == 2
    assert content["metrics"]["val"]["auroc"] == results["best_auroc"]
    assert json.dumps(content["metrics"]["test"]) == json.dumps(results["test"])  # nan is not nan
    population = content["training_population"]
    assert sum(population["counts"]["train"].values()) > 0
    assert sum(population["val_scores"]) == len(scores_of(config, "scores_1.csv"))
    assert 0 < population["pixel_mean"] < 1
    assert 0 < population["pixel_std"] < 1
    assert content["config"] == config.to_dict()


def test_what_is_no_bundle_is_refused_in_words(run: Any, tmp_path: Path) -> None:
    _, results, _ = run
    whole = Path(results["best_model_path"]).read_bytes()
    path = tmp_path / "model.pt"
    with pytest.raises(UserError, match=r"there is no file .*model\.pt"):
        load_model(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.pt cannot be loaded"):
        load_model(path)
    torch.save({"conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"model\.pt was not written by Pneumoscope"):
        load_model(path)
    checkpoint.save({"epoch": 1}, path)
    with pytest.raises(UserError, match=r"model\.pt is no model bundle .*missing: architecture"):
        load_model(path)
    checkpoint.save({"learner": {}}, path)
    with pytest.raises(UserError, match="snapshot to resume"):
        load_model(path)


def test_a_bundle_of_the_first_version_opens(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    path.write_bytes(gzip.decompress((FIXTURES / "format1_best_model.pt.gz").read_bytes()))
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save(tmp_path / "a.png")
    model = load_model(path, device="cpu")
    assert model.label_names == ["NORMAL", "PNEUMONIA"]
    (found,) = model.predict(tmp_path / "a.png")
    assert found.score is not None
    assert model.bundle["metrics"]["val"]["auroc"] > 0.5
    assert model.bundle["run_uid"] is None
