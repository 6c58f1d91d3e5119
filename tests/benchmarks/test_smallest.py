"""Every benchmark runs, at its smallest size, and leaves a document of the one form."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.data.phantoms import write_demo_dataset

SMALL = {
    "input_path": "--images 4 --image-size 32 --rounds 1",
    "loop_overhead": "--pairs 1 --steps 1 --batch-size 2 --image-size 32 --backbone resnet18",
    "accuracy": "--dataset {dataset} --seeds 1 --epochs 1 --image-size 32 --backbone resnet18 "
    "--rows plain ema --scores {folder}",
    "time_to_quality": "--dataset {dataset} --image-size 32 --epochs 1 --seeds 1 "
    "--backbone resnet18 --targets 0.1",
    "selection": "--runs 2 --epochs 4",
    "equal_accuracy": "--dataset {dataset} --seeds 2 --epochs 1 --image-size 32",
    "dicom": "--side 64 --rounds 1",
    "tables": "--share 0.002 --rounds 1",
    "scaling": "--images 40 --image-size 32 --rounds 1",
    "contention": "--images 40 --image-size 32 --epochs 2 --rounds 1",
    "ddp": "--images 60 --image-size 32 --epochs 2 --rounds 1 --backbone resnet18",
    "epoch_vs_peers": "--images 8 --image-size 32 --batch-size 4 --rounds 1",
    "predict": "--images 4 --image-size 32 --rounds 1 --backbone resnet18 --no-server",
    "server": "sockets runs upload",
}
LONG = ("time_to_quality", "scaling", "contention", "ddp", "epoch_vs_peers", "server")
NEEDS = {
    "time_to_quality": ("lightning", "torchmetrics"),
    "dicom": ("gdcm",),
    "epoch_vs_peers": ("lightning", "torchmetrics", "timm"),
    "server": ("httpx", "websockets"),
}
NOT_BENCHMARKS = {"__init__", "__main__", "peers"}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the document goes; what a benchmark sets in its process is undone."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("benchmarks.lib.record.RESULTS", tmp_path / "results")
    monkeypatch.setattr("benchmarks.scaling.LEAST_IMAGES", 1)
    yield tmp_path / "results"
    torch.set_num_threads(threads)


def test_every_benchmark_is_tried() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    assert set(SMALL) == {path.stem for path in folder.glob("*.py")} - NOT_BENCHMARKS


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in SMALL]
)
def test_it_runs(name: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    dataset = write_demo_dataset(tmp_path / "images.zip", images=40, patients=40, size=32)
    benchmark = importlib.import_module(f"benchmarks.{name}")
    if name == "server":
        small = {"SOCKETS": 3, "EVENTS": 3, "RUNS": 60, "EPOCHS": 2, "RATE": 10, "SECONDS": 1}
        for key, value in {**small, "UPLOAD": 2 << 20}.items():
            monkeypatch.setattr(benchmark, key, value)
    arguments = SMALL[name].format(dataset=dataset, folder=tmp_path / "scores").split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    assert not benchmark.main()
    (path,) = results.glob("*.json")
    document = json.loads(path.read_text())
    common = ("benchmark", "at", "commit", "hardware", "threads", "python", "torch", "torchvision")
    assert list(document) == [*common, "settings", "figures"]
    assert document["figures"]
