"""The one path from a batch of uint8 images to what the network takes.

Training, evaluation and prediction all come through here, always in float32: never call these
functions inside autocast, where the sampling grid of the augmentation has 8 bits of precision.
"""

from __future__ import annotations

import functools

import torch

from config.schema import Augment
from engine.data.augment import augment
from engine.data.dataset import Batch
from engine.device import Runtime

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which the pretrained backbones expect
STD = (0.229, 0.224, 0.225)


def training_inputs(
    batch: Batch, runtime: Runtime, seed: int, epoch: int, settings: Augment
) -> torch.Tensor:
    """Augmented inputs, float32 [B, 3, S, S] on the runtime's device."""
    images = batch.images.to(runtime.device, non_blocking=True)
    index = batch.indices.to(runtime.device, non_blocking=True)
    grey = augment(to_float(images), index, seed, epoch, settings)
    return normalise(grey).contiguous(memory_format=runtime.memory_format)


def evaluation_inputs(images: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    """uint8 [B, 1, S, S] -> inputs as they are, float32 [B, 3, S, S] on the runtime's device."""
    grey = to_float(images.to(runtime.device, non_blocking=True))
    return normalise(grey).contiguous(memory_format=runtime.memory_format)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 of any shape -> float32 in 0..1."""
    return images.float().div_(255)


def normalise(grey: torch.Tensor) -> torch.Tensor:
    """float [B, 1, S, S] in 0..1 -> [B, 3, S, S], ImageNet's mean and deviation."""
    mean, std = _channel_constants(grey.device)
    return (grey - mean).div_(std)


@functools.cache
def _channel_constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Made once for a device: making them in every step would wait for it."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return mean, std
