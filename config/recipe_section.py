"""The keys of the recipe: what the training does beside the plain loop. 0 or none switches off."""

from __future__ import annotations

from dataclasses import dataclass

from config.rules import key


@dataclass(frozen=True)
class Recipe:
    """Ingredients of the training beside the plain loop; 0, none or 1 switches one off."""

    warmup_epochs: float = key(
        0.0, "float", "epochs in which the learning rate rises from 0", low=0, high=1000
    )
    ema: float = key(
        0.0,
        "float",
        "decay per step of the weights' moving average, which is then evaluated and kept",
        low=0,
        high=0.99999,
    )
    label_smoothing: float = key(
        0.0, "float", "share of each label that is given to the other class", low=0, high=0.5
    )
    balance: str = key(
        "none",
        "str",
        "both classes count the same, in the loss or by sampling; scores are corrected for it",
        choices=("none", "loss", "sampling"),
    )
    mixup: float = key(
        0.0, "float", "alpha of the Beta distribution by which images are mixed", low=0, high=10
    )
    zero_init: bool = key(
        False, "bool", "residual blocks begin as the identity (only with model.weights=none)"
    )
    small_epochs: int = key(
        0, "int", "first epochs, with images of half the side", low=0, high=100_000
    )
    stage_rate: float = key(
        1.0,
        "float",
        "learning rate of each stage, as a share of that of the stage after it",
        low=0.01,
        high=1,
    )
    average_views: str = key(
        "none",
        "str",
        "scores are averaged over an image and its mirror image, or its shifts by 1/16",
        choices=("none", "flip", "shift"),
    )
