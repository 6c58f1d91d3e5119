"""The seeded start of a training."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from config import Config
from engine.model.resnet import build_model


def seed_everything(seed: int) -> None:
    """Seed every global random generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seeded_network(config: Config) -> nn.Module:
    """The network before its first step. Raises UserError for weights that are not there."""
    seed_everything(config.system.seed)
    return build_model(
        config.model,
        config.experiment.dropout_rate,
        config.data.image_size,
        config.recipe.zero_init and config.model.weights == "none",
    )
