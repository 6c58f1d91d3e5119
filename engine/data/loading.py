"""Batches for a run: from where the images are kept, with as many workers as pay off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from config import Config, UserError
from config.schema import System
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
from engine.distributed import ALONE, Processes

EVALUATION_BATCH = 2  # times the training batch: no gradients are kept, so more fits
RESIDENT_SHARE = 0.3  # of the free memory of a GPU: the images may take no more of it


@dataclass(frozen=True)
class Loaders:
    """Loaders of the train and val parts of the split; each yields what its batches say."""

    train: Iterable[Batch]
    val: Iterable[Batch]
    train_batches: EpochBatches
    val_batches: EpochBatches
    chosen: dict[str, Any]  # the resolved values of `auto`, for the manifest


def batch_of_all(system: System, processes: Processes) -> int:
    """Images in a training batch of all processes together."""
    return system.batch_size * (processes.count if system.batch_per == "process" else 1)


def make_loaders(
    config: Config, data: Prepared, runtime: Runtime, processes: Processes = ALONE
) -> Loaders:
    """Loaders over images on the device where they fit, else read from the decode cache.

    Of several processes each loads its part of every batch. Raises UserError where that is not
    enough to train on.
    """
    system, split = config.system, data.split
    batch = batch_of_all(system, processes)
    if not processes.is_alone:
        _check_shares(data, batch, processes)
    balance = data.labels[split.train] if config.recipe.balance == "sampling" else None
    train = EpochBatches(len(split.train), batch, system.seed, True, balance, processes)
    size = batch * EVALUATION_BATCH
    val = EpochBatches(len(split.val), size, system.seed, shuffle=False, processes=processes)
    parts = ((split.train, train), (split.val, val))
    if _resident(config, data, runtime.device):
        images = torch.from_numpy(data.images[data.rows]).to(runtime.device)
        first, second = (ResidentLoader(images, data.labels, i, b) for i, b in parts)
        return Loaders(first, second, train, val, {"residency": "device", "num_workers": 0})
    sets = [ImageDataset(data.images, data.rows, data.labels, i) for i, _ in parts]
    workers, chosen = system.num_workers, dict[str, Any]()
    if not isinstance(workers, int):
        workers, seconds = choose_workers(sets[0], system.batch_size, runtime.device)
        chosen["batch_fetch_seconds"] = round(seconds, 6)
    chosen |= {"residency": "host", "num_workers": workers}
    loading = (workers, runtime.pin_memory, system.prefetch_factor)
    loaders = [make_loader(s, b, *loading) for s, b in zip(sets, (train, val), strict=True)]
    return Loaders(loaders[0], loaders[1], train, val, chosen)


def evaluation_loader(
    config: Config, data: Prepared, runtime: Runtime, indices: np.ndarray
) -> tuple[Iterable[Batch], EpochBatches]:
    """Batches of the records at `indices`, in order, for one pass."""
    system = config.system
    size = system.batch_size * EVALUATION_BATCH
    batches = EpochBatches(len(indices), size, system.seed, shuffle=False)
    dataset = ImageDataset(data.images, data.rows, data.labels, indices)
    loader = make_loader(dataset, batches, 0, runtime.pin_memory, system.prefetch_factor)
    return loader, batches


def batch_names(data: Prepared, batches: EpochBatches, epoch: int, step: int) -> str:
    """The images of batch `step` (1-based) of a training epoch, the first eight by name."""
    batches.set_epoch(epoch, skip_batches=step - 1)
    names = [data.names[i] for i in data.split.train[next(batches.whole())]]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")


def _check_shares(data: Prepared, batch: int, processes: Processes) -> None:
    least = min(
        int(np.bincount(data.labels[part], minlength=2).min())
        for part in (data.split.train, data.split.val)
    )
    if least < processes.count:
        raise UserError(
            f"{processes.count} processes are more than the images of the smallest class in a part "
            f"({least}); start fewer"
        )
    if batch < 2 * processes.count:
        raise UserError(
            f"system.batch_size: {processes.count} processes share {batch} images a step, and each "
            "needs at least two; use a larger one, or system.batch_per=process"
        )


def _resident(config: Config, data: Prepared, device: torch.device) -> bool:
    """Whether the images are kept on the device."""
    if config.data.residency != "auto":
        return config.data.residency == "device"
    if device.type != "cuda":
        return False
    needed = len(data.rows) * config.data.image_size**2
    return bool(needed <= torch.cuda.mem_get_info(device)[0] * RESIDENT_SHARE)
