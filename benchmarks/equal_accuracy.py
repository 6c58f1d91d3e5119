"""Does speed cost accuracy? `python -m benchmarks.equal_accuracy`

The development images at 64 px, the same budget, five seeds: the engine (its own precision,
augmentation in batches on the device) beside the plain recipe (fp32, torchvision's transforms on
one image at a time). Split, network, start and learning rate are the same; the figures are those
of the last epoch on the val part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.input_path import usual_transform
from benchmarks.lib.record import write_result
from config import Config, ConfigManager
from engine import CentralizedTrainer, metrics
from engine.data.inputs import normalise, to_float
from engine.data.prepare import Prepared, prepare
from engine.model.resnet import build_model, parameter_groups
from engine.model.start import seed_everything

DEFAULT_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}  # Student's t, 0.975, n - 1
FIGURES = ("auroc", "accuracy")


class SingleImages(Dataset[tuple[torch.Tensor, int]]):
    """Decoded images, transformed one at a time."""

    def __init__(self, data: Prepared, image_size: int) -> None:
        self._data, self._transform = data, usual_transform(image_size)

    def __len__(self) -> int:
        return len(self._data.split.train)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        position = self._data.split.train[at]
        image = Image.fromarray(self._data.images[self._data.rows[position]]).convert("RGB")
        return self._transform(image), int(self._data.labels[position])


def main() -> int:
    """Train both, print the table, write the JSON; 0 whatever the figures are."""
    folder = Path(os.environ.get("PNEUMOSCOPE_DEV_DATA", DEFAULT_DATA))
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dataset", type=Path, default=folder / "chest_xray_dev.zip")
    options.add_argument("--seeds", type=int, default=5, choices=sorted(T_QUANTILES))
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--image-size", type=int, default=64)
    given = options.parse_args()
    if not given.dataset.exists():
        print(f"skipped: {given.dataset} is not here (--dataset, or PNEUMOSCOPE_DEV_DATA)")
        return 0
    found: dict[str, list[dict[str, float]]] = {"engine": [], "plain": []}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(1, given.seeds + 1):
            config = settings(Path(name), given, seed)
            found["engine"].append(train_engine(given.dataset, config))
            found["plain"].append(train_plain(prepare(given.dataset, config), config))
            for recipe, values in found.items():
                shown = ", ".join(f"{key} {values[-1][key]:.4f}" for key in FIGURES)
                print(f"seed {seed}, {recipe}: {shown}", flush=True)
    compared = {key: compare(found, key) for key in FIGURES}
    for key, of in compared.items():
        print(
            f"{key}: engine {of['engine']:.4f}, plain {of['plain']:.4f}; difference "
            f"{of['difference']:+.4f}, 95 % interval {of['low']:+.4f} to {of['high']:+.4f}"
        )
    shown = {**vars(given), "dataset": given.dataset.name}
    print(
        "written to",
        write_result("equal_accuracy", shown, {"runs": found, "compared": compared}),
    )
    return 0


def settings(folder: Path, given: argparse.Namespace, seed: int) -> Config:
    """The defaults, without what depends on the course of a run."""
    return ConfigManager.load(
        overrides={
            "system.seed": seed,
            "data.image_size": given.image_size,
            "experiment.epochs": given.epochs,
            "experiment.early_stopping_patience": 1000,
            "experiment.reduce_lr_patience": 1000,
            "model.weights": "none",
            "output.checkpoint_dir": str(folder / f"{seed}"),
            "output.log_dir": str(folder / f"{seed}"),
            "output.results_dir": str(folder / f"{seed}"),
            "output.database": str(folder / f"{seed}.db"),
            "output.cache_dir": str(folder / "cache"),
        },
        environ={},
    )


def train_engine(dataset: Path, config: Config) -> dict[str, float]:
    """A run as anyone would start it; its last epoch's figures."""
    result = CentralizedTrainer(config, "accuracy").train(dataset)
    table = Path(config.output.results_dir) / f"metrics_{result['run_id']}.json"
    last = json.loads(table.read_text())["epochs"][-1]
    return {key: float(last[f"val_{key}"]) for key in FIGURES}


def train_plain(data: Prepared, config: Config) -> dict[str, float]:
    """The recipe that anyone would write: fp32, one position at a time."""
    seed_everything(config.system.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(config.model, config.experiment.dropout_rate).to(device)
    groups = parameter_groups(model, config.experiment.weight_decay, set())
    optimizer = torch.optim.AdamW(list(groups), lr=config.experiment.learning_rate)
    images = SingleImages(data, config.data.image_size)
    loader = DataLoader(images, config.system.batch_size, shuffle=True)
    for _ in range(config.experiment.epochs):
        model.train()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.experiment.gradient_clip)
            optimizer.step()
    val = data.split.val
    model.eval()
    with torch.inference_mode():
        batches = torch.from_numpy(data.images[data.rows[val]])[:, None].split(64)
        scores = [model(normalise(to_float(b.to(device)))).softmax(dim=1)[:, 1] for b in batches]
    summary: dict[str, Any] = metrics.summary(
        torch.cat(scores).double().cpu().numpy(), data.labels[val]
    )
    return {key: float(summary[key]) for key in FIGURES}


def compare(found: dict[str, list[dict[str, float]]], key: str) -> dict[str, float]:
    """Means over the seeds, and their difference, engine less plain, with Student's interval."""
    engine, plain = ([run[key] for run in found[recipe]] for recipe in ("engine", "plain"))
    differences = [a - b for a, b in zip(engine, plain, strict=True)]
    middle = statistics.mean(differences)
    count = len(differences)
    half = T_QUANTILES[count] * statistics.stdev(differences) / count**0.5
    return {
        "engine": statistics.mean(engine),
        "plain": statistics.mean(plain),
        "difference": middle,
        "low": middle - half,
        "high": middle + half,
    }


if __name__ == "__main__":
    raise SystemExit(main())
