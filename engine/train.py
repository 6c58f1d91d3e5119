"""`python -m engine.train`: train on a data set and keep the run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from config import Config, ConfigManager, UserError
from config.schema import describe

FAULT = 1  # exit code
DEMO_OVERRIDES = {
    "experiment.epochs": 8,
    "experiment.learning_rate": 0.001,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "data.image_size": 64,
}


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, and return the exit code: 0 done or stopped, 2 a user's mistake, 1 a fault."""
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before training began; nothing was kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line, with every configuration key in its help."""
    keys = [f"  {k.key} = {k.default}\n      {k.meaning} ({k.allowed})" for k in describe()]
    command = argparse.ArgumentParser(
        prog="python -m engine.train",
        description="Train a pneumonia classifier on a data set of chest X-rays.",
        epilog="configuration keys, with their defaults:\n" + "\n".join(keys),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", type=Path, help="a ZIP or a folder: metadata.csv and images/")
    what.add_argument("--demo", action="store_true", help="make synthetic images and train on them")
    what.add_argument("--resume", type=int, metavar="RUN_ID", help="go on with an interrupted run")
    what.add_argument("--run-id", type=int, metavar="N", help="start the queued run N")
    command.add_argument("--run-name", help="a name for the run (default: the data set's)")
    command.add_argument("--run-description", default="", help="a note kept with the run")
    command.add_argument("--epochs", type=int, help="short for --set experiment.epochs=N")
    command.add_argument("--config", type=Path, help="a YAML file; its keys are listed below")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one configuration key; may be given again",
    )
    return command


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """The dotted overrides of the command line. Raises UserError for one without a value."""
    chosen: dict[str, Any] = dict(DEMO_OVERRIDES) if options.demo else {}
    chosen |= set_values(options.set)
    if options.epochs is not None:
        chosen["experiment.epochs"] = options.epochs
    return chosen


def set_values(items: list[str]) -> dict[str, str]:
    """KEY=VALUE pairs as dotted overrides. Raises UserError for one without a value."""
    chosen = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set {item}: write it as KEY=VALUE, as in experiment.epochs=10")
        chosen[key.strip()] = value.strip()
    return chosen


def run(options: argparse.Namespace) -> int:
    """One run, from the command line's options to its exit code."""
    overrides = overrides_of(options)
    stored = options.resume if options.resume is not None else options.run_id
    if stored is not None:
        return run_stored(options, stored, overrides)
    config = ConfigManager.load(options.config, overrides=overrides)
    if not options.demo:
        name = options.run_name or options.dataset.stem
        return train(config, options.dataset, name, options.run_description)
    from engine.data.phantoms import write_demo_dataset

    # Kept, so that a stopped demo can go on.
    dataset = write_demo_dataset(Path(config.output.cache_dir) / "chest_phantoms.zip")
    return train(config, dataset, options.run_name or "demo", options.run_description)


def run_stored(options: argparse.Namespace, run_id: int, overrides: dict[str, Any]) -> int:
    """Start a queued run, or go on with an interrupted one, with the configuration it keeps."""
    from engine.records.database import get_run_sync

    base = ConfigManager.load(options.config, overrides=overrides)
    row = get_run_sync(Path(base.output.database), run_id)
    if row is None:
        raise UserError(f"there is no run {run_id} in {base.output.database}")
    resume = options.resume is not None
    config = Config.from_dict(row["config"])
    name, description = row["run_name"], row["run_description"] or ""
    return train(config, Path(row["dataset_path"]), name, description, run_id, resume)


def train(
    config: Config,
    dataset: Path,
    name: str,
    description: str,
    run_id: int | None = None,
    resume: bool = False,
) -> int:
    """Train under signal handlers: the first signal stops gracefully, a second one at once."""
    # torch takes seconds: --help should not wait for it
    from engine.trainer import CentralizedTrainer, StoppedEarly, hint_for

    trainer = CentralizedTrainer(config, name, description, run_id)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        print(f"\n{name}: finishing this step and saving; again to end at once", file=sys.stderr)
        trainer.stop(f"stopped by {name}")
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        trainer.train(dataset, resume=resume)
    except StoppedEarly as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except UserError:
        raise
    except Exception as error:
        if trainer.run_id is None:
            raise  # there is no log yet: the traceback belongs to the terminal
        where = f"{config.output.log_dir}/run_{trainer.run_id}.log"
        print(f"error: {type(error).__name__}: {error}\n(details in {where})", file=sys.stderr)
        if hint := hint_for(error, config):
            print(f"try: {hint}", file=sys.stderr)
        return FAULT
    return 0


def leave(code: int) -> NoReturn:
    """End the process; after a fault at once, for torch's threads may abort a slow end with -6."""
    if code == FAULT:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
