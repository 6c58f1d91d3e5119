"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Follows a model's parameters and norm statistics, a little in each optimizer step.

    The decay rises to its value with the number of updates n, as (1 + n) / (10 + n): the random
    start does not stay in the average of a short training.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begins with a copy of `model`, which takes its memory once more."""
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._updates = 0
        self._theirs, self._ours = _followed(model), _followed(self.model)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model's present weights."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        average = get_ema_multi_avg_fn(decay)
        average(self._ours, self._theirs, self._updates)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates."""
        return {"weights": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["weights"])
        self._updates = int(state["updates"])


def _followed(model: nn.Module) -> list[torch.Tensor]:
    tensors = [p.detach() for p in model.parameters()]
    return tensors + [b for b in model.buffers() if b.is_floating_point()]
