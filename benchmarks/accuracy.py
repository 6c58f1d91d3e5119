"""Which recipe gives the best model? `python -m benchmarks.accuracy`

An ablation on the development images: every row of ROWS is a recipe, trained with at least three
seeds on one fixed split by patient (60 % train, 20 % val, 20 % test). After each epoch the test
part is scored too, so that the rules which choose an epoch can be compared afterwards; its time is
not counted, and nothing of it reaches the training. A run whose result is in the JSON is skipped,
so the benchmark can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.ablation import MOST_SEEDS, RecordedRun, assess, summarise
from benchmarks.lib.record import result_path, write_result
from config import Config, ConfigManager
from engine.data.prepare import Prepared, prepare
from engine.files import jsonable
from engine.model.resnet import build_model
from engine.model.start import seed_everything
from engine.stop import StopRequest

DEFAULT_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
SPLIT_SEED = 0  # of the split, which is the same for every row and seed
NEVER = 100_000  # epochs of patience: every row has the whole budget
ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rate_3e-4": {"experiment.learning_rate": 3e-4},
    "warmup": {"recipe.warmup_epochs": 1},
    "ema": {"recipe.ema": 0.99},
    "smoothing": {"recipe.label_smoothing": 0.05},
    "mixup": {"recipe.mixup": 0.2},
    "balanced_loss": {"recipe.balance": "loss"},
    "balanced_sampling": {"recipe.balance": "sampling"},
    "zero_init": {"recipe.zero_init": True},
    "grey_input": {"model.grey_input": True},
    "small_epochs": {"recipe.small_epochs": 6},
    "flip": {"augment.flip": 0.5},
    "stronger": {
        "augment.rotate": 15,
        "augment.translate": 0.1,
        "augment.scale": 0.2,
        "augment.erase": 0.3,
    },
    "views_flip": {"recipe.average_views": "flip"},
    "views_shift": {"recipe.average_views": "shift"},
    "small_stem": {"model.stem": "small"},
}
LEFT_OUT = ("small_stem",)  # sixteen times the work of a step: only where it is asked for


def main() -> int:
    """Train what is missing, write the JSON after every run, print the table; 0 always."""
    given = parser().parse_args()
    if not given.dataset.exists():
        print(f"skipped: {given.dataset} is not here (--dataset, or PNEUMOSCOPE_DEV_DATA)")
        return 0
    rows = chosen_rows(given)
    name = f"accuracy_{given.image_size}px"
    shown = {**vars(given), "dataset": given.dataset.name, "rows": rows}
    runs = earlier_runs(name, shown)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(given.dataset, settings(Path(folder), given, SPLIT_SEED, {}))
        for seed in range(1, given.seeds + 1):
            for row, changes in rows.items():
                if any(run["row"] == row and run["seed"] == seed for run in runs):
                    continue
                config = settings(Path(folder), given, seed, changes)
                runs.append({"row": row, "seed": seed, **train(config, data, given.scores, row)})
                print(line_of(runs[-1]), flush=True)
                path = write_result(name, shown, jsonable({"runs": runs, **summarise(runs)}))
    found = summarise(runs)
    write_result(name, shown, jsonable({"runs": runs, **found}))
    print_tables(found)
    print("written to", path if runs else "nothing")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    folder = Path(os.environ.get("PNEUMOSCOPE_DEV_DATA", DEFAULT_DATA))
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dataset", type=Path, default=folder / "chest_xray_dev.zip")
    options.add_argument("--image-size", type=int, default=64)
    options.add_argument("--epochs", type=int, default=18)
    options.add_argument("--seeds", type=int, default=3, choices=range(1, MOST_SEEDS + 1))
    options.add_argument("--backbone", default="resnet50")
    options.add_argument("--rows", nargs="+", metavar="ROW", help=f"of {', '.join(ROWS)}")
    options.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="one more row, such as both:recipe.ema=0.99,recipe.zero_init=true",
    )
    options.add_argument(
        "--scores",
        type=Path,
        default=Path("output/accuracy"),
        metavar="FOLDER",
        help="where every epoch's scores are kept, as NPZ",
    )
    return options


def chosen_rows(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Row -> its configuration keys, of `--rows` and `--add`."""
    names = given.rows if given.rows is not None else [n for n in ROWS if n not in LEFT_OUT]
    rows = {name: ROWS[name] for name in names}
    for text in given.add:
        name, _, keys = text.partition(":")
        rows[name] = dict(item.partition("=")[::2] for item in keys.split(","))
    return rows


