"""Augmentation in batches, on the device, with every image's own parameters.

The parameters are a counter-based hash of (seed, epoch, image): the same whatever the batch size,
the workers or the number of ranks.
"""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional

from config.schema import Augment

DRAWS = 16  # random numbers for each image and epoch
NOISE_BANK = 2  # times the side: room for many different crops
_64_BITS = (1 << 64) - 1


def augment(
    x: torch.Tensor, index: torch.Tensor, seed: int, epoch: int, settings: Augment
) -> torch.Tensor:
    """float32 [B, 1, S, S] in 0..1 and record indices [B] -> the same shape, changed at random."""
    draws = uniform(seed, epoch, index)  # [B, DRAWS] in 0..1
    signed = draws * 2 - 1
    if settings.flip or settings.rotate or settings.translate or settings.scale:
        x = _affine(x, draws, signed, settings)
    if settings.contrast:
        # Around the image's own mean; a mean per image does not depend on its neighbours.
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = torch.lerp(mean, x, 1 + _column(signed, 5) * settings.contrast)
    if settings.brightness:
        x = x + _column(signed, 6) * settings.brightness
    if settings.noise:
        x = x + _noise(x, draws, seed) * (_column(draws, 7) * settings.noise)
    if settings.erase:
        x = _erase(x, draws, settings.erase)
    return x.clamp_(0, 1)


def uniform(seed: int, epoch: int, index: torch.Tensor) -> torch.Tensor:
    """float32 [B, DRAWS] in [0, 1) for image indices int64 [B].

    SplitMix64 (Steele, Lea and Flood, 2014) over a counter of image and draw; the key is seed and
    epoch.
    """
    key = _mix_int((seed << 32) ^ epoch)
    counter = index[:, None] * DRAWS + torch.arange(DRAWS, device=index.device)
    bits = _mix(counter * _signed(0x9E3779B97F4A7C15) + _signed(key))
    return _shift(bits, 40).float() / (1 << 24)


def _mix(z: torch.Tensor) -> torch.Tensor:
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _mix_int(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return z ^ (z >> 31)


def _shift(z: torch.Tensor, by: int) -> torch.Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _column(draws: torch.Tensor, number: int) -> torch.Tensor:
    return draws[:, number].view(-1, 1, 1, 1)


def _affine(
    x: torch.Tensor, draws: torch.Tensor, signed: torch.Tensor, settings: Augment
) -> torch.Tensor:
    """Mirror, turn, zoom and shift in one resampling; the border continues outwards."""
    angle = signed[:, 0] * math.radians(settings.rotate)
    zoom = 1 + signed[:, 1] * settings.scale
    mirror = torch.where(draws[:, 4] < settings.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift = signed[:, 2:4] * 2 * settings.translate  # the grid spans -1 to 1
    rows = (cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1])
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _noise(x: torch.Tensor, draws: torch.Tensor, seed: int) -> torch.Tensor:
    """Standard normal noise: a crop of one seeded bank, at every image's own place and sign."""
    side = x.shape[-1]
    bank = _noise_bank(side, seed, x.device)
    room = bank.shape[-1] - side
    top = (draws[:, 8] * room).long()
    left = (draws[:, 9] * room).long()
    span = torch.arange(side, device=x.device)
    crops = bank[(top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :]]
    sign = torch.where(draws[:, 10] < 0.5, -1.0, 1.0).view(-1, 1, 1)
    return (crops * sign)[:, None]


@functools.lru_cache(maxsize=1)  # one run has one size, one seed and one device
def _noise_bank(side: int, seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    return torch.randn(side * NOISE_BANK, side * NOISE_BANK, generator=generator).to(device)


def _erase(x: torch.Tensor, draws: torch.Tensor, probability: float) -> torch.Tensor:
    """A grey rectangle of a tenth to a third of each side, on some images (Zhong et al., 2020)."""
    side = x.shape[-1]
    size = (draws[:, 12:14] * (side / 3 - side / 10) + side / 10).long()
    start = (draws[:, 14:16] * (side - size)).long()
    span = torch.arange(side, device=x.device)
    inside = (span >= start[..., None]) & (span < (start + size)[..., None])  # [B, 2, S]
    chosen = draws[:, 11] < probability
    mask = inside[:, 0, :, None] & inside[:, 1, None, :] & chosen[:, None, None]
    return torch.where(mask[:, None], 0.5, x)
