"""Several runs that belong together: the folds of a cross-validation, or one training's seeds.

The group's file, `results_dir/group_ID.json`, names its members' settings and runs. It is written
before each run begins, so that a group can be continued whatever ended it.
"""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, UserError
from engine.data.folds import read_names
from engine.files import jsonable, write_text
from engine.inference import bundle
from engine.inference.ensemble import Scores, of_members
from engine.metrics.calibrated import wanted_rule
from engine.metrics.intervals import mean_interval
from engine.process import started_at
from engine.records import checkpoint, results
from engine.records.database import create_run_sync, get_run_sync
from engine.records.identity import run_folder
from engine.trainer import CentralizedTrainer

FIGURES = ("auroc", "recall", "specificity", "accuracy", "precision", "f1", "ece")
Guard = Callable[[Callable[[str], None]], AbstractContextManager[None]]


def members_of(config: Config, folds: str | None, seeds: int | None) -> list[dict[str, Any]]:
    """The settings in which the runs of a group differ. Raises UserError.

    `folds` is a number, or a CSV with the columns filename,fold; of `seeds` all have one split.
    """
    seed = config.system.seed
    split = config.data.split_seed if isinstance(config.data.split_seed, int) else seed
    if seeds is not None:
        if seeds < 2:
            raise UserError("--seeds: give at least 2")
        return [{"data.split_seed": split, "system.seed": seed + n} for n in range(seeds)]
    assert folds is not None
    file = "none"
    count = int(folds) if folds.isdecimal() else 0
    if not folds.isdecimal():
        file = str(Path(folds).absolute())
        count = max(read_names(Path(file)).values())
    if not 2 <= count <= 100:
        raise UserError("--folds: give 2 to 100, or a CSV with the columns filename,fold")
    return [
        {"data.fold_count": count, "data.fold": n, "data.fold_file": file, "data.split_seed": split}
        for n in range(1, count + 1)
    ]


def begin(config: Config, dataset: Path, name: str, members: list[dict[str, Any]]) -> str:
    """A new group; its id."""
    group = uuid.uuid4().hex[:8]
    content = {
        "group": group,
        "name": name,
        "dataset": str(dataset.absolute()),
        "config": config.absolute().to_dict(),
        "members": [{"settings": settings, "run_id": None} for settings in members],
    }
    _write(config, content)
    return group


def train_group(base: Config, group: str, guard: Guard) -> bool:
    """Train what is left of a group, then write its summary and its ensemble; False if stopped.

    `guard` makes a context in which signals call the function that it is given. Raises UserError.
    """
    path = group_path(base, group)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no group {group}: {path} is not here") from None
    config, dataset = Config.from_dict(content["config"]), Path(content["dataset"])
    total = len(content["members"])
    for number, member in enumerate(content["members"], start=1):
        own = changed(config, member["settings"])
        text = f"group {group}, run {number} of {total}"
        run_id = member["run_id"]
        row = get_run_sync(Path(own.output.database), run_id) if run_id is not None else None
        if row is not None and row["status"] == "completed":
            continue
        print(f"{text}: {', '.join(f'{k}={v}' for k, v in member['settings'].items())}", flush=True)
        trainer = CentralizedTrainer(own, f"{content['name']} {number}/{total}", text, run_id)
        ends_well = False
        try:
            with guard(trainer.stop):
                if row is None:
                    trainer.prepare_data(dataset)  # bad data leave no run behind
                    trainer.run_id = member["run_id"] = _create(trainer, dataset)
                    _write(config, content)
                outcome = trainer.train(dataset, resume=row is not None)
            ends_well = outcome["status"] == "completed"
        finally:
            if not ends_well:
                print(f"to continue the group: python -m engine.train --resume-group {group}")
        if not ends_well:
            return False
    _finish(config, content)
    return True


def group_path(config: Config, group: str) -> Path:
    """`results_dir/group_ID.json`."""
    return Path(config.output.results_dir) / f"group_{Path(group).name}.json"


def changed(config: Config, settings: dict[str, Any]) -> Config:
    """`config` with some dotted keys changed."""
    values = config.to_dict()
    for key, value in settings.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    return Config.from_dict(values)


def _finish(config: Config, content: dict[str, Any]) -> None:
    """The summary over the runs, and the ensemble of their models."""
    runs = [member["run_id"] for member in content["members"]]
    folder = Path(config.output.results_dir)
    found = [json.loads((folder / f"result_{run}.json").read_text("utf-8")) for run in runs]
    parts = ["validation"] + (["test"] if all("test" in result for result in found) else [])
    content["summary"] = {
        part: {key: mean_interval([result[part][key] for result in found]) for key in FIGURES}
        for part in parts
    }
    output = config.to_dict()["output"]
    bundles = [bundle.load(run_folder(output, run) / "best_model.pt") for run in runs]
    experiment = config.experiment
    model = of_members(
        bundles,
        [_scores(config, run, "val") for run in runs],
        [_scores(config, run, "test") for run in runs] if "test" in parts else [],
        content["group"],
        wanted_rule(experiment.operating_point, experiment.target_specificity),
        experiment.target_specificity,
    )
    path = Path(config.output.checkpoint_dir) / f"group_{content['group']}" / "best_model.pt"
    try:
        checkpoint.save(model, path)
        content["ensemble"] = {"path": str(path), "metrics": model["metrics"]}
        _write(config, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
    for part, figures in content["summary"].items():
        print(f"mean of {len(runs)} runs on the {part} part, with 95 % interval:")
        for key in ("auroc", "recall", "specificity"):
            mean, low, high = figures[key]
            single = model["metrics"]["val" if part == "validation" else part][key]
            print(f"  {key} {mean:.4f} ({low:.4f} to {high:.4f}); the ensemble {single:.4f}")
    print(f"ensemble: {path}")


def _scores(config: Config, run_id: int, part: str) -> Scores:
    path = results.scores_path(config.output, run_id, part)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return Scores(
        [row["filename"] for row in rows],
        np.array([int(row["label"]) for row in rows]),
        np.array([float(row["score"]) for row in rows]),
    )


def _create(trainer: CentralizedTrainer, dataset: Path) -> int:
    return create_run_sync(
        Path(trainer.config.output.database),
        run_name=trainer.run_name,
        run_description=trainer.run_description,
        config=trainer.config.to_dict(),
        dataset_path=str(dataset),
        status="preparing",
        pid=os.getpid(),
        pid_started_at=started_at(os.getpid()),
    )


def _write(config: Config, content: dict[str, Any]) -> None:
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False)
    write_text(group_path(config, content["group"]), text + "\n")
