"""How long from JPEGs to a good model? `python -m benchmarks.time_to_quality`

Wall-clock until the *test* AUROC reaches each target: our defaults beside PyTorch Lightning, at its
defaults (fp32, one process) and tuned (bf16-mixed, channels_last, persistent workers, OneCycleLR).
The same images, split, ResNet50 from scratch and size; preparing and validating are counted,
scoring the test part is not. Each training is a process of its own, in turns over the seeds; what
does not reach a target within the epochs has no time. Needs `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.input_path import usual_transform
from benchmarks.lib.ablation import RecordedRun
from benchmarks.lib.record import write_result
from benchmarks.peers import ScoredImages
from config import Config, ConfigManager
from engine import metrics
from engine.data.prepare import prepare
from engine.model.resnet import build_model
from engine.stop import StopRequest
from engine.trainer import seed_everything

DEFAULT_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
OURS, USUAL, TUNED = "pneumoscope", "lightning, defaults", "lightning, tuned"
TITLES = (OURS, TUNED, USUAL)
SPLIT_SEED = 0


class Clock:
    """Seconds at which each target was first reached, without the time of test scoring."""

    def __init__(self, targets: list[float]) -> None:
        self.began = time.perf_counter()
        self.left_out = 0.0
        self.reached: dict[float, float | None] = dict.fromkeys(targets)
        self.areas: list[float] = []

    def score(self, score: Callable[[], tuple[np.ndarray, np.ndarray]]) -> bool:
        """Call `score` (scores and labels of the test part); whether every target is reached."""
        now = time.perf_counter()
        self.areas.append(metrics.auroc(*score()))
        for target, before in self.reached.items():
            if before is None and self.areas[-1] >= target:
                self.reached[target] = now - self.began - self.left_out
        self.left_out += time.perf_counter() - now
        return None not in self.reached.values()


def main() -> int:
    """Train all, print the medians, write the JSON; 0 always."""
    folder = Path(os.environ.get("PNEUMOSCOPE_DEV_DATA", DEFAULT_DATA))
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dataset", type=Path, default=folder / "chest_xray_dev.zip")
    options.add_argument("--image-size", type=int, default=64)
    options.add_argument("--epochs", type=int, default=30, help="at most")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--backbone", default="resnet50")
    options.add_argument("--targets", type=float, nargs="+", default=[0.985, 0.99])
    given = options.parse_args()
    if not given.dataset.exists():
        print(f"skipped: {given.dataset} is not here (--dataset, or PNEUMOSCOPE_DEV_DATA)")
        return 0
    found: dict[str, list[dict[str, Any]]] = {title: [] for title in TITLES}
    with tempfile.TemporaryDirectory() as name:
        with zipfile.ZipFile(given.dataset) as archive:
            archive.extractall(f"{name}/images")
        for seed in range(1, given.seeds + 1):
            for title in TITLES:
                found[title].append(in_own_process(title, Path(name), given, seed))
                print(f"seed {seed}, {title}: {found[title][-1]}", flush=True)
    figures = {title: summary(runs, given.targets) for title, runs in found.items()}
    for title, of in figures.items():
        times = ", ".join(f"{target}: {of[str(target)]['median']}" for target in given.targets)
        print(f"{title}: median seconds to a test AUROC of {times}")
    shown = {**vars(given), "dataset": given.dataset.name}
    print("written to", write_result("time_to_quality", shown, {"runs": found, **figures}))
    return 0


def summary(runs: list[dict[str, Any]], targets: list[float]) -> dict[str, Any]:
    """For each target the median seconds (None: most runs did not reach it) and their spread."""
    result: dict[str, Any] = {}
    for target in targets:
        times = sorted(run["seconds"].get(str(target)) or float("inf") for run in runs)
        middle = statistics.median(times)
        ends = [None if value == float("inf") else value for value in (times[0], times[-1])]
        result[str(target)] = {
            "median": None if middle == float("inf") else middle,
            "lowest": ends[0],
            "highest": ends[1],
        }
    return result


def in_own_process(title: str, folder: Path, given: argparse.Namespace, seed: int) -> Any:
    """What `contend` returns."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(contend, title, folder, given, seed).result()


