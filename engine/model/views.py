"""The views of an image that a score is averaged over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

VIEWS = ("none", "flip", "shift")
SHIFT = 16  # a view is moved by 1 / SHIFT of the side


def views(inputs: torch.Tensor, kind: str) -> list[torch.Tensor]:
    """[B, C, S, S] -> the inputs themselves, and what `recipe.average_views` adds to them."""
    if kind == "flip":
        return [inputs, inputs.flip(-1)]
    if kind == "shift":
        by, side = max(1, inputs.shape[-1] // SHIFT), inputs.shape[-1]
        wide = functional.pad(inputs, (by, by, by, by), mode="replicate")
        corners = [(by, 0), (by, 2 * by), (0, by), (2 * by, by)]
        return [inputs, *(wide[..., y : y + side, x : x + side] for y, x in corners)]
    return [inputs]


def mean_logits(
    model: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, kind: str
) -> torch.Tensor:
    """float32 [B, 2]: the mean of the logits over the views."""
    found = [model(view).float() for view in views(inputs, kind)]
    return torch.stack(found).mean(dim=0) if len(found) > 1 else found[0]
