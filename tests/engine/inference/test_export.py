"""Exported models give the bundle's scores, say what they are, or get no name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import Config, UserError
from engine.export import main
from engine.inference import bundle
from engine.inference.export import METADATA, export_model, scores_of_file
from engine.inference.predictor import Predictor
from engine.metrics import summary
from engine.metrics.calibrated import calibrate
from engine.model.resnet import build_model

SIZE = 32


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """The content of a bundle with random weights, a temperature and a rule's threshold."""
    from config.schema import Model

    torch.manual_seed(3)
    config = Config.from_dict(
        {"model": {"backbone": "resnet18", "weights": "none"}, "data": {"image_size": SIZE}}
    )
    network = build_model(Model("resnet18", "none"), 0.0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.clip(labels * 0.3 + rng.uniform(0, 0.7, 60), 0, 1)
    common = {
        "run_uid": "u",
        "architecture": bundle.architecture(config.to_dict()),
        "preprocessing": bundle.preprocessing(SIZE),
        "label_names": ["NORMAL", "PNEUMONIA"],
        "training_population": {},
        "data_fingerprint": "f",
        "config": config.to_dict(),
        "versions": {},
    }
    found = dataclasses.replace(calibrate(scores, labels, "youden"), temperature=1.7)
    figures = summary(scores, labels, found.threshold)
    return bundle.of_epoch(common, network.state_dict(), 1, figures, found)


@pytest.fixture
def model(content: dict[str, Any]) -> Predictor:
    return Predictor(content, "cpu", "fp32")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (70, SIZE, SIZE), dtype=np.uint8)


def test_a_program_of_pytorch_gives_the_same_scores(
    model: Predictor, images: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    assert export_model(model, "torch", path, images) <= 1e-4
    alone = scores_of_file("torch", path, images[:1])
    assert alone == pytest.approx(model.scores(images[:1]), abs=1e-5)
    extra = {METADATA: ""}
    torch.export.load(path, extra_files=extra)
    said = json.loads(extra[METADATA])
    assert said["threshold"] == model.threshold
    assert said["label_names"] == ["NORMAL", "PNEUMONIA"]
    assert [step["step"] for step in said["preprocessing"]][:2] == ["decode", "resize"]


def test_onnx_gives_the_same_scores_for_any_number_of_images(
    model: Predictor, images: np.ndarray, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    assert export_model(model, "onnx", path, images) <= 1e-4
    for count in (1, 5):
        found = scores_of_file("onnx", path, images[:count])
        assert found == pytest.approx(model.scores(images[:count]), abs=1e-5)
    properties = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    said = json.loads(properties[METADATA])
    assert set(said["operating_points"]) == set(model.bundle["operating_points"])


def test_a_file_that_differs_from_the_bundle_gets_no_name(
    model: Predictor, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = model.scores
    monkeypatch.setattr(model, "scores", lambda batch: honest(batch) + 1e-3)
    with pytest.raises(UserError, match="other scores than the bundle"):
        export_model(model, "torch", tmp_path / "model.pt2", images)
    assert list(tmp_path.iterdir()) == []


def test_the_temperature_is_in_every_score(content: dict[str, Any], images: np.ndarray) -> None:
    plain = Predictor({**content, "temperature": None}, "cpu", "fp32").scores(images)
    scaled = Predictor(content, "cpu", "fp32").scores(images)
    logit = np.log(plain / (1 - plain))
    assert scaled == pytest.approx(1 / (1 + np.exp(-logit / 1.7)), abs=1e-9)


def test_a_check_without_images_is_said(tmp_path: Path, content: dict[str, Any]) -> None:
    from engine.records import checkpoint

    checkpoint.save(content, tmp_path / "best_model.pt")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image can be read"):
        main([str(tmp_path / "best_model.pt"), "--check", str(tmp_path / "a.png")])
