"""The classifier: a torchvision ResNet with a small head, its weights and its freezing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from config import UserError
from config.schema import AUTO, BACKBONES, Model
from engine.model.weights import imagenet_weights, load_backbone, load_weights

SMALL = 32  # pixels: below, `model.stem: auto` is the small one
# In the order in which they are unfrozen.
STAGES = (("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1"))


def build_model(
    settings: Model,
    dropout_rate: float,
    image_size: int | None = None,
    zero_init: bool = False,
) -> nn.Module:
    """A ResNet whose `fc` is the head: float inputs [B, C, S, S], logits [B, 2], positive last.

    C is 1 with `grey_input`, else 3. `image_size` decides what a stem of `auto` is; without it,
    torchvision's. `zero_init`: the last norm of each block begins at 0 (Goyal et al., 2017).
    Raises UserError for an unknown backbone or weights that are not available.
    """
    backbone = _backbone(settings.backbone, zero_init)
    features = backbone.fc.in_features
    if stem_of(settings, image_size) == "small":
        backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    if settings.grey_input:
        first = backbone.conv1
        backbone.conv1 = nn.Conv2d(
            1, 64, first.kernel_size, first.stride, first.padding, bias=False
        )
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    if settings.weights == "imagenet":
        load_backbone(backbone, imagenet_weights(settings.backbone))
    backbone.fc = build_head(features, settings.head_sizes, dropout_rate)
    if settings.weights not in ("imagenet", "none"):
        load_weights(backbone, Path(settings.weights))
    return backbone


def stem_of(settings: Model, image_size: int | None) -> str:
    """`standard` (7x7, stride 2, pooled) or `small` (3x3, stride 1): what `auto` is resolved to."""
    if settings.stem != AUTO:
        return settings.stem
    return "small" if image_size is not None and image_size < SMALL else "standard"


def build_head(features: int, sizes: tuple[int, ...], dropout_rate: float) -> nn.Sequential:
    """Linear, ReLU, dropout for each of `sizes`, then two logits; the ResNet pools before it."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [nn.Linear(features, size), nn.ReLU(inplace=True), nn.Dropout(dropout_rate)]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, 2))


def frozen_stages(epoch: int, freeze_epochs: int) -> tuple[str, ...]:
    """Names of the backbone's modules that are frozen in `epoch` (1-based).

    All of it for the first `freeze_epochs`; then one more stage is unfrozen each epoch, the last
    first.
    """
    if freeze_epochs == 0:
        return ()
    unfrozen = max(0, epoch - freeze_epochs)
    return tuple(name for stage in STAGES[unfrozen:] for name in stage)


def set_train_mode(model: nn.Module, frozen: tuple[str, ...]) -> None:
    """Training mode, but for what is frozen: its BatchNorm must not follow the new data."""
    model.train()
    for name in frozen:
        model.get_submodule(name).eval()


def unfreeze(model: nn.Module, frozen: tuple[str, ...]) -> None:
    """Let gradients flow everywhere but through the modules named in `frozen`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] not in frozen)


def parameter_groups(
    model: nn.Module, weight_decay: float, known: set[int], stage_rate: float = 1.0
) -> Iterator[dict[str, Any]]:
    """Optimizer groups of the trainable parameters whose id is not in `known`.

    Norms and biases (fewer than two dimensions) are not decayed. `rate_share` is the group's share
    of the learning rate: `stage_rate` of that of the stage behind it, where that is below 1.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    depths = {name: depth for depth, stage in enumerate(STAGES, start=1) for name in stage}
    if stage_rate == 1:
        depths = {}
    for depth in range(max(depths.values(), default=0) + 1):
        new = [p for name, p in named if depths.get(name.partition(".")[0], 0) == depth]
        share = {"rate_share": stage_rate**depth}
        matrices, vectors = [p for p in new if p.ndim >= 2], [p for p in new if p.ndim < 2]
        if matrices:
            yield {"params": matrices, "weight_decay": weight_decay, **share}
        if vectors:
            yield {"params": vectors, "weight_decay": 0.0, **share}


def last_bias(model: nn.Module) -> nn.Parameter:
    """float32 [2]: what is added to the two logits."""
    bias = [module for module in model.modules() if isinstance(module, nn.Linear)][-1].bias
    assert isinstance(bias, nn.Parameter)
    return bias


def _backbone(name: str, zero_init: bool = False) -> torchvision.models.ResNet:
    if name not in BACKBONES:
        raise UserError(f"model.backbone: {name!r} is not one of {', '.join(BACKBONES)}")
    model: torchvision.models.ResNet = torchvision.models.get_model(
        name, weights=None, zero_init_residual=zero_init
    )
    return model
