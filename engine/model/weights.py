"""Weights to begin with: ImageNet's, a Pneumoscope file's, or a plain ResNet state dict's."""

from __future__ import annotations

import hashlib
import pickle
import socket
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torchvision
from torch import nn

from config import UserError
from config.errors import first_line
from engine.data.inputs import GREY_MEAN, GREY_STD, MEAN, STD

FETCH_TIMEOUT = 10.0  # seconds of silence before a weight download is given up
STATE_DICT = "ResNet state dict"
OWN_SCALE = (1 / GREY_STD, -GREY_MEAN / GREY_STD)  # of our one-channel input
XRAYVISION_SCALE = (2048.0, -1024.0)  # its images span -1024 to 1024


@dataclass(frozen=True)
class Found:
    """What a file of weights turned out to be."""

    source: str  # in words
    state: dict[str, torch.Tensor]  # by torchvision's names
    grey_scale: tuple[float, float]  # of a one-channel stem: its input is a * grey + b, grey 0..1


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a Pneumoscope bundle, snapshot or a ResNet state dict; a foreign head is left out.

    Raises UserError where the file cannot be read safely or does not fit the backbone.
    """
    found = read_weights(path)
    own = model.state_dict()
    state = fit_stem(found.state, own["conv1.weight"], found.grey_scale)
    head_fits = all(k in state and state[k].shape == own[k].shape for k in own if _in_head(k))
    wanted = {key for key in own if head_fits or not _in_head(key)} - _foreign_stem(state, own)
    unfit = [k for k in sorted(wanted) if k not in state or state[k].shape != own[k].shape]
    if unfit:
        raise UserError(
            f"model.weights: {path} ({found.source}) does not fit this backbone: {len(unfit)} "
            f"tensors are missing or of another shape, {unfit[0]} first; is model.backbone the one "
            "it was made with?"
        )
    model.load_state_dict({key: state[key] for key in wanted}, strict=False)


def read_weights(path: Path) -> Found:
    """The weights of a file, and whose they are. Raises UserError."""
    advice = "give model.weights=imagenet, model.weights=none or the path of a ResNet state dict"
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"model.weights: there is no file {path}; {advice}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = first_line(error)
        raise UserError(f"model.weights: {path} cannot be loaded ({reason}); {advice}") from error
    source, state = _state_dict_in(loaded) if isinstance(loaded, dict) else ("", None)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"model.weights: {path} holds no state dict; {advice}")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    if "model.conv1.weight" in state:
        source = "torchxrayvision ResNet"
        state = {key.removeprefix("model."): value for key, value in state.items()}
        return Found(source, state, XRAYVISION_SCALE)
    if source == STATE_DICT and "fc.weight" in state and len(state["fc.weight"]) == 1000:
        source = "ImageNet ResNet, of torchvision or timm"
    return Found(source, state, OWN_SCALE)


def origin(weights: str, backbone: str) -> dict[str, str]:
    """What `model.weights` named, for the manifest; of a file with its SHA-256. Raises UserError.

    For ImageNet's weights `file` is torchvision's name, which ends in the start of its SHA-256.
    """
    if weights == "none":
        return {"source": "random"}
    if weights == "imagenet":
        known = torchvision.models.get_model_weights(backbone).DEFAULT
        return {"source": f"torchvision {known}", "file": PurePosixPath(known.url).name}
    path = Path(weights)
    found = read_weights(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"source": found.source, "file": str(path), "sha256": digest}


def load_backbone(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load torchvision's own weights, head included, into a stem that may differ from theirs."""
    own = model.state_dict()
    state = fit_stem(state, own["conv1.weight"], OWN_SCALE)
    for key in _foreign_stem(state, own):
        state[key] = own[key]
    model.load_state_dict(state)


def fit_stem(
    state: dict[str, torch.Tensor], wanted: torch.Tensor, scale: tuple[float, float]
) -> dict[str, torch.Tensor]:
    """`state` for a first convolution of `wanted`'s shape, [64, 1 or 3, K, K].

    Three filters become one by summing them, one becomes three by sharing it out, each scaled from
    the range that it was trained on to ours; what the change of the mean adds goes into the norm
    that follows. The features are the same up to the border, where padding is 0 in either range.
    """
    have = state.get("conv1.weight")
    if (
        have is None
        or have.ndim != 4
        or have.shape[1] not in (1, 3)
        or "bn1.running_mean" not in state
    ):
        return state
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, STD))
    filters = have.double()
    if have.shape[1] == 3 and wanted.shape[1] == 1:
        factors = (GREY_STD / std).view(1, 3, 1, 1)
        added = (filters * ((GREY_MEAN - mean) / std).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
        filters = (filters * factors).sum(dim=1, keepdim=True)
    elif have.shape[1] == 1 and (wanted.shape[1] == 3 or scale != OWN_SCALE):
        a, b = scale
        middle = float(mean.mean()) if wanted.shape[1] == 3 else GREY_MEAN
        added = filters.sum(dim=(1, 2, 3)) * (a * middle + b)
        factors = std.view(1, 3, 1, 1) / 3 if wanted.shape[1] == 3 else torch.tensor(GREY_STD)
        filters = filters * a * factors
    else:
        return state
    moved = state["bn1.running_mean"].double() - added
    return {
        **state,
        "conv1.weight": filters.to(have.dtype),
        "bn1.running_mean": moved.to(state["bn1.running_mean"].dtype),
    }


def imagenet_weights(backbone: str) -> dict[str, torch.Tensor]:
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


def _state_dict_in(loaded: dict[str, Any]) -> tuple[str, Any]:
    """The weights of a bundle, a snapshot, a training script's file, or the state dict itself."""
    if isinstance(loaded.get("learner"), dict):
        return "Pneumoscope snapshot", loaded["learner"].get("model")
    for key, source in (
        ("weights", "Pneumoscope bundle"),
        ("model", "ResNet state dict"),
        ("state_dict", "ResNet state dict"),
    ):
        if isinstance(loaded.get(key), dict):
            return source, loaded[key]
    return STATE_DICT, loaded


def _foreign_stem(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> set[str]:
    """The first convolution, where it has another kernel: it begins anew."""
    have, wanted = state.get("conv1.weight"), own["conv1.weight"]
    if have is not None and have.ndim == 4 and have.shape[2:] != wanted.shape[2:]:
        return {"conv1.weight"}
    return set()


def _in_head(key: str) -> bool:
    return key.startswith("fc.")
