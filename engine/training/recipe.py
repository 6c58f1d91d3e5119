"""Everything that turns batches into weights: loss, mixing, optimizer and schedule.

A new loss, sampler, schedule or averaging comes in here, without touching the loop.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from config.schema import Config, Experiment, Recipe
from engine.model import resnet

STREAM = 2  # of the generator keyed by seed and epoch; 0 draws the order, 1 the augmentation


def criterion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each image, float32 [B], from logits [B, 2] and labels int64 [B]."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


@dataclass(frozen=True)
class Objective:
    """What a training step minimises, and how it mixes the images of a batch."""

    label_smoothing: float = 0.0  # Szegedy et al., 2016
    mixup: float = 0.0  # alpha of the Beta distribution (Zhang et al., 2018); 0: no mixing
    class_weights: tuple[float, float] | None = None  # negative, positive; 1 on average
    seed: int = 0

    @classmethod
    def of(cls, config: Config, positive_share: float) -> Objective:
        """As configured; `positive_share` is that of the training images."""
        recipe, weights = config.recipe, None
        if recipe.balance == "loss":
            weights = (0.5 / (1 - positive_share), 0.5 / positive_share)
        return cls(recipe.label_smoothing, recipe.mixup, weights, config.system.seed)

    def mix(
        self, inputs: torch.Tensor, labels: torch.Tensor, epoch: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [B, C, S, S] and targets: the labels int64 [B], or mixed ones, float32 [B, 2].

        What is mixed depends on seed, epoch and step alone.
        """
        if not self.mixup:
            return inputs, labels
        philox = np.random.Philox(key=[self.seed, epoch], counter=[0, 0, step, STREAM])
        generator = np.random.Generator(philox)
        share = float(generator.beta(self.mixup, self.mixup))
        order = torch.from_numpy(generator.permutation(len(labels)))
        order = order.to(labels.device, non_blocking=labels.is_cuda)
        targets = nn.functional.one_hot(labels, 2).float()
        return inputs.lerp(inputs[order], 1 - share), targets.lerp(targets[order], 1 - share)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each image, float32 [B], from logits [B, 2] and what `mix` gives."""
        weights = None
        if self.class_weights is not None:
            weights = _on_device(self.class_weights, logits.device)
        return nn.functional.cross_entropy(
            logits.float(),
            targets,
            weights,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )


@functools.cache
def _on_device(weights: tuple[float, float], device: torch.device) -> torch.Tensor:
    """float32 [2]: made in every step, it would be a copy to the device each time."""
    return torch.tensor(weights, device=device)


PLAIN = Objective()


def prior_shift(balance: str, positive_share: float) -> float:
    """What must be added to the positive logit of a model that was trained on balanced classes.

    Such a model's odds are those of a population of which half is ill; by Bayes' rule, odds times
    the ratio of the priors' odds are those of the training images (Saerens et al., 2002).
    """
    if balance == "none":
        return 0.0
    return math.log(positive_share / (1 - positive_share))


def side_of(epoch: int, recipe: Recipe, image_size: int) -> int:
    """The side in pixels of the training images in `epoch` (1-based)."""
    return image_size // 2 if epoch <= recipe.small_epochs else image_size


def warmup_factor(done: float, warmup_epochs: float, steps: int) -> float:
    """The share of the learning rate after `done` epochs of `steps` steps; linear (Goyal, 2017)."""
    if not warmup_epochs:
        return 1.0
    return min(1.0, (done * steps + 1) / max(1.0, warmup_epochs * steps))


def new_optimizer(
    model: nn.Module, experiment: Experiment, stage_rate: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over what is trainable now; norms and biases are not decayed."""
    found = list(resnet.parameter_groups(model, experiment.weight_decay, set(), stage_rate))
    groups = [{**group, "lr": experiment.learning_rate * group["rate_share"]} for group in found]
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
