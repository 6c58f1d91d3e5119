"""The training engine: data, model, loop, metrics, events and what they leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.trainer import CentralizedTrainer

__all__ = ["CentralizedTrainer"]


def __getattr__(name: str) -> Any:
    # Lazily, so that the server can import engine.records.store without importing torch.
    if name == "CentralizedTrainer":
        from engine.trainer import CentralizedTrainer

        return CentralizedTrainer
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
