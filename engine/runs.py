"""`python -m engine.runs`: the runs of a database in the terminal, and its backup."""

from __future__ import annotations

import argparse
import json
import sqlite3
from pathlib import Path
from typing import Any

from config import ConfigManager, UserError
from engine.cli import DONE, Parser, add_config_options, run_command, set_values
from engine.files import jsonable, visible
from engine.records.database import STATUSES, as_row, connect
from engine.records.log import METRIC_COLUMNS
from engine.records.queries import RUN_SORTS, Choice, chosen_ids, runs_with_figures

HEADER = "   run  state        epoch  recall  specif.   AUROC  name"


def main(arguments: list[str] | None = None) -> int:
    """0 when the list was printed or the backup written. Raises UserError."""
    options = parser().parse_args(arguments)
    config = ConfigManager.load(options.config, overrides=set_values(options.set))
    database = Path(config.output.database)
    if not database.exists():
        raise UserError(f"there is no database {database}; name it with --set output.database=FILE")
    if options.backup is not None:
        back_up(database, options.backup)
        print(f"backup: {options.backup}")
        return DONE
    rows = list_rows(database, options)
    if options.json:
        print(json.dumps(jsonable(rows), indent=2))
        return DONE
    print(HEADER)
    for row in rows:
        print(line_of(row))
    return DONE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="python -m engine.runs",
        description="List the runs of a database, each with the figures of its kept epoch.",
    )
    command.add_argument("--status", choices=STATUSES, help="only runs in this state")
    command.add_argument("--name", default="", help="only runs with this in their name")
    command.add_argument("--tag", default="", help="only runs with this tag")
    command.add_argument(
        "--sort",
        default="run_id",
        choices=(*RUN_SORTS, *METRIC_COLUMNS),
        metavar="COLUMN",
        help=f"{', '.join(RUN_SORTS)} or a figure, such as val_auroc (default: %(default)s)",
    )
    command.add_argument("--limit", type=int, default=30, help="runs at most (default: 30)")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--backup",
        type=Path,
        metavar="FILE",
        help="instead, write a copy of the database, also while runs and a server use it",
    )
    add_config_options(command)
    return command


def list_rows(database: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The chosen runs in their order."""
    if options.limit < 1:
        raise UserError("--limit must be at least 1")
    statuses = (options.status,) if options.status else ()
    choice = Choice(statuses, options.name, options.tag, sort=options.sort, limit=options.limit)
    with connect(database) as connection:
        ids = [row["run_id"] for row in connection.execute(*chosen_ids(choice))]
        found = [as_row(row) for row in connection.execute(*runs_with_figures(ids))]
    by_id = {row["run_id"]: row for row in found}
    return [by_id[run_id] for run_id in ids if run_id in by_id]


def line_of(row: dict[str, Any]) -> str:
    """One run as a line of the table."""
    shares = [
        f"{'-' if row[name] is None else format(row[name], '.4f'):>{width}}"
        for name, width in (("val_recall", 6), ("val_specificity", 7), ("val_auroc", 6))
    ]
    epoch = row["best_epoch"] or row["epoch"] or "-"
    parts = [f"{row['run_id']:>6}", f"{row['status']:11}", f"{epoch:>5}", *shares]
    return visible("  ".join([*parts, row["run_name"]])).replace("\n", "\\n")


def back_up(database: Path, target: Path) -> None:
    """A consistent copy, while others write: VACUUM INTO. Raises UserError."""
    if target.exists():
        raise UserError(f"{target} exists already; choose another name for the backup")
    draft = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with connect(database, check=True) as connection:
            connection.execute("VACUUM INTO ?", (str(draft),))
        draft.replace(target)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{target} cannot be written ({error})") from error
    finally:
        draft.unlink(missing_ok=True)


if __name__ == "__main__":
    run_command(main)
