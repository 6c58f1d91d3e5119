"""What a run leaves in the results folder beside the stream's own files."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from config import UserError
from config.schema import Output
from engine.files import csv_table, jsonable, write_text


def check_writable(output: Output) -> None:
    """Raise UserError, before any work, where an output folder cannot be written."""
    keys = ("checkpoint_dir", "log_dir", "results_dir", "cache_dir")
    folders = [(f"output.{key}", Path(getattr(output, key))) for key in keys]
    for key, folder in [*folders, ("output.database", Path(output.database).parent)]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):  # a name of its own: runs start together
                pass
        except OSError as error:
            raise UserError(
                f"{key}: {folder} cannot be written ({error.strerror}); choose another folder"
            ) from error


def scores_table(
    names: Sequence[str],
    labels: np.ndarray,
    scores: np.ndarray,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The kept epoch's scores of one part, as CSV: for any threshold, interval or subgroup later.

    `columns` are the data set's own, name -> text of each image. One whose name is taken gets
    "data." before it.
    """
    taken, others = ("filename", "label", "score"), columns or {}
    header = [f"data.{name}" if name.casefold() in taken else name for name in others]
    rows = zip(names, labels.tolist(), scores.tolist(), *others.values(), strict=True)
    return csv_table(
        (*taken, *header),
        ((name, int(label), float(score), *cells) for name, label, score, *cells in rows),
    )


def scores_path(output: Output, run_id: int, part: str = "val") -> Path:
    """`results_dir/scores_{run_id}.csv`; of the test part, `scores_test_{run_id}.csv`."""
    name = f"scores_{run_id}.csv" if part == "val" else f"scores_{part}_{run_id}.csv"
    return Path(output.results_dir) / name


def sweep(output: Output, run_id: int) -> None:
    """Remove what a killed process of this run has left half written."""
    for path in Path(output.results_dir).glob(f".*_{run_id}.*.tmp"):
        path.unlink(missing_ok=True)


def write_report(output: Output, run_id: int, report: dict[str, Any]) -> None:
    """The validation report of a run's data set: `validation_{run_id}.json`."""
    _write_json(Path(output.results_dir) / f"validation_{run_id}.json", report)


def write_dataset_report(output: Output, name: str, report: dict[str, Any]) -> None:
    """The same for a data set without a run: `validation_dataset_{name}.json`.

    Of the name only letters, digits, dots, dashes and underscores are kept, 100 at most.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    _write_json(Path(output.results_dir) / f"validation_dataset_{safe}.json", report)


def write_manifest(output: Output, run_id: int, manifest: dict[str, Any]) -> None:
    """What the run was made of: `manifest_{run_id}.json`."""
    _write_json(Path(output.results_dir) / f"manifest_{run_id}.json", manifest)


def write_result(output: Output, run_id: int, outcome: dict[str, Any]) -> None:
    """The results of `train`, with confusion matrix and intervals: `result_{run_id}.json`."""
    _write_json(Path(output.results_dir) / f"result_{run_id}.json", outcome)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def log_traceback(output: Output, run_id: int, text: str) -> Path:
    """Append a traceback to the run's log, whose path is returned, each line with its time."""
    path = Path(output.log_dir) / f"run_{run_id}.log"
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{stamp} {line}\n" for line in text.rstrip().splitlines())
    return path