def contend(title: str, folder: Path, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train one contender with one seed: seconds to each target, and the AUROC of every epoch."""
    multiprocessing.set_start_method("fork", force=True)  # of loaders' workers, as is usual
    with tempfile.TemporaryDirectory() as name:
        config = settings(Path(name), given, seed)
        seed_everything(seed)
        clock = Clock(given.targets)
        if title == OURS:
            train_ours(folder / "images", config, clock)
        else:
            train_lightning(folder / "images", config, clock, title == TUNED)
    return {
        "seconds": {str(target): value for target, value in clock.reached.items()},
        "test_auroc": clock.areas,
    }


def settings(folder: Path, given: argparse.Namespace, seed: int) -> Config:
    """The defaults, without early stopping."""
    names = ("checkpoint_dir", "log_dir", "results_dir", "cache_dir")
    return ConfigManager.load(
        overrides={
            "system.seed": seed,
            "data.split_seed": SPLIT_SEED,
            "system.test_split": 0.2,
            "data.image_size": given.image_size,
            "experiment.epochs": given.epochs,
            "experiment.early_stopping_patience": 100_000,
            "model.backbone": given.backbone,
            "model.weights": "none",
            **{f"output.{key}": str(folder / key) for key in names},
        },
        environ={},
    )


def train_ours(dataset: Path, config: Config, clock: Clock) -> None:
    """The engine's run, from decoding on."""
    stop = StopRequest()

    class Timed(RecordedRun):
        """Stops once every target is reached."""

        def score_test(self, *arguments: Any) -> None:
            def score() -> tuple[np.ndarray, np.ndarray]:
                super(Timed, self).score_test(*arguments)
                return self.epochs[-1].test_scores, self.epochs[-1].test_labels

            if clock.score(score):
                stop.set("every target is reached")

    data = prepare(dataset, config)
    network = build_model(
        config.model,
        config.experiment.dropout_rate,
        config.data.image_size,
        config.recipe.zero_init,
    )
    run = Timed(1, "0" * 32, "timed", config, data, network, lambda _: None, stop)
    with run.threads, run.saving.snapshots:
        run.train(resume=False)


def train_lightning(dataset: Path, config: Config, clock: Clock, tuned: bool) -> None:
    """Lightning's Trainer with a validation after each epoch."""
    import lightning.pytorch as pl
    import torchmetrics

    data = prepare(dataset, config)  # for the split alone: its time is not counted
    clock.began = time.perf_counter()
    more: dict[str, Any] = {"num_workers": 2, "persistent_workers": True} if tuned else {}

    def loader(part: np.ndarray, shuffle: bool) -> DataLoader[Any]:
        paths = [dataset / data.names[i] for i in part.tolist()]
        labels = data.labels[part].tolist()
        images = ScoredImages(paths, labels, usual_transform(config.data.image_size))
        if not shuffle:  # as they are
            images.transform = plain_transform(config.data.image_size)
        return DataLoader(images, config.system.batch_size, shuffle=shuffle, **more)

    train, val = loader(data.split.train, True), loader(data.split.val, False)
    test = loader(data.split.test, False)

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_model(config.model, config.experiment.dropout_rate)
            if tuned:
                self.model.to(memory_format=torch.channels_last)
            self.auroc = torchmetrics.classification.BinaryAUROC()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if tuned:
                images = images.contiguous(memory_format=torch.channels_last)
            return self.model(images)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            self.auroc(self(batch[0]).float().softmax(dim=1)[:, 1], batch[1])
            self.log("val_auroc", self.auroc, on_step=False, on_epoch=True)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            if not tuned:
                return optimizer
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=1e-3, total_steps=int(self.trainer.estimated_stepping_batches)
            )
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    class Scoring(pl.Callback):
        def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
            def score() -> tuple[np.ndarray, np.ndarray]:
                scores = [module(x.to(module.device)).float().softmax(1)[:, 1] for x, _ in test]
                return torch.cat(scores).double().cpu().numpy(), data.labels[data.split.test]

            if not trainer.sanity_checking and clock.score(score):
                trainer.should_stop = True

    trainer = pl.Trainer(
        max_epochs=config.experiment.epochs,
        callbacks=[Scoring()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        precision="bf16-mixed" if tuned else "32-true",
    )
    trainer.fit(Classifier(), train, val)


def plain_transform(side: int) -> Any:
    """Resized and normalised, without augmentation."""
    from torchvision import transforms

    from engine.data.inputs import MEAN, STD

    steps = [transforms.Resize((side, side)), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])


if __name__ == "__main__":
    raise SystemExit(main())
