"""Batches for a run: from where the images lie, with as many workers as pay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from config import Config
from engine.data.dataset import (
    Batch,
    EpochBatches,
    ImageDataset,
    ResidentLoader,
    choose_workers,
    make_loader,
)
from engine.data.prepare import Prepared
from engine.device import Runtime

EVALUATION_BATCH = 2  # times the training batch: no gradients are kept, so more fits
RESIDENT_SHARE = 0.3  # of the free memory of a GPU: the images may take no more of it


@dataclass(frozen=True)
class Loaders:
    """Both sides of the split; a loader yields what its batches say."""

    train: Iterable[Batch]
    val: Iterable[Batch]
    train_batches: EpochBatches
    val_batches: EpochBatches
    chosen: dict[str, Any]  # what `auto` came to, for the manifest


def make_loaders(config: Config, data: Prepared, runtime: Runtime) -> Loaders:
    """Loaders over images on the device where they fit, else over the memory map."""
    system, split = config.system, data.split
    train = EpochBatches(len(split.train), system.batch_size, system.seed, shuffle=True)
    size = system.batch_size * EVALUATION_BATCH
    val = EpochBatches(len(split.val), size, system.seed, shuffle=False)
    sides = ((split.train, train), (split.val, val))
    if _resident(config, data, runtime.device):
        images = torch.from_numpy(data.images[data.rows]).to(runtime.device)
        first, second = (ResidentLoader(images, data.labels, i, b) for i, b in sides)
        return Loaders(first, second, train, val, {"residency": "device", "num_workers": 0})
    sets = [ImageDataset(data.images, data.rows, data.labels, i) for i, _ in sides]
    workers, chosen = system.num_workers, dict[str, Any]()
    if not isinstance(workers, int):
        workers, seconds = choose_workers(sets[0], system.batch_size, runtime.device)
        chosen["batch_fetch_seconds"] = round(seconds, 6)
    chosen |= {"residency": "host", "num_workers": workers}
    loading = (workers, runtime.pin_memory, system.prefetch_factor)
    loaders = [make_loader(s, b, *loading) for s, b in zip(sets, (train, val), strict=True)]
    return Loaders(loaders[0], loaders[1], train, val, chosen)


def _resident(config: Config, data: Prepared, device: torch.device) -> bool:
    """Whether the images are kept on the device."""
    if config.data.residency != "auto":
        return config.data.residency == "device"
    if device.type != "cuda":
        return False
    needed = len(data.rows) * config.data.image_size**2
    return bool(needed <= torch.cuda.mem_get_info(device)[0] * RESIDENT_SHARE)
