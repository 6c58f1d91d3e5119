"""`python -m engine.train`: train on a data set and keep the run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Config, ConfigManager, UserError
from config.schema import describe
from engine.cli import (
    DEMO_OVERRIDES,
    DONE,
    FAULT,
    INTERRUPTED,
    MISTAKE,
    Parser,
    add_config_options,
    run_command,
    set_values,
    stop_on_signals,
    stored_config,
)

if TYPE_CHECKING:  # torch takes seconds: --help should not wait for it
    from engine.distributed import Processes


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, and return the exit code: 0 done or stopped, 1 a fault. Raises UserError."""
    options = parser().parse_args(arguments)
    overrides = overrides_of(options)
    base = ConfigManager.load(options.config, overrides=overrides)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return train_together(options, base, list(overrides))
    if options.resume_group is not None:
        return train_group(base, options.resume_group)
    return start(options, base, list(overrides))


def start(
    options: argparse.Namespace, base: Config, keys: list[str], processes: Processes | None = None
) -> int:
    """Start a run or continue one, as this process alone or as process 0 of several."""
    stored = options.resume if options.resume is not None else options.run_id
    if stored is not None:
        if options.run_name is not None or options.run_description is not None:
            raise UserError(
                f"run {stored} keeps its name and description; give --run-name and "
                "--run-description only with --dataset or --demo"
            )
        return run_stored(stored, base, keys, options.resume is not None, processes)
    dataset, name = options.dataset, options.run_name
    if options.demo:
        from engine.data.phantoms import write_demo_dataset

        # Kept, so that a stopped demo can be resumed.
        dataset = write_demo_dataset(Path(base.output.cache_dir) / "chest_phantoms.zip")
        name = name or "demo"
    if options.folds is not None or options.seeds is not None:
        from engine.group import begin, members_of

        members = members_of(base, options.folds, options.seeds)
        return train_group(base, begin(base, dataset, name or dataset.stem, members))
    text = options.run_description or ""
    return train(base, dataset, name or dataset.stem, text, processes=processes)


def train_together(options: argparse.Namespace, base: Config, keys: list[str]) -> int:
    """One of the processes that torchrun has started. A restarted launch continues its run."""
    from engine.distributed import Refused, is_peer_error, join, launch_name, leave
    from engine.follower import follow
    from engine.records.identity import run_of_launch
    from engine.stop import StopRequest

    if options.resume_group is not None or options.folds is not None or options.seeds is not None:
        raise UserError("a group of runs is trained by one process; start it without torchrun")
    processes = join()
    try:
        if processes.is_main:
            launch = launch_name()
            begun = launch and run_of_launch(base.absolute().output.checkpoint_dir, launch)
            if begun and is_unfinished(Path(base.output.database), begun):
                return run_stored(begun, base, keys, True, processes)
            if begun and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
                print(f"run {begun} of this launch is completed", file=sys.stderr)
                processes.from_main(lambda: None)
                return DONE
            return start(options, base, keys, processes)
        stop = StopRequest()
        with stop_on_signals(stop.set, speaks=False):
            follow(base, processes, stop)
        return DONE
    except Refused:
        return MISTAKE  # process 0 has said why
    except RuntimeError as error:
        if not is_peer_error(error):
            raise
        lost = f"another process of this training is gone ({error})"
        print(f"error: process {processes.rank}: {lost}", file=sys.stderr)
        return FAULT
    finally:
        leave()


def train_group(base: Config, group: str) -> int:
    """Train the runs of a group, in turn; the exit code. Raises UserError."""
    from engine import group as groups
    from engine.stop import StoppedEarly

    try:
        groups.train_group(base, group, stop_on_signals)
    except StoppedEarly as stopped:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    return DONE


def parser() -> argparse.ArgumentParser:
    """The command line, with every configuration key in its help."""
    keys = [f"  {k.key} = {k.default}\n      {k.meaning} ({k.allowed})" for k in describe()]
    command = Parser(
        prog="python -m engine.train",
        description="Train a pneumonia classifier on a data set of chest X-rays.",
        epilog="configuration keys, with their defaults:\n" + "\n".join(keys),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", type=Path, help="a ZIP or a folder: metadata.csv and images/")
    what.add_argument("--demo", action="store_true", help="make synthetic images and train on them")
    what.add_argument("--resume", type=int, metavar="RUN_ID", help="continue an interrupted run")
    what.add_argument("--run-id", type=int, metavar="N", help="start the queued run N")
    what.add_argument("--resume-group", metavar="ID", help="continue the runs of a group")
    several = command.add_mutually_exclusive_group()
    several.add_argument(
        "--folds",
        metavar="N",
        help="cross-validation: a run for each fold; or a CSV of filename,fold",
    )
    several.add_argument("--seeds", type=int, metavar="N", help="a run for each of N seeds")
    command.add_argument("--run-name", help="a name for the run (default: the data set's)")
    command.add_argument("--run-description", help="a note kept with the run")
    command.add_argument("--epochs", type=int, help="short for --set experiment.epochs=N")
    add_config_options(command)
    return command


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """The dotted overrides of the command line. Raises UserError for one without a value."""
    chosen: dict[str, Any] = dict(DEMO_OVERRIDES) if options.demo else {}
    chosen |= set_values(options.set)
    if options.epochs is not None:
        chosen["experiment.epochs"] = options.epochs
    return chosen


def is_unfinished(database: Path, run_id: int) -> bool:
    """Whether the database has the run, and it can be continued."""
    from engine.records.database import get_run_sync

    row = get_run_sync(database, run_id) if database.exists() else None
    return row is not None and row["status"] != "completed"


def run_stored(
    run_id: int, base: Config, keys: list[str], resume: bool, processes: Processes | None = None
) -> int:
    """Start a queued run, or resume one, with its own configuration but for `keys`.

    Raises UserError.
    """
    from engine.records.claim import stored_run

    row = stored_run(Path(base.output.database), run_id)
    if row["dataset_path"] is None:
        raise UserError(f"run {run_id} names no data set; start a new run")
    dataset, config = Path(row["dataset_path"]), stored_config(row, base, keys)
    name, text = row["run_name"], row["run_description"] or ""
    return train(config, dataset, name, text, run_id, resume, processes)


def train(
    config: Config,
    dataset: Path,
    name: str,
    description: str,
    run_id: int | None = None,
    resume: bool = False,
    processes: Processes | None = None,
) -> int:
    """Train under signal handlers: the first signal stops gracefully, a second one at once."""
    # torch takes seconds: --help should not wait for it
    from engine.distributed import ALONE, PeerLost
    from engine.failure import hint_for
    from engine.stop import StoppedEarly
    from engine.trainer import CentralizedTrainer

    trainer = CentralizedTrainer(config, name, description, run_id, processes or ALONE)
    try:
        with stop_on_signals(trainer.stop):
            trainer.train(dataset, resume=resume)
    except StoppedEarly as stopped:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    except (UserError, PeerLost):
        raise
    except Exception as error:
        if trainer.run_id is None or trainer.traceback_log is None:
            raise  # the traceback is in no log: it belongs to the terminal
        where = trainer.traceback_log
        print(f"error: {type(error).__name__}: {error}\n(details in {where})", file=sys.stderr)
        if hint := hint_for(error, trainer.config, trainer.run_id):
            print(f"try: {hint}", file=sys.stderr)
        return FAULT
    return DONE


if __name__ == "__main__":
    run_command(main)
