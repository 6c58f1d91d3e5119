"""Augmentation: keyed per image, exact at zero strength, and moving what it says it moves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from config.schema import Augment
from engine.data.augment import augment, uniform
from engine.data.inputs import MEAN, STD, normalise, to_float

NONE = Augment(rotate=0, translate=0, scale=0, brightness=0, contrast=0, noise=0)
ALL = Augment(flip=0.5, rotate=20, erase=0.5, noise=0.1)


def make_images(count: int = 12, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand((count, 1, 6, 6), generator=generator)
    smooth = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8), torch.arange(count) * 7


def test_at_zero_strength_nothing_changes() -> None:
    images, index = make_images()
    assert torch.equal(augment(to_float(images), index, 42, 1, NONE), to_float(images))


def test_a_warp_of_nearly_nothing_moves_no_grey_level() -> None:
    images, index = make_images()
    nearly = dataclasses.replace(NONE, rotate=1e-4, scale=1e-6, translate=1e-6)
    found = augment(to_float(images), index, 42, 1, nearly)
    assert (found - to_float(images)).abs().max() < 1 / 255


@pytest.mark.parametrize("settings", [Augment(), ALL])
def test_a_image_is_the_same_in_every_batch(settings: Augment) -> None:
    images, index = make_images()
    whole = augment(to_float(images), index, 42, 3, settings)
    alone = [
        augment(to_float(images[i : i + 1]), index[i : i + 1], 42, 3, settings) for i in range(12)
    ]
    assert torch.equal(whole, torch.cat(alone))
    order = torch.randperm(12)
    assert torch.equal(
        augment(to_float(images[order]), index[order], 42, 3, settings), whole[order]
    )


def test_images_epochs_and_seeds_differ() -> None:
    image, _ = make_images(1)
    keys = [(seed, epoch, i) for seed in (1, 2) for epoch in (1, 2) for i in (0, 1)]
    found = [augment(to_float(image), torch.tensor([i]), s, e, Augment()) for s, e, i in keys]
    for one in range(len(found)):
        for other in range(one):
            assert not torch.equal(found[one], found[other])


def test_the_random_numbers_are_uniform_and_unrelated() -> None:
    draws = uniform(42, 1, torch.arange(20_000)).double().numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 12, atol=0.003)
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 0.035
    following = uniform(42, 2, torch.arange(20_000)).double().numpy()
    assert abs(np.corrcoef(draws[:, 0], following[:, 0])[0, 1]) < 0.035


def test_a_flip_mirrors_and_nothing_else() -> None:
    images, index = make_images()
    found = augment(to_float(images), index, 42, 1, dataclasses.replace(NONE, flip=1.0))
    assert (found - to_float(images).flip(3)).abs().max() < 1e-4


def test_a_shift_is_as_large_as_it_says() -> None:
    side = 100
    image = torch.zeros((1, 1, side, side), dtype=torch.uint8)
    image[0, 0, 50, 50] = 255
    settings = dataclasses.replace(NONE, translate=0.1)
    for index in range(40):
        found = augment(to_float(image), torch.tensor([index]), 42, 1, settings)[0, 0]
        place = np.unravel_index(int(found.argmax()), (side, side))
        assert max(abs(int(p) - 50) for p in place) <= 11


def test_values_stay_in_range_and_finite() -> None:
    images, index = make_images()
    black = torch.zeros_like(images)
    strong = Augment(brightness=1, contrast=0.9, noise=1, erase=1, flip=0.5, rotate=180, scale=0.9)
    for given in (images, black):
        found = augment(to_float(given), index, 42, 1, strong)
        assert torch.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1


def test_erasing_leaves_most_of_the_image() -> None:
    images, index = make_images()
    found = augment(to_float(images), index, 42, 1, dataclasses.replace(NONE, erase=1.0))
    changed = (found != to_float(images)).double().mean(dim=(1, 2, 3))
    assert (changed > 0).all()
    assert (changed < 0.2).all()


def test_normalise_gives_three_channels_with_imagenets_figures() -> None:
    grey = torch.rand((2, 1, 4, 4))
    found = normalise(grey)
    assert found.shape == (2, 3, 4, 4)
    for channel in range(3):
        expected = (grey[:, 0] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(found[:, channel], expected)
