"""Everything that turns batches into weights: loss, optimizer and schedule.

A new loss, sampler, schedule or averaging comes in here, without touching the loop.
"""

from __future__ import annotations

import torch
from torch import nn

from config.schema import Experiment
from engine.model import resnet


def criterion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each image, float32 [B], from logits [B, 2] and labels int64 [B]."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def new_optimizer(model: nn.Module, experiment: Experiment) -> torch.optim.AdamW:
    """AdamW over what is trainable now; norms and biases are not decayed."""
    groups = list(resnet.parameter_groups(model, experiment.weight_decay, set()))
    return torch.optim.AdamW(groups, lr=experiment.learning_rate, fused=True)


def new_scheduler(
    optimizer: torch.optim.Optimizer, experiment: Experiment
) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    """Cuts the learning rate where the validation loss has not improved for some epochs."""
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=experiment.reduce_lr_factor,
        patience=experiment.reduce_lr_patience,
    )
