"""Augmentation: keyed per image, exact at zero strength, and moving what it says it moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from config.schema import Augment, System
from engine.data.augment import GAIN, NOISE, OFFSET, THETA, augment, epoch_parameters, uniform
from engine.data.dataset import Batch, epoch_order
from engine.data.inputs import MEAN, STD, normalise, to_float, training_inputs
from engine.device import resolve

NONE = Augment(rotate=0, translate=0, scale=0, brightness=0, contrast=0, noise=0)
Operations = Callable[[Callable[[], object]], list[str]]
ALL = Augment(flip=0.5, rotate=20, erase=0.5, noise=0.1)


def make_images(count: int = 12, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand((count, 1, 6, 6), generator=generator)
    smooth = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8), torch.arange(count) * 7


def changed(
    images: torch.Tensor, index: torch.Tensor, settings: Augment, seed: int = 42, epoch: int = 1
) -> torch.Tensor:
    table = epoch_parameters(1000, seed, epoch, settings, images.shape[-1])
    return augment(to_float(images), table[index], seed, settings)


def test_at_zero_strength_nothing_changes() -> None:
    images, index = make_images()
    assert torch.equal(changed(images, index, NONE), to_float(images))


def test_a_warp_of_nearly_nothing_moves_no_grey_level() -> None:
    images, index = make_images()
    nearly = dataclasses.replace(NONE, rotate=1e-4, scale=1e-6, translate=1e-6)
    assert (changed(images, index, nearly) - to_float(images)).abs().max() < 1 / 255


@pytest.mark.parametrize("settings", [Augment(), ALL])
def test_an_image_is_the_same_in_every_batch(settings: Augment) -> None:
    images, index = make_images()
    whole = changed(images, index, settings)
    alone = [changed(images[i : i + 1], index[i : i + 1], settings) for i in range(12)]
    assert torch.equal(whole, torch.cat(alone))
    order = torch.randperm(12)
    assert torch.equal(changed(images[order], index[order], settings), whole[order])


def test_images_epochs_and_seeds_differ() -> None:
    image, _ = make_images(1)
    keys = [(seed, epoch, i) for seed in (1, 2) for epoch in (1, 2) for i in (0, 1)]
    found = [changed(image, torch.tensor([i]), Augment(), s, e) for s, e, i in keys]
    for one in range(len(found)):
        for other in range(one):
            assert not torch.equal(found[one], found[other])


def test_the_random_numbers_are_uniform_and_unrelated() -> None:
    draws = uniform(20_000, seed=42, epoch=1).astype(np.float64)
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 12, atol=0.003)
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 0.035
    following = uniform(20_000, seed=42, epoch=2)
    assert abs(np.corrcoef(draws[:, 0], following[:, 0])[0, 1]) < 0.035
    order = epoch_order(20_000, seed=42, epoch=1)  # from the same key
    assert np.abs(np.corrcoef(draws.T, order)[-1, :-1]).max() < 0.035


def test_a_records_numbers_do_not_depend_on_how_many_records_there_are() -> None:
    np.testing.assert_array_equal(uniform(10, 42, 1), uniform(1000, 42, 1)[:10])


def test_the_table_of_100_000_images_is_small() -> None:
    table = epoch_parameters(100_000, 42, 1, ALL, 224)
    assert table.dtype == torch.float32
    assert table.numel() * 4 <= 6_400_000


def test_the_warp_is_that_of_an_affine_grid() -> None:
    images, index = make_images()
    settings = dataclasses.replace(NONE, rotate=20, translate=0.1, scale=0.2, flip=0.5)
    theta = epoch_parameters(1000, 42, 1, settings, 24)[index][:, THETA].view(-1, 2, 3).double()
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    expected = functional.grid_sample(
        to_float(images).double(), grid, padding_mode="border", align_corners=False
    )
    assert (changed(images, index, settings) - expected).abs().max() < 1e-5


def test_a_clamped_grid_is_border_padding() -> None:
    """What is done on MPS, where torch before 2.13 refuses border padding."""
    images, _ = make_images(4)
    grid = torch.rand((4, 24, 24, 2), generator=torch.Generator().manual_seed(2)) * 4 - 2
    border = functional.grid_sample(
        to_float(images), grid, padding_mode="border", align_corners=False
    )
    limit = 1 - 1 / 24
    clamped = functional.grid_sample(
        to_float(images), grid.clamp(-limit, limit), align_corners=False
    )
    assert (border - clamped).abs().max() < 1e-5


def test_contrast_is_around_the_mean_and_brightness_is_added() -> None:
    images, index = make_images()
    settings = dataclasses.replace(NONE, contrast=0.3, brightness=0.2)
    x = to_float(images)
    table = epoch_parameters(1000, 42, 1, settings, 24)[index]
    gain, offset = (table[:, at].view(-1, 1, 1, 1) for at in (GAIN, OFFSET))
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    expected = ((x - mean) * gain + mean + offset).clamp(0, 1)
    assert (changed(images, index, settings) - expected).abs().max() < 1e-6


def test_the_noise_has_the_strength_and_the_independence_it_should_have() -> None:
    grey = torch.full((200, 1, 64, 64), 128, dtype=torch.uint8)
    settings = dataclasses.replace(NONE, noise=0.1)
    noise = changed(grey, torch.arange(200), settings) - 128 / 255
    amplitude = epoch_parameters(1000, 42, 1, settings, 64)[:200, NOISE]
    np.testing.assert_allclose(noise.std(dim=(1, 2, 3)), amplitude.abs(), rtol=0.1)
    related = np.corrcoef(noise.flatten(1).numpy()) - np.eye(200)
    assert np.median(np.abs(related)) < 0.02


def test_a_flip_mirrors_and_nothing_else() -> None:
    images, index = make_images()
    found = changed(images, index, dataclasses.replace(NONE, flip=1.0))
    assert (found - to_float(images).flip(3)).abs().max() < 1e-4


def test_a_shift_is_as_large_as_it_says() -> None:
    side = 100
    image = torch.zeros((1, 1, side, side), dtype=torch.uint8)
    image[0, 0, 50, 50] = 255
    settings = dataclasses.replace(NONE, translate=0.1)
    for index in range(40):
        found = changed(image, torch.tensor([index]), settings)[0, 0]
        place = np.unravel_index(int(found.argmax()), (side, side))
        assert max(abs(int(p) - 50) for p in place) <= 11


def test_values_stay_in_range_and_finite() -> None:
    images, index = make_images()
    black = torch.zeros_like(images)
    strong = Augment(brightness=1, contrast=0.9, noise=1, erase=1, flip=0.5, rotate=180, scale=0.9)
    for given in (images, black):
        found = changed(given, index, strong)
        assert torch.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1


def test_erasing_leaves_most_of_the_image() -> None:
    images, index = make_images()
    found = changed(images, index, dataclasses.replace(NONE, erase=1.0))
    share = (found != to_float(images)).double().mean(dim=(1, 2, 3))
    assert (share > 0).all()
    assert (share < 0.2).all()


def test_erasing_has_its_probability() -> None:
    grey = torch.full((1000, 1, 32, 32), 64, dtype=torch.uint8)
    found = changed(grey, torch.arange(1000), dataclasses.replace(NONE, erase=0.3))
    erased = (found != 64 / 255).flatten(1).any(1).double().mean()
    assert 0.25 < erased < 0.35


def test_normalise_gives_three_channels_with_imagenets_figures() -> None:
    grey = torch.rand((2, 1, 4, 4))
    found = normalise(grey)
    assert found.shape == (2, 3, 4, 4)
    for channel in range(3):
        expected = (grey[:, 0] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(found[:, channel], expected)


def test_a_steps_inputs_take_few_operations_and_no_matrix_product(operations: Operations) -> None:
    """On a GPU each is a kernel; a matrix product would be in TF32 or bf16 there."""
    runtime = resolve(System(device="cpu"), planned_steps=1)
    images, index = make_images()
    table = epoch_parameters(1000, 42, 1, Augment(), 24)
    batch = Batch(images, torch.zeros(len(index), dtype=torch.int64), index)
    training_inputs(batch, table, runtime, 42, Augment())  # what is made once is made
    names = operations(lambda: training_inputs(batch, table, runtime, 42, Augment()))
    assert len(names) <= 16, names
    assert not [name for name in names if "mm" in name]
