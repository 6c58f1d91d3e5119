"""Snapshots of format 1, which the first version wrote, as this version has them."""

from __future__ import annotations

import json
import math
from typing import Any

import torch


def snapshot(old: dict[str, Any], run_uid: str) -> dict[str, Any]:
    """A snapshot from one of format 1, which names no run: it is taken as one of `run_uid`.

    What is no such snapshot is returned as it is.
    """
    if not {"story", "model", "optimizer", "epoch", "step"} <= set(old):
        return old
    between = old["step"] == 0
    best = old["best"]["best"]
    return {
        "run_uid": run_uid,
        "best_epoch": None if best is None else best["epoch"],
        "scores": None,  # the file beside the results is left as it is
        "learner": {
            # The last epoch whose stages the optimizer had.
            "epoch": max(1, old["epoch"] - 1) if between else old["epoch"],
            **{name: old[name] for name in ("model", "optimizer", "scheduler", "scaler")},
        },
        "selection": {
            "best": old["best"],
            "early": old["early"],
            "best_summary": old["best_summary"],
            "stopped_early": old["early_stopped"],
        },
        "history": json.dumps([[name, _event(fields)] for name, fields in old["story"]]),
        "random": old["random"],
        "state": _state(old),
        **{name: old[name] for name in ("training_time", "config", "fingerprint")},
    }


def _state(old: dict[str, Any]) -> dict[str, Any]:
    """The sums held the images seen, which are a number of the host now."""
    state = {name: old[name] for name in ("epoch", "step", "seconds")}
    loss, correct, images, _ = old["sums"].tolist()
    sums = torch.tensor([loss, correct, old["step"], 0], dtype=torch.float64)
    return {**state, "sums": sums, "images": int(images)}


def _event(fields: dict[str, Any]) -> dict[str, Any]:
    """`epoch_seconds` was the training's alone, and recall at a specificity was not recorded."""
    if "epoch_seconds" not in fields:
        return fields
    new = {"val_recall_at_specificity": math.nan, "train_seconds": fields["epoch_seconds"]}
    return {**new, **fields}
