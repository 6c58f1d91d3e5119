"""The one path from a batch of uint8 images to what the network takes.

Training, evaluation and prediction all come through here, always in float32: never call these
functions inside autocast, where the sampling grid of the augmentation has 8 bits of precision.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional

from config.schema import Augment
from engine.data.augment import augment
from engine.data.dataset import Batch
from engine.device import Runtime

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which the pretrained backbones expect
STD = (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = 0.449, 0.226  # their means, of an input with one channel


def training_inputs(
    batch: Batch,
    parameters: torch.Tensor,
    runtime: Runtime,
    seed: int,
    settings: Augment,
    channels: int = 3,
    side: int | None = None,
) -> torch.Tensor:
    """Augmented inputs, float32 [B, channels, S, S] on the runtime's device.

    `parameters` are the epoch's, of all records (`augment.epoch_parameters`), on that device.
    With `side`, the images are first reduced to it by averaging.
    """
    images = batch.images.to(runtime.device, non_blocking=runtime.non_blocking)
    index = batch.indices.to(runtime.device, non_blocking=runtime.non_blocking)
    grey = to_float(images)
    if side is not None and side != grey.shape[-1]:
        grey = functional.adaptive_avg_pool2d(grey, side)
    return normalise(augment(grey, parameters[index], seed, settings), channels)


def evaluation_inputs(images: torch.Tensor, runtime: Runtime, channels: int = 3) -> torch.Tensor:
    """uint8 [B, 1, S, S] -> inputs, float32 [B, channels, S, S] on the runtime's device."""
    moved = images.to(runtime.device, non_blocking=runtime.non_blocking)
    return normalise(to_float(moved), channels)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 of any shape -> float32 in 0..1."""
    return images.div(255)


def normalise(grey: torch.Tensor, channels: int = 3) -> torch.Tensor:
    """float32 [B, 1, S, S] in 0..1 -> [B, channels, S, S] by ImageNet's mean and deviation.

    The result has the memory format channels_last, written in one operation. `channels` is 1 or 3.
    """
    factor, constant = _channel_constants(grey.device, channels)
    if torch.compiler.is_exporting():  # an exported program cannot write into `out`
        return torch.addcmul(constant, grey, factor)
    count, _, height, width = grey.shape
    shape = (count, channels, height, width)
    result = torch.empty(shape, device=grey.device, memory_format=torch.channels_last)
    return torch.addcmul(constant, grey, factor, out=result)


@functools.cache
def _channel_constants(device: torch.device, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """1 / deviation and -mean / deviation: made in every step, they would wait for the device."""
    of = (MEAN, STD) if channels == 3 else ((GREY_MEAN,), (GREY_STD,))
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in of)
    return (1 / std).float().to(device), (-mean / std).float().to(device)
