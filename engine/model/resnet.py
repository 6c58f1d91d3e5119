"""The classifier: a torchvision ResNet with a small head, its weights and its freezing."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torchvision
from torch import nn

from config import UserError
from config.errors import first_line
from config.schema import BACKBONES, Model

FETCH_TIMEOUT = 10.0  # seconds of silence before a weight download is given up
# In the order in which they are unfrozen.
STAGES = (("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1"))


def build_model(settings: Model, dropout_rate: float) -> nn.Module:
    """A ResNet whose `fc` is the head: float inputs [B, 3, S, S], logits [B, 2], positive last.

    Raises UserError for an unknown backbone or weights that are not available.
    """
    backbone = _backbone(settings.backbone)
    features = backbone.fc.in_features
    if settings.weights == "imagenet":
        backbone.load_state_dict(_imagenet_weights(settings.backbone))
    backbone.fc = build_head(features, settings.head_sizes, dropout_rate)
    if settings.weights not in ("imagenet", "none"):
        load_weights(backbone, Path(settings.weights))
    return backbone


def build_head(features: int, sizes: tuple[int, ...], dropout_rate: float) -> nn.Sequential:
    """Linear, ReLU, dropout for each of `sizes`, then two logits; the ResNet pools before it."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [nn.Linear(features, size), nn.ReLU(inplace=True), nn.Dropout(dropout_rate)]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, 2))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a Pneumoscope bundle, snapshot or a plain ResNet state dict; a foreign head is left out.

    Raises UserError where the file cannot be read safely or does not fit the backbone.
    """
    advice = "give model.weights=imagenet, model.weights=none or the path of a ResNet state dict"
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"model.weights: there is no file {path}; {advice}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = first_line(error)
        raise UserError(f"model.weights: {path} cannot be loaded ({reason}); {advice}") from error
    state = _state_dict_in(loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"model.weights: {path} holds no state dict; {advice}")
    own = model.state_dict()
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    head_fits = all(k in state and state[k].shape == own[k].shape for k in own if _in_head(k))
    wanted = {key for key in own if head_fits or not _in_head(key)}
    unfit = [k for k in sorted(wanted) if k not in state or state[k].shape != own[k].shape]
    if unfit:
        raise UserError(
            f"model.weights: {path} does not fit this backbone: {len(unfit)} tensors are missing "
            f"or of another shape, {unfit[0]} first; is model.backbone the one it was made with?"
        )
    model.load_state_dict({key: state[key] for key in wanted}, strict=False)


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
    model: nn.Module, weight_decay: float, known: set[int]
) -> Iterator[dict[str, Any]]:
    """Optimizer groups of the trainable parameters whose id is not in `known`.

    Norms and biases (fewer than two dimensions) are not decayed.
    """
    new = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    matrices, vectors = [p for p in new if p.ndim >= 2], [p for p in new if p.ndim < 2]
    if matrices:
        yield {"params": matrices, "weight_decay": weight_decay}
    if vectors:
        yield {"params": vectors, "weight_decay": 0.0}


def _state_dict_in(loaded: dict[str, Any]) -> Any:
    """The weights of a bundle, of a snapshot, of an older bundle, or the state dict itself."""
    if isinstance(loaded.get("learner"), dict):
        return loaded["learner"].get("model")
    return loaded.get("weights", loaded.get("model", loaded))


def _in_head(key: str) -> bool:
    return key.startswith("fc.")


def _backbone(name: str) -> torchvision.models.ResNet:
    if name not in BACKBONES:
        raise UserError(f"model.backbone: {name!r} is not one of {', '.join(BACKBONES)}")
    model: torchvision.models.ResNet = torchvision.models.get_model(name, weights=None)
    return model


def _imagenet_weights(backbone: str) -> dict[str, torch.Tensor]:
    """From torch.hub's folder, or downloaded into it. Raises UserError."""
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_TIMEOUT)  # urllib waits without limit otherwise
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        kept = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(weights.url).name
        broken = f"; the file {kept} is not what it should be: delete it" if kept.exists() else ""
        raise UserError(
            f"the ImageNet weights of {backbone} could not be loaded ({first_line(error)}){broken}"
            "; train without them (--set model.weights=none) or name a file "
            f"(--set model.weights=PATH), downloaded elsewhere from {weights.url}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return state
