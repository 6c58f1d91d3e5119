"""`python -m engine.reproduce RUN_ID`: run it again and compare, epoch by epoch."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from config import Config, ConfigManager, UserError
from config.schema import RULES
from engine.cli import (
    DONE,
    FAULT,
    INTERRUPTED,
    Parser,
    add_config_options,
    run_command,
    set_values,
    stop_on_signals,
    stored_config,
)

OUTPUTS = [key for key in RULES if key.startswith("output.")]
COMPARED = (
    *("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_precision", "val_recall"),
    *("val_specificity", "val_f1", "val_auroc", "learning_rate"),
)
# Of a manifest: what changes no figure, or is reported elsewhere.
IRRELEVANT = (
    *("command", "path", "cores", "machine"),
    *("batch_fetch_seconds", "num_workers", "residency"),
    *("run_uid", "output"),
)


def main(arguments: list[str] | None = None) -> int:
    """0 where every figure is the same, 1 where one differs. Raises UserError."""
    command = Parser(prog="python -m engine.reproduce", description=__doc__)
    command.add_argument("run_id", type=int, help="a completed run")
    command.add_argument("--dataset", type=Path, help="where the data set lies now")
    add_config_options(command)
    options = command.parse_args(arguments)
    overrides = set_values(options.set)
    if others := [key for key in overrides if not key.startswith("output.")]:
        raise UserError(f"--set {others[0]}: a run is repeated as it was; only output.* may differ")
    base = ConfigManager.load(options.config, overrides=overrides)
    return reproduce(options.run_id, options.dataset, base)


def reproduce(run_id: int, dataset: Path | None, base: Config) -> int:
    """Print what differs, train again as a new run, and compare; the exit code. Raises UserError.

    `base` names the database and the output folders.
    """
    from engine.device import resolve
    from engine.records.claim import stored_run
    from engine.records.database import metrics_sync
    from engine.records.manifest import build_manifest
    from engine.stop import StoppedEarly
    from engine.trainer import CentralizedTrainer

    database = Path(base.output.database)
    row = stored_run(database, run_id)
    if row["status"] != "completed":
        raise UserError(f"run {run_id} is {row['status']}; only a completed run can be repeated")
    config = stored_config(row, base, OUTPUTS)
    trainer = CentralizedTrainer(config, f"{row['run_name']} (reproduced)", f"of run {run_id}")
    path = dataset or Path(row["dataset_path"])
    try:
        with stop_on_signals(trainer.stop):
            found = trainer.prepare_data(path)
            steps = math.ceil(sum(found["counts"]["train"].values()) / config.system.batch_size)
            freezes = config.model.freeze_epochs > 0
            runtime = resolve(config.system, steps * config.experiment.epochs, freezes)
            now = build_manifest(config, path, found["fingerprint"], runtime, {})
            for line in differences(row["manifest"], now):
                print(f"differs: {line}")
            results = trainer.train(path)
    except StoppedEarly as stopped:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    if results["status"] != "completed":
        print(f"run {results['run_id']} was stopped: nothing to compare", file=sys.stderr)
        return INTERRUPTED
    before, after = (metrics_sync(database, number) for number in (run_id, results["run_id"]))
    return FAULT if report(before, after) else DONE


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """What of a manifest is not the same, as lines for a person."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if key not in IRRELEVANT]
        return [
            line
            for key in keys
            for line in differences(before.get(key), after.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if before == after else [f"{where}: {before} then, {after} now"]


def report(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> int:
    """Print the comparison; the number of epochs that differ."""
    differing = abs(len(before) - len(after))
    if differing:
        print(f"{len(before)} epochs then, {len(after)} now")
    for one, other in zip(before, after, strict=False):
        changed = [name for name in COMPARED if one[name] != other[name]]
        differing += bool(changed)
        changes = ", ".join(f"{name} {one[name]} -> {other[name]}" for name in changed)
        print(f"epoch {one['epoch']}: {changes or 'identical'}")
    print("reproduced exactly" if not differing else f"{differing} epochs differ")
    return differing


if __name__ == "__main__":
    run_command(main)
