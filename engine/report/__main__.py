"""`python -m engine.report RUN`: write a run's report and model card anew; pack and unpack runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from config import Config, ConfigManager, UserError
from engine.cli import Parser, add_config_options, run_command, set_values, stored_config


def main(arguments: list[str] | None = None) -> int:
    """0 when everything was written. Raises UserError."""
    options = parser().parse_args(arguments)
    base = ConfigManager.load(options.config, overrides=set_values(options.set))
    if options.unpack:
        _unpack(Path(options.run), base)
    elif options.pack is not None:
        _pack(_run_id(options.run), base, options)
    else:
        report(_run_id(options.run), base, options)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="python -m engine.report",
        description="Write the report (one HTML file that opens offline) and the model card of a "
        "run. What only a person knows is read from study.yaml beside the data.",
    )
    command.add_argument("run", help="a run's number; with --unpack, the file")
    whole = command.add_mutually_exclusive_group()
    whole.add_argument(
        "--pack", type=Path, metavar="FILE", help="write the whole run to this ZIP instead: "
        "records, curves, model, report",
    )  # fmt: skip
    whole.add_argument(
        "--unpack", action="store_true", help="add the run in a packed file to the database"
    )
    command.add_argument(
        "--images", action="store_true", help="with --pack: keep the report's images"
    )
    command.add_argument("--dataset", type=Path, help="where the data set is now")
    command.add_argument("--study", type=Path, metavar="FILE", help="instead of study.yaml")
    command.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="FOLDER",
        help="what engine.evaluate wrote on another data set, shown beside the run's own figures; "
        "may be given again",
    )  # fmt: skip
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_config_options(command)
    return command


def report(run_id: int, base: Config, options: argparse.Namespace) -> None:
    """Gather and write; print where. Raises UserError."""
    from engine.inference.predictor import load_model  # torch takes seconds: not for --help
    from engine.records.claim import stored_run
    from engine.records.identity import run_folder
    from engine.report.study import find_study, read_study
    from engine.report.write import of_dataset, write_report

    row = stored_run(Path(base.output.database), run_id)
    config = stored_config(row, base)
    if "report.images" in set_values(options.set):
        config = dataclasses.replace(config, report=base.report)
    folder = run_folder(config.to_dict()["output"], run_id)
    if not (folder / "best_model.pt").is_file():
        raise UserError(f"run {run_id} has no model in {folder}: nothing can be reported yet")
    model = load_model(folder / "best_model.pt", device=options.device)
    dataset = options.dataset or (Path(row["dataset_path"]) if row["dataset_path"] else None)
    images, note, study = None, "The images are not shown: the run names no data set.", {}
    if dataset is not None:
        images, note = of_dataset(dataset, config, model)
    found = options.study or (find_study(dataset) if dataset is not None else None)
    if found is not None:
        study = read_study(found)
    external = [_evaluation(path, model.bundle["run_uid"]) for path in options.evaluation]
    try:
        paths = write_report(config, run_id, model, images, study, None, external, note)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written ({error.strerror})") from error
    if note:
        print(note)
    print(f"written: {' and '.join(map(str, paths))}")


def _pack(run_id: int, base: Config, options: argparse.Namespace) -> None:
    from engine.records.packing import pack

    pack(Path(base.output.database), run_id, options.pack, options.images)
    kept = "with" if options.images else "without"
    print(f"{options.pack}: run {run_id}, {kept} images")


def _unpack(source: Path, base: Config) -> None:
    from engine.records.location import check_local
    from engine.records.packing import unpack

    database = Path(base.output.database)
    check_local(database, base.output.allow_network_database)
    print(f"{source}: run {unpack(source, base)} of {database}")


def _run_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UserError(f"{text}: name a run by its number, as in python -m engine.report 1")
    return int(text)


def _evaluation(folder: Path, run_uid: str | None) -> dict[str, Any]:
    """The document in a folder that `engine.evaluate` wrote. Raises UserError."""
    path = folder / "evaluation.json" if folder.is_dir() else folder
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        made_by = document["provenance"]["run"]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} was not written by engine.evaluate") from error
    if made_by != run_uid:
        raise UserError(f"{path} is of another model (of the run {made_by}, not {run_uid})")
    return dict(document)


if __name__ == "__main__":
    run_command(main)
