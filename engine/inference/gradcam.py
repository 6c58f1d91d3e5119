"""Grad-CAM (Selvaraju et al., 2017): where in an image the positive score comes from."""

from __future__ import annotations

import copy

import torch
from torch import nn

FEWEST_CELLS = 7  # a side of the map that is looked at: a coarser one cannot point at a place
STAGES = ("layer4", "layer3", "layer2", "layer1")  # the deepest first


def heat_maps(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """float32 [B, S, S] in 0..1 for inputs [B, 3, S, S]: 1 is the place that raised the score most.

    A map of nothing but 0 means that nothing raised it. `model` is a ResNet in evaluation mode; its
    weights are not changed. The map is that of the deepest stage with at least 7 x 7 cells: layer4
    at 224 pixels, an earlier one at fewer.
    """
    layer = model.get_submodule(stage_for(inputs.shape[-1]))
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            logits = model(inputs.detach().requires_grad_())
            towards_positive = (logits[:, 1] - logits[:, 0]).sum()
            (gradients,) = torch.autograd.grad(towards_positive, kept[0])
    finally:
        hook.remove()
    activations = kept[0].detach().float()
    weights = gradients.float().mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations).sum(dim=1, keepdim=True).relu()
    size = inputs.shape[-2:]
    maps = nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp_min(1e-12), torch.zeros_like(maps))


def stage_for(image_size: int) -> str:
    """The deepest stage of a ResNet whose map has enough cells: its sides are S / 32 in layer4."""
    for stage, stride in zip(STAGES, (32, 16, 8, 4), strict=True):
        if image_size / stride >= FEWEST_CELLS:
            return stage
    return STAGES[-1]


def randomisation_check(model: nn.Module, inputs: torch.Tensor, seed: int = 0) -> float:
    """Mean correlation of each map with that of the same network with random weights.

    Adebayo et al., 2018: a map that stays the same (a correlation near 1) shows edges of the image,
    not what the model has learned. nan where every map is flat.
    """
    random = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in random.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(noise * parameter.std(correction=0) + parameter.mean())
    ours, theirs = heat_maps(model, inputs).flatten(1), heat_maps(random, inputs).flatten(1)
    ours, theirs = (maps - maps.mean(dim=1, keepdim=True) for maps in (ours, theirs))
    norms = ours.norm(dim=1) * theirs.norm(dim=1)
    correlation = (ours * theirs).sum(dim=1)[norms > 0] / norms[norms > 0]
    return float(correlation.mean())
