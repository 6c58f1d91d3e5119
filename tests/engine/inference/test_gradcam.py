"""Grad-CAM: the maps depend on the weights, are fine enough to point, and change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from config.schema import Model
from engine import load_model
from engine.data.decode import resize
from engine.data.phantoms import draw, draw_with_opacity, new_build
from engine.inference.gradcam import heat_maps, stage_for
from engine.model.resnet import build_model

from ..conftest import DemoRun

HALF = 4  # pixels: half a cell of the map of 8 x 8 at the demo's 64 pixels


def ill_images(count: int, size: int) -> np.ndarray:
    """uint8 [N, S, S]: phantoms with an opacity."""
    rng = np.random.default_rng(11)
    return np.stack([resize(draw(new_build(rng), True, 96, rng), size) for _ in range(count)])


def test_the_heat_is_on_the_opacity(demo_run: DemoRun) -> None:
    """The pointing game (Zhang et al., 2016): the hottest place, give or take half a cell of the
    map, is on the opacity (where it adds over a quarter of its most) in 9 of 10 images called ill.
    """
    model = load_model(demo_run.bundle, device="cpu")
    rng = np.random.default_rng(5)
    drawn = [draw_with_opacity(new_build(rng), True, model.image_size, rng) for _ in range(60)]
    scores = model.scores(np.stack([image for image, _ in drawn]))
    called = [pair for pair, score in zip(drawn, scores, strict=True) if score >= model.threshold]
    assert len(called) >= 40
    hits = 0
    for image, opacity in called:
        heat = model.heat_map(image)
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        near = opacity[max(0, y - HALF) : y + HALF + 1, max(0, x - HALF) : x + HALF + 1]
        hits += heat.max() > 0 and near.max() > 0.25 * opacity.max()
    assert hits >= 0.9 * len(called)


def test_random_weights_change_the_maps(demo_run: DemoRun) -> None:
    model = load_model(demo_run.bundle, device="cpu")
    images = ill_images(16, model.image_size)
    assert model.heat_map_check(images) < 0.5


@pytest.mark.parametrize(
    ("size", "stage"), [(512, "layer4"), (224, "layer4"), (128, "layer3"), (64, "layer2")]
)
def test_the_map_has_at_least_seven_cells_a_side(size: int, stage: str) -> None:
    assert stage_for(size) == stage


def test_a_map_is_between_0_and_1_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    network = build_model(Model("resnet18", "none"), 0.0).eval()
    before = [parameter.clone() for parameter in network.parameters()]
    maps = heat_maps(network, torch.randn(3, 3, 64, 64))
    assert maps.shape == (3, 64, 64)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())
