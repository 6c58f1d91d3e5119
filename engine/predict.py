"""`python -m engine.predict MODEL PATH...`: scores for images."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from config import ConfigManager, UserError
from engine.cli import Parser, add_config_options, model_path, run_command, set_values

if TYPE_CHECKING:
    from engine.inference.predictor import Prediction

FORMATS = ("csv", "json", "jsonl")
COLUMNS = ("path", "score", "label", "threshold", "warnings", "error")
SOME_FAILED = 1  # exit code


def main(arguments: list[str] | None = None) -> int:
    """0 where every image was scored, 1 where some could not be. Raises UserError."""
    return predict(parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="python -m engine.predict",
        description="Score images with a trained model. A file that cannot be read gets an error "
        "in its row, and the rest continue.",
    )
    command.add_argument("model", type=Path, help="a bundle, best_model.pt, or a run's number")
    command.add_argument(
        "paths", nargs="+", help="image files, DICOM included, folders, archives, patterns"
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write; its ending chooses the format"
    )
    command.add_argument("--format", choices=FORMATS, help="default: by --out's ending, else csv")
    point = command.add_mutually_exclusive_group()
    point.add_argument("--threshold", type=float, metavar="T", help="instead of the model's own")
    point.add_argument(
        "--operating-point", metavar="RULE", help="of the model's, such as 'specificity>=0.90'"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    command.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="fp32",
        help="bf16, or auto where the device has it, is faster and moves scores in the third "
        "digit (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--batch-size", type=int, default=32, metavar="N")
    command.add_argument(
        "--explain", type=Path, metavar="FOLDER", help="also write a heat map of each image there"
    )
    add_config_options(command)
    return command


def predict(options: argparse.Namespace) -> int:
    """Score and write. Raises UserError."""
    if options.batch_size < 1:
        raise UserError("--batch-size must be at least 1")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UserError("--threshold must lie between 0 and 1")
    form = options.format or _format_of(options.out)
    from engine.inference.predictor import load_model  # torch takes seconds: not for --help

    config = ConfigManager.load(options.config, overrides=set_values(options.set))
    model = load_model(
        model_path(options.model, config), device=options.device, precision=options.precision
    )
    if options.operating_point is not None:
        threshold = model.threshold_of(options.operating_point)
    else:
        threshold = model.threshold if options.threshold is None else options.threshold
    heat_maps = None
    if options.explain is not None:
        from engine.inference.explain import HeatMaps

        heat_maps = HeatMaps(model, options.explain)
    rows: list[dict[str, Any]] = []
    for found in _watched(model.predict(options.paths, options.batch_size)):
        rows.append(row_of(found, threshold, model.label_names))
        if heat_maps is not None and found.file is not None and found.error is None:
            heat_maps.write(found.file)
    if not rows:
        raise UserError(f"no image was found in {', '.join(map(str, options.paths))}")
    with _opened(options.out) as file:
        file.write(text_of(rows, form))
    failed = sum(row["error"] is not None for row in rows)
    print(summary(rows, threshold, options.out), file=sys.stderr)
    return SOME_FAILED if failed else 0


def row_of(found: Prediction, threshold: float, label_names: list[str]) -> dict[str, Any]:
    """One row of the output, by the names of COLUMNS."""
    label = None if found.score is None else label_names[found.score >= threshold]
    return {
        "path": str(found.path),
        "score": found.score,
        "label": label,
        "threshold": threshold,
        "warnings": "; ".join(found.warnings),
        "error": found.error,
    }


def text_of(rows: list[dict[str, Any]], form: str) -> str:
    """The rows as CSV, a JSON list, or a JSON object a line."""
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if form == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    from engine.files import csv_table

    return csv_table(COLUMNS, ([row[name] for name in COLUMNS] for row in rows))


def summary(rows: list[dict[str, Any]], threshold: float, out: Path | None) -> str:
    """A line for the person at the terminal."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["label"] or "not scored"] = counts.get(row["label"] or "not scored", 0) + 1
    found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    where = "" if out is None else f", written to {out}"
    return f"{len(rows)} images at threshold {threshold:.4g}: {found}{where}"


def _format_of(out: Path | None) -> str:
    ending = out.suffix.lower().lstrip(".") if out is not None else "csv"
    if ending not in FORMATS:
        raise UserError(f"--out {out}: name it .csv, .json or .jsonl, or give --format")
    return ending


@contextlib.contextmanager
def _opened(out: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that gets its name when it is complete. Raises UserError."""
    if out is None:
        yield sys.stdout
        return
    from engine.files import write_text

    text = io.StringIO()
    yield text
    try:
        write_text(out, text.getvalue())
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from error


def _watched(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """With a bar on stderr, where somebody watches."""
    if not sys.stderr.isatty():
        yield from predictions
        return
    from tqdm import tqdm

    yield from tqdm(predictions, unit=" images", leave=False)


if __name__ == "__main__":
    run_command(main)
