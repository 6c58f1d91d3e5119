"""An epoch from JPEGs, after the first, beside the peers: `python -m benchmarks.epoch_vs_peers`

Same films, same ResNet50, same number of steps, one process, in turns. The peers: PyTorch
Lightning with torchmetrics at its defaults (fp32, no workers) and tuned as its documentation
advises (bf16-mixed, channels_last, workers, persistent); timm's loader and augmentation with a
bare loop; and the bare loop with our precision and layout. Needs `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.films import make_films
from benchmarks.input_path import usual_transform
from benchmarks.record import write_result
from config import Config, ConfigManager
from engine.data.augment import augment, normalise
from engine.data.dataset import Batch
from engine.data.loading import make_loaders
from engine.data.prepare import prepare
from engine.device import resolve
from engine.loop import EpochState, train_one_epoch
from engine.model import build_model

Contender = Callable[[], float]  # trains one epoch, gives its seconds


class Films(Dataset[tuple[torch.Tensor, int]]):
    """What the usual recipe's data set does: open, convert, transform, one film at a time."""

    def __init__(self, paths: list[Path], labels: list[int], transform: Any) -> None:
        self._paths, self._labels, self._transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        with Image.open(self._paths[at]) as image:
            return self._transform(image.convert("RGB")), self._labels[at]


def main() -> int:
    """Measure, print the table, write the JSON; 0 whatever the figures are."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--films", type=int, default=160, help="that train in an epoch")
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = make_films(Path(name) / "films", given.films * 5 // 4)
        config = ConfigManager.load(
            overrides={
                "output.cache_dir": f"{name}/cache",
                "data.image_size": given.image_size,
                "system.batch_size": given.batch_size,
                "model.weights": "none",
            },
            environ={},
        )
        contenders = make_contenders(folder, config)
        for turn in range(given.rounds + 1):
            for title, train in contenders.items():
                spent = train()
                if turn:
                    seconds.setdefault(title, []).append(spent)
    ours = statistics.median(seconds["pneumoscope"])
    figures: dict[str, Any] = {}
    for title, values in seconds.items():
        middle = statistics.median(values)
        figures[title] = {
            "epoch_seconds": middle,
            "lowest": min(values),
            "highest": max(values),
            "times_ours": middle / ours,
        }
        print(
            f"{title:34s} {middle:8.2f} s an epoch ({min(values):.2f} to {max(values):.2f})"
            f"   ours is {middle / ours:5.2f} times as fast"
        )
    name = f"epoch_vs_peers_{given.image_size}px"
    print("written to", write_result(name, vars(given), figures))
    return 0


def make_contenders(folder: Path, config: Config) -> dict[str, Contender]:
    """Ours and the peers, on the training films of our split."""
    prepared = prepare(folder, config)
    train = prepared.split.train.tolist()
    paths = [folder / prepared.names[i] for i in train]
    labels = [int(prepared.labels[i]) for i in train]
    size, batch = config.data.image_size, config.system.batch_size
    films = Films(paths, labels, usual_transform(size))
    return {
        "pneumoscope": second(ours(config, prepared)),
        "bare loop, our precision": second(bare(DataLoader(films, batch, shuffle=True), config)),
        "lightning, defaults": lightning(DataLoader(films, batch, shuffle=True), config, False),
        "lightning, tuned (2 workers)": lightning(
            DataLoader(films, batch, shuffle=True, num_workers=2, persistent_workers=True),
            config,
            True,
        ),
        "timm loader, bare loop (2 workers)": second(
            bare(timm_loader(paths, labels, config), config)
        ),
    }


def second(train: Contender) -> Contender:
    """Time the second of two epochs, as for Lightning: the one before it makes its kernels again,
    which five models in turns push out of the CPU library's cache."""

    def both() -> float:
        train()
        return train()

    return both


