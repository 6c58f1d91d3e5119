"""The contenders of `epoch_vs_peers`: ours, and the peers' recipes. Each trains ResNet50."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.input_path import usual_transform
from config import Config
from engine.data.augment import epoch_parameters
from engine.data.dataset import Batch
from engine.data.inputs import training_inputs
from engine.data.loading import make_loaders
from engine.data.prepare import Prepared, prepare
from engine.device import Runtime, resolve
from engine.model.resnet import build_model
from engine.training.loop import ToInput, train_one_epoch
from engine.training.progress import Emit, EpochState

Contender = Callable[[], float]  # trains, and gives the seconds of one epoch

OURS, BARE, TIMM = "pneumoscope", "bare loop, our precision", "timm loader, bare loop (2 workers)"
USUAL, TUNED = "lightning, defaults", "lightning, tuned (2 workers)"
TITLES = (OURS, BARE, TIMM, TUNED, USUAL)


class ScoredImages(Dataset[tuple[torch.Tensor, int]]):
    """What the usual recipe's data set does: open, convert, transform, one image at a time."""

    def __init__(self, paths: list[Path], labels: list[int], transform: Any) -> None:
        self._paths, self._labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        with Image.open(self._paths[at]) as image:
            return self.transform(image.convert("RGB")), self._labels[at]


def make_contender(title: str, folder: Path, config: Config) -> Contender:
    """One of TITLES, on the training images of our split of the data set in `folder`."""
    prepared = prepare(folder, config)
    if title == OURS:
        return ours(config, prepared)
    train = prepared.split.train.tolist()
    paths = [folder / prepared.names[i] for i in train]
    labels = [int(prepared.labels[i]) for i in train]
    images = ScoredImages(paths, labels, usual_transform(config.data.image_size))
    if title == TIMM:
        return bare(timm_loader(images, config), config)
    batch = config.system.batch_size
    if title == BARE:
        return bare(DataLoader(images, batch, shuffle=True), config)
    if title == USUAL:
        return lightning(DataLoader(images, batch, shuffle=True), config, tuned=False)
    workers: dict[str, Any] = {"num_workers": 2, "persistent_workers": True}
    return lightning(DataLoader(images, batch, shuffle=True, **workers), config, tuned=True)


def ours(config: Config, prepared: Prepared) -> Contender:
    """The engine's loop over the decode cache."""
    steps = len(prepared.split.train) // config.system.batch_size
    runtime = resolve(config.system, steps)
    loaders = make_loaders(config, prepared, runtime)
    model = build_model(config.model, config.experiment.dropout_rate)
    model.to(runtime.device).to(memory_format=runtime.memory_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    epoch = 0

    def train() -> float:
        nonlocal epoch
        epoch += 1
        began = time.perf_counter()
        model.train()
        parameters = epoch_parameters(
            len(prepared.labels), 42, epoch, config.augment, config.data.image_size
        ).to(runtime.device)

        def to_input(batch: Batch) -> torch.Tensor:
            return training_inputs(batch, parameters, runtime, 42, config.augment)

        loaders.train_batches.set_epoch(epoch)
        sizes = loaders.train_batches.sizes()
        engine_epoch(model, optimizer, loaders.train, sizes, to_input, runtime, epoch)
        return time.perf_counter() - began

    return train


def engine_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[Batch],
    sizes: list[int],
    to_input: ToInput,
    runtime: Runtime,
    epoch: int,
    emit: Emit = lambda _: None,
) -> None:
    """The engine's own loop, once over `loader`; `sizes` are the images in each of its batches."""
    train_one_epoch(
        model,
        loader,
        sizes,
        to_input,
        optimizer,
        runtime.scaler(),
        runtime,
        EpochState(epoch),
        gradient_clip=1.0,
        accumulate=1,
        emit=emit,
        should_stop=lambda: False,
        after_step=lambda _: None,
    )


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


def timm_loader(images: ScoredImages, config: Config) -> Any:
    """timm's own loader, which gives the images its own augmentation, with two workers."""
    from timm.data import create_loader

    return create_loader(
        images,
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

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its import has set another

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
