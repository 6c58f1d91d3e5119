"""`python -m engine.reproduce RUN_ID`: run it again and compare, epoch by epoch."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from config import Config, ConfigManager, UserError

COMPARED = (
    *("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_precision", "val_recall"),
    *("val_specificity", "val_f1", "val_auroc", "learning_rate"),
)
# Of a manifest: what changes no figure, or is said otherwise.
IRRELEVANT = (
    *("command", "path", "cores", "machine"),
    *("batch_fetch_seconds", "num_workers", "residency"),
)


def main(arguments: list[str] | None = None) -> int:
    """0 where every figure is the same, 1 where one differs, 2 for a user's mistake."""
    command = argparse.ArgumentParser(prog="python -m engine.reproduce", description=__doc__)
    command.add_argument("run_id", type=int, help="a completed run")
    command.add_argument("--dataset", type=Path, help="where the data set lies now")
    command.add_argument("--config", type=Path, help="a YAML file that names output.database")
    options = command.parse_args(arguments)
    try:
        return reproduce(options.run_id, options.dataset, ConfigManager.load(options.config))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def reproduce(run_id: int, dataset: Path | None, base: Config) -> int:
    """Say what differs, train again as a new run, and compare. Raises UserError."""
    from engine.device import resolve
    from engine.records.database import get_run_sync, metrics_sync
    from engine.records.manifest import build_manifest
    from engine.trainer import CentralizedTrainer

    database = Path(base.output.database)
    row = get_run_sync(database, run_id)
    if row is None:
        raise UserError(f"there is no run {run_id} in {database}")
    if row["status"] != "completed":
        raise UserError(f"run {run_id} is {row['status']}; only a completed run can be repeated")
    config = Config.from_dict(row["config"])
    trainer = CentralizedTrainer(config, f"{row['run_name']} (reproduced)", f"of run {run_id}")
    path = dataset or Path(row["dataset_path"])
    found = trainer.prepare_data(path)
    steps = math.ceil(sum(found["counts"]["train"].values()) / config.system.batch_size)
    runtime = resolve(config.system, steps * config.experiment.epochs)
    now = build_manifest(config, path, found["fingerprint"], runtime, {})
    for line in differences(row["manifest"], now):
        print(f"differs: {line}")
    results = trainer.train(path)
    before, after = (metrics_sync(database, number) for number in (run_id, results["run_id"]))
    return 1 if report(before, after) else 0


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
        told = ", ".join(f"{name} {one[name]} -> {other[name]}" for name in changed)
        print(f"epoch {one['epoch']}: {told or 'identical'}")
    print("reproduced exactly" if not differing else f"{differing} epochs differ")
    return differing


if __name__ == "__main__":
    sys.exit(main())