def ours(config: Config, prepared: Any) -> Contender:
    """The engine's loop over the decode cache."""
    steps = len(prepared.split.train) // config.system.batch_size
    runtime = resolve(config.system, steps)
    loaders = make_loaders(config, prepared, runtime)
    model = build_model(config.model, config.experiment.dropout_rate)
    model.to(runtime.device).to(memory_format=runtime.memory_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    epoch = 0

    def to_input(batch: Batch) -> torch.Tensor:
        images = batch.images.to(runtime.device, non_blocking=True)
        indices = batch.indices.to(runtime.device, non_blocking=True)
        grey = augment(images, indices, 42, epoch, config.augment)
        return normalise(grey).contiguous(memory_format=runtime.memory_format)

    def train() -> float:
        nonlocal epoch
        epoch += 1
        began = time.perf_counter()
        model.train()
        loaders.train_batches.set_epoch(epoch)
        train_one_epoch(
            model,
            loaders.train,
            loaders.train_batches.sizes(),
            to_input,
            optimizer,
            runtime.scaler(),
            runtime,
            EpochState(epoch),
            gradient_clip=1.0,
            accumulate=1,
            emit=lambda _: None,
            should_stop=lambda: False,
            after_step=lambda _: None,
        )
        return time.perf_counter() - began

    return train


def bare(loader: Any, config: Config) -> Contender:
    """What anybody would write around a loader of float images."""
    runtime = resolve(config.system, 1)
    model = build_model(config.model, config.experiment.dropout_rate).to(runtime.device)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def train() -> float:
        began = time.perf_counter()
        model.train()
        for images, labels in loader:
            images = images.to(runtime.device).contiguous(memory_format=torch.channels_last)
            with runtime.autocast():
                logits = model(images)
            loss = nn.functional.cross_entropy(logits.float(), labels.to(runtime.device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return train


def timm_loader(paths: list[Path], labels: list[int], config: Config) -> Any:
    """timm's own loader and augmentation, with two workers."""
    from timm.data import create_loader

    class Plain(Dataset[Any]):
        transform: Any = None

        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, at: int) -> Any:
            with Image.open(paths[at]) as image:
                return self.transform(image.convert("RGB")), labels[at]

    return create_loader(
        Plain(),
        (3, config.data.image_size, config.data.image_size),
        config.system.batch_size,
        is_training=True,
        use_prefetcher=False,
        scale=(0.9, 1.0),
        hflip=0.0,
        color_jitter=0.1,
        num_workers=2,
        persistent_workers=True,
    )


def lightning(loader: Any, config: Config, tuned: bool) -> Contender:
    """PyTorch Lightning with torchmetrics; the second epoch of each fit is timed."""
    import lightning.pytorch as pl
    import torchmetrics

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_model(config.model, config.experiment.dropout_rate)
            if tuned:
                self.model.to(memory_format=torch.channels_last)
            self.accuracy = torchmetrics.classification.BinaryAccuracy()
            self.auroc = torchmetrics.classification.BinaryAUROC()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            images, labels = batch
            if tuned:
                images = images.contiguous(memory_format=torch.channels_last)
            logits = self.model(images)
            loss = nn.functional.cross_entropy(logits, labels)
            scores = logits.detach().float().softmax(dim=1)[:, 1]
            self.accuracy(scores, labels)
            self.auroc(scores, labels)
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            self.log("train_accuracy", self.accuracy, on_step=False, on_epoch=True)
            self.log("train_auroc", self.auroc, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    class Clock(pl.Callback):
        epochs: list[float]

        def on_train_epoch_start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.epochs.append(time.perf_counter() - self.began)

    module = Classifier()

    def train() -> float:
        clock = Clock()
        clock.epochs = []
        trainer = pl.Trainer(
            max_epochs=2,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            precision="bf16-mixed" if tuned else "32-true",
        )
        trainer.fit(module, loader)
        return clock.epochs[1]

    return train


if __name__ == "__main__":
    raise SystemExit(main())
