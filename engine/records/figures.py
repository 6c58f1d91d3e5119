"""The figures of a run that did not end by itself, from its recorded epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BEST_KEYS = ("accuracy", "precision", "recall", "f1", "auroc", "specificity")


def figures_so_far(
    epochs: Sequence[Mapping[str, Any]],
    best_epoch: int | None,
    best_model_path: str | None,
    training_time: float | None = None,
) -> dict[str, Any]:
    """The fields of `TrainingComplete`; `epochs` are the run's recorded ones, as `run_metrics` has
    them. Where `training_time` (seconds) is not known, it is that of the recorded epochs.
    """
    best = next((row for row in epochs if row["epoch"] == best_epoch), None)
    spent = sum(row["epoch_seconds"] or 0.0 for row in epochs)
    return {
        "metrics": {f"best_{key}": best[f"val_{key}"] if best else None for key in BEST_KEYS},
        "best_epoch": best_epoch if best else None,
        "total_epochs_run": max((row["epoch"] for row in epochs), default=0),
        "training_time": spent if training_time is None else training_time,
        "early_stopped": False,
        "best_model_path": best_model_path if best else None,
    }
