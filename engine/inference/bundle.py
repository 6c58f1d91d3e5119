"""The self-contained model file, `best_model.pt`: weights, and all that is needed to use them."""

from __future__ import annotations

from typing import Any

from torch import nn

from config import Config
from engine.data.prepare import Prepared
from engine.records.checkpoint import to_host


def bundle_of(
    model: nn.Module, config: Config, data: Prepared, epoch: int, figures: dict[str, Any]
) -> dict[str, Any]:
    """The content of the bundle, copied to the host. `figures` are those of the validation part."""
    return {
        "model": to_host(model.state_dict()),
        "config": config.to_dict(),
        "label_names": list(data.label_names),
        "epoch": epoch,
        "metrics": figures,
    }
