"""Augmentation in batches, on the device, with every image's own parameters.

The random numbers of an epoch are one table with a row for each record, made once: an image is
changed in the same way whatever the batch size, the workers or the number of ranks. What a step
has to do is then a handful of operations on the device, all in float32: none is a matrix product,
which autocast or TF32 would compute with 8 or 11 bits.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch.nn import functional

from config.schema import Augment

DRAWS = 16  # random numbers for each record and epoch
STREAM = 1  # of the generator keyed by seed and epoch; the order of the epoch is drawn from 0
NOISE_BANK = 2  # times the side: room for many different crops
# Columns of an epoch's parameters.
THETA, GAIN, OFFSET, NOISE, CROP, BOX = (
    slice(0, 6),  # the affine map, row by row
    6,  # contrast
    7,  # brightness
    8,  # signed amplitude of the noise
    slice(9, 11),  # top and left of the crop of noise
    slice(11, 15),  # top, left, bottom and right of the erased box; empty where nothing is erased
)


def uniform(records: int, seed: int, epoch: int) -> np.ndarray:
    """float32 [records, DRAWS] in [0, 1): the random numbers of `epoch`, a row for each record."""
    generator = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, STREAM])
    return np.random.Generator(generator).random((records, DRAWS), dtype=np.float32)


def epoch_parameters(
    records: int, seed: int, epoch: int, settings: Augment, side: int
) -> torch.Tensor:
    """float32 [records, 15] on the CPU: how each image of `side` pixels is changed in `epoch`."""
    draws = torch.from_numpy(uniform(records, seed, epoch))
    signed = draws * 2 - 1
    angle = signed[:, 0] * math.radians(settings.rotate)
    zoom = 1 + signed[:, 1] * settings.scale
    mirror = torch.where(draws[:, 4] < settings.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift = signed[:, 2:4] * 2 * settings.translate  # coordinates span -1 to 1
    theta = (cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1])
    amplitude = draws[:, 7] * torch.where(draws[:, 10] < 0.5, -settings.noise, settings.noise)
    crop = (draws[:, 8:10] * (side * (NOISE_BANK - 1))).floor()
    # A grey box of a tenth to a third of each side, on some images (Zhong et al., 2020).
    size = (draws[:, 12:14] * (side / 3 - side / 10) + side / 10).floor()
    size *= draws[:, 11:12] < settings.erase
    start = (draws[:, 14:16] * (side - size)).floor()
    columns = [*theta, 1 + signed[:, 5] * settings.contrast, signed[:, 6] * settings.brightness]
    return torch.cat((torch.stack([*columns, amplitude], dim=1), crop, start, start + size), dim=1)


def augment(
    x: torch.Tensor, parameters: torch.Tensor, seed: int, settings: Augment
) -> torch.Tensor:
    """float32 [B, 1, S, S] in 0..1 -> the same shape, changed at random.

    `parameters` [B, 15] are the images' rows of `epoch_parameters`, on the images' device.
    """
    side = x.shape[-1]
    per_image = parameters[:, :, None, None, None]  # [B, 15, 1, 1, 1]: a column is [B, 1, 1, 1]
    if settings.flip or settings.rotate or settings.translate or settings.scale:
        x = _affine(x, parameters[:, THETA].view(-1, 2, 3))
    if settings.contrast or settings.brightness:
        # Contrast is around the image's own mean, which does not depend on its neighbours.
        mean, gain = x.mean(dim=(1, 2, 3), keepdim=True), per_image[:, GAIN]
        constant = torch.addcmul(mean + per_image[:, OFFSET], mean, gain, value=-1)
        x = torch.addcmul(constant, x, gain)
    if settings.noise:
        windows = _noise_windows(side, seed, x.device)
        top, left = parameters[:, CROP].long().unbind(1)
        x = torch.addcmul(x, windows[top, left][:, None], per_image[:, NOISE])
    if settings.erase:
        span = _span(side, x.device)
        box = parameters[:, BOX].view(-1, 2, 2, 1)  # [B, start or end, row or column, 1]
        inside = (span >= box[:, 0]) & (span < box[:, 1])  # [B, 2, S]
        x = torch.where(inside[:, None, 0, :, None] & inside[:, None, 1, None], 0.5, x)
    return x.clamp_(0, 1)


def _affine(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Mirror, turn, zoom and shift in one resampling; the border continues outwards.

    `theta` [B, 2, 3] maps coordinates of the result to those of `x`, both -1 to 1.
    """
    places = _places(x.shape[-1], x.device)
    a, b, c = theta[:, None, None].unbind(-1)  # each [B, 1, 1, 2], for column and row
    rows = torch.addcmul(c, places.view(-1, 1, 1), b)  # [B, S, 1, 2]
    grid = torch.addcmul(rows, places.view(-1, 1), a)  # [B, S, S, 2]
    if x.device.type == "mps":  # torch before 2.13 has no border padding there; this is the same
        limit = 1 - 1 / x.shape[-1]
        grid.clamp_(-limit, limit)
        return functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


@functools.cache
def _places(side: int, device: torch.device) -> torch.Tensor:
    """float32 [side]: the pixels' centres, where the image spans -1 to 1."""
    return ((torch.arange(side, dtype=torch.float64) * 2 + 1) / side - 1).float().to(device)


@functools.cache
def _span(side: int, device: torch.device) -> torch.Tensor:
    return torch.arange(side, device=device, dtype=torch.float32)


@functools.lru_cache(maxsize=1)  # one run has one size, one seed and one device
def _noise_windows(side: int, seed: int, device: torch.device) -> torch.Tensor:
    """A view [side + 1, side + 1, side, side]: every window of one bank of normal noise."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    bank = torch.randn(side * NOISE_BANK, side * NOISE_BANK, generator=generator).to(device)
    return bank.unfold(0, side, 1).unfold(1, side, 1)
