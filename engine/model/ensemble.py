"""Several networks that give one answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """The mean of its members' logits, each divided by that member's temperature."""

    temperatures: torch.Tensor  # float32 [members]

    def __init__(self, members: Sequence[nn.Module]) -> None:
        """`members` take the same inputs and give logits [B, 2]."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("temperatures", torch.ones(len(members)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [B, 2], from inputs [B, C, S, S]."""
        logits = [
            member(inputs).float() / self.temperatures[number]
            for number, member in enumerate(self.members)
        ]
        return torch.stack(logits).mean(dim=0)
