"""`python -m engine.check --dataset D`: look at a data set before training."""

from __future__ import annotations

import argparse
import json
import re
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Config, ConfigManager, UserError
from engine.cli import Parser, add_config_options, run_command, set_values

if TYPE_CHECKING:
    from engine.data.prepare import Prepared


def main(arguments: list[str] | None = None) -> int:
    """0 when the data set can be trained on. Raises UserError with what is wrong with it."""
    options = parser().parse_args(arguments)
    return check(options, ConfigManager.load(options.config, overrides=set_values(options.set)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="python -m engine.check",
        description="Read a data set as a run would, say what was found, and write one page that "
        "opens offline: what the network will see, counts, duplicates, grey levels.",
    )
    command.add_argument("--dataset", type=Path, required=True, help="a folder or an archive")
    command.add_argument("--open", action="store_true", help="show the page in a browser")
    command.add_argument(
        "--rehearse",
        action="store_true",
        help="train a few steps, validate a batch and write a snapshot: what would a run take?",
    )
    command.add_argument(
        "--out", type=Path, default=Path("output/checks"), metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )  # fmt: skip
    add_config_options(command)
    return command


def check(options: argparse.Namespace, config: Config) -> int:
    """Check, print, write, and open the page where asked. Raises UserError."""
    from engine.files import jsonable, storable, visible, write_text  # torch: not for --help
    from engine.report.checking import check_dataset
    from engine.stream.sinks.console import preparation_bar

    path = storable(options.dataset)
    with preparation_bar() as progress:
        rehearse = rehearsed if options.rehearse else None
        found = check_dataset(path, path.name, config.absolute(), progress, rehearse)
    for line in found.lines():
        print(visible(line))
    target = options.out / f"{re.sub(r'[^A-Za-z0-9._-]', '_', path.name)[:100]}.html"
    try:
        write_text(target, found.page)
        text = json.dumps(jsonable(found.document), indent=2, ensure_ascii=False)
        write_text(target.with_suffix(".json"), text + "\n")
    except OSError as error:
        raise UserError(f"{options.out} cannot be written ({error.strerror or error})") from error
    print(f"written to {target} and {target.with_suffix('.json').name}")
    if options.open and not webbrowser.open(target.resolve().as_uri()):
        print(f"no browser was found; open {target} yourself", file=sys.stderr)
    return 0


def rehearsed(data: Prepared, config: Config) -> tuple[dict[str, Any], list[str]]:
    """The figures of a rehearsal, and in words. Raises UserError."""
    from engine.rehearsal import rehearse, sentences

    figures = rehearse(data, config)
    return figures, sentences(figures)


if __name__ == "__main__":
    run_command(main)