def earlier_runs(name: str, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of the JSON there is, where it was made with the same settings."""
    path = result_path(name)
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    for key in ("dataset", "image_size", "epochs", "backbone"):
        if document["settings"][key] != shown[key]:
            raise SystemExit(
                f"{path} was measured with {key}={document['settings'][key]}; move it away to "
                f"measure with {key}={shown[key]}"
            )
    runs: list[dict[str, Any]] = document["figures"]["runs"]
    measured: dict[str, Any] = document["settings"]["rows"]
    asked = shown["rows"]
    shown["rows"] = {**measured, **asked}
    return [
        run for run in runs if asked.get(run["row"], measured[run["row"]]) == measured[run["row"]]
    ]


def settings(folder: Path, given: argparse.Namespace, seed: int, changes: dict[str, Any]) -> Config:
    """The defaults with a row's keys, without early stopping."""
    return ConfigManager.load(
        overrides={
            "system.seed": seed,
            "system.validation_split": 0.2,
            "system.test_split": 0.2,
            "data.image_size": given.image_size,
            "experiment.epochs": given.epochs,
            "experiment.early_stopping_patience": NEVER,
            "model.backbone": given.backbone,
            "model.weights": "none",
            **{f"output.{key}": str(folder / key) for key in ("checkpoint_dir", "cache_dir")},
            **{f"output.{key}": str(folder / key) for key in ("results_dir", "log_dir")},
            **changes,
        },
        environ={},
    )


def train(config: Config, data: Prepared, folder: Path, row: str) -> dict[str, Any]:
    """One run as the trainer does it, its epochs recorded; `error` where it failed."""
    with tempfile.TemporaryDirectory() as name:
        output = {"checkpoint_dir": f"{name}/checkpoints", "results_dir": f"{name}/results"}
        config = ConfigManager.load(
            overrides={**flat(config), **{f"output.{k}": v for k, v in output.items()}}, environ={}
        )
        seed_everything(config.system.seed)
        network = build_model(
            config.model,
            config.experiment.dropout_rate,
            config.data.image_size,
            config.recipe.zero_init,
        )
        began = time.perf_counter()
        run = RecordedRun(1, "0" * 32, row, config, data, network, lambda _: None, StopRequest())
        try:
            with run.threads, run.saving.snapshots:
                run.train(resume=False)
        except Exception as error:  # a row that diverges is a result, too
            return {"error": f"{type(error).__name__}: {error}"}
        minutes = (time.perf_counter() - began - run.seconds_of_test) / 60
    folder.mkdir(parents=True, exist_ok=True)
    scores = folder / f"{config.data.image_size}px_{row}_{config.system.seed}.npz"
    np.savez_compressed(scores, **run.arrays())
    return {"minutes": minutes, **assess(run.epochs, config.experiment)}


def flat(config: Config) -> dict[str, Any]:
    """Dotted key -> value."""
    return {f"{s}.{k}": v for s, keys in config.to_dict().items() for k, v in keys.items()}


def line_of(run: dict[str, Any]) -> str:
    """A run in a line."""
    if "error" in run:
        return f"{run['row']}, seed {run['seed']}: failed: {run['error']}"
    kept = run["kept"]
    return (
        f"{run['row']}, seed {run['seed']}: epoch {run['kept_epoch']}, test AUROC "
        f"{kept['auroc']:.4f}, sensitivity {kept['recall']:.4f}, specificity "
        f"{kept['specificity']:.4f}, ECE {kept['ece']:.4f}, {run['minutes']:.1f} minutes"
    )


def print_tables(found: dict[str, Any]) -> None:
    """Rows and rules for a person."""
    for row, of in found["rows"].items():
        figures = ", ".join(
            f"{key} {of[key]['mean']:.4f} ({of[key]['low']:.4f} to {of[key]['high']:.4f})"
            for key in ("auroc", "recall", "specificity", "ece", "minutes")
            if key in of
        )
        less = of.get("against_plain")
        against = (
            f"; AUROC {less['mean']:+.4f} ({less['low']:+.4f} to {less['high']:+.4f})"
            if (less)
            else ""
        )
        print(f"{row} ({of['runs']} runs, {of['failed']} failed): {figures}{against}")
    for rule, of in found["rules"].items():
        print(
            f"{rule}: mean regret {of['mean_regret']:.5f}, worst {of['worst_regret']:.4f}, "
            f"{of['lucky']} of {of['runs']} runs above 0.01"
        )


if __name__ == "__main__":
    raise SystemExit(main())
