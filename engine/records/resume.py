"""Whether a stored run can be started or resumed, and what may change then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import Config, UserError
from config.rules import show
from config.schema import RULES
from engine.records.identity import RESULTS, has_snapshot, run_folder

# What changes figures in their last bits at most, or is meant to change.
MAY_CHANGE = (
    *("experiment.epochs", "experiment.early_stopping_patience", "experiment.checkpoint_minutes"),
    *("system.device", "system.precision", "system.num_workers", "system.prefetch_factor"),
    *("system.pin_memory", "system.threads", "data.residency"),
    *(key for key in RULES if key.startswith(("output.", "report."))),
)


def check_start(row: Mapping[str, Any], begun: bool, is_ours: bool) -> None:
    """Raise UserError unless the run is queued and has never begun.

    `is_ours`: a server has already claimed it for this process.
    """
    run_id, status = row["run_id"], row["status"]
    if status == "completed":
        raise UserError(f"run {run_id} is completed; start a new run instead")
    if begun or not (status == "queued" or is_ours):
        raise UserError(
            f"run {run_id} is {status} and would begin again at epoch 1; continue it with "
            f"--resume {run_id}, or start a new run"
        )


def check_resume(row: Mapping[str, Any], output: Mapping[str, Any], epochs: int) -> bool:
    """Whether there is a snapshot to continue from; without one the run begins at epoch 1.

    Raises UserError where the run's state does not allow it, or where it has recorded `epochs`
    and its snapshot is not found.
    """
    run_id, status = row["run_id"], row["status"]
    if status == "completed":
        raise UserError(f"run {run_id} is completed; start a new run instead")
    found = has_snapshot(output, run_id)
    if epochs and not found:
        folder = run_folder(output, run_id)
        raise UserError(
            f"run {run_id} has {epochs} recorded epochs, but its snapshot {folder / 'last.pt'} is "
            "not there; name the folder that holds it with --set "
            f"output.checkpoint_dir=FOLDER (the one above {folder.name}), or start a new run"
        )
    return found


def check_changes(run_id: int, before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Key -> (before, after) of what differs. Raises UserError where a key may not change."""
    changes = {
        f"{section}.{name}": (old, new)
        for section, keys in before.to_dict().items()
        for name, old in keys.items()
        if (new := after.to_dict()[section][name]) != old
    }
    if refused := [key for key in changes if key not in MAY_CHANGE]:
        raise UserError(
            f"run {run_id} keeps its own {', '.join(refused)}; only these may change: "
            f"{', '.join(MAY_CHANGE)}. For anything else start a new run"
        )
    if "output.results_dir" in changes:
        _require_files(run_id, "results_dir", after, [f"{kind}_{run_id}.json" for kind in RESULTS])
    if "output.log_dir" in changes:
        _require_files(run_id, "log_dir", after, [f"run_{run_id}.log"])
    return changes


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """`key: before -> after` for each, in one line."""
    return ", ".join(f"{key}: {show(old)} -> {show(new)}" for key, (old, new) in changes.items())


def _require_files(run_id: int, key: str, config: Config, names: list[str]) -> None:
    folder = Path(getattr(config.output, key))
    if not any((folder / name).exists() for name in names):
        raise UserError(
            f"output.{key}: {folder} does not hold the files of run {run_id} ({names[0]}, say); "
            "move them there first, or leave the setting as it was"
        )
