"""The training engine: data, model, loop, metrics, events and what they leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.inference.predictor import load_model
    from engine.trainer import CentralizedTrainer

__all__ = ["CentralizedTrainer", "load_model"]


def __getattr__(name: str) -> Any:
    # Lazily, so that the server can import engine.records.store without importing torch.
    if name == "CentralizedTrainer":
        from engine.trainer import CentralizedTrainer

        return CentralizedTrainer
    if name == "load_model":
        from engine.inference.predictor import load_model

        return load_model
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
