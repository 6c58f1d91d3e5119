"""What is known of a run, gathered from its database and its files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, UserError
from engine.metrics.assessment import assess
from engine.records.claim import stored_run
from engine.records.database import Row, connect, metrics_sync
from engine.records.results import scores_path
from engine.report.study import PREVALENCE, Study

SCORE_COLUMNS = ("filename", "label", "score")


@dataclass(frozen=True)
class Part:
    """A part of the split with the kept epoch's scores."""

    name: str  # val or test
    names: list[str]
    labels: np.ndarray  # int64 [N], 1 is the positive class
    scores: np.ndarray  # float64 [N]
    columns: dict[str, list[str]]  # other columns of the data set, text [N] each


@dataclass(frozen=True)
class ImageSource:
    """The images of a run's data set, where it is at hand."""

    read: Callable[[str], np.ndarray]  # name -> uint8 [S, S]; raises UserError or OSError
    patients: Mapping[str, str | None]  # name -> patient


@dataclass(frozen=True)
class Facts:
    """One run; what is missing is empty."""

    row: Row
    config: Config
    validation: dict[str, Any]  # the report on the data
    manifest: dict[str, Any]
    result: dict[str, Any]
    epochs: list[Row]
    warnings: list[str]
    parts: dict[str, Part]
    bundle: dict[str, Any]  # without its weights
    study: Study = field(default_factory=dict)
    external: list[dict[str, Any]] = field(default_factory=list)  # what `engine.evaluate` wrote
    assessments: dict[str, dict[str, Any]] = field(default_factory=dict)  # part -> `assess`

    @property
    def main(self) -> Part:
        """The part whose figures come first: test, or val where there is none."""
        return self.parts.get("test") or self.parts["val"]

    @property
    def label_names(self) -> tuple[str, str]:
        """Negative and positive."""
        negative, positive = self.bundle["label_names"]
        return negative, positive

    @property
    def threshold(self) -> float:
        """Of the bundle's default operating point."""
        points = self.bundle["operating_points"]
        return float(points[self.bundle["default_operating_point"]]["threshold"])


def gather(
    database: Path,
    run_id: int,
    bundle: dict[str, Any],
    study: Study,
    images: ImageSource | None,
    result: dict[str, Any] | None = None,
    external: list[dict[str, Any]] | None = None,
) -> Facts:
    """Everything of a run; `result` where it has not been written yet.

    Raises UserError where the run, or the scores of its kept epoch, are not there.
    """
    row = stored_run(database, run_id)
    config = Config.from_dict(row["config"] or {})
    results = Path(config.output.results_dir)
    parts = {
        name: part
        for name in ("val", "test")
        if (part := read_scores(scores_path(config.output, run_id, name), name)) is not None
    }
    if "val" not in parts:
        raise UserError(
            f"run {run_id} has no scores in {scores_path(config.output, run_id)}: nothing can be "
            "reported before its first epoch is kept"
        )
    facts = Facts(
        row=row,
        config=config,
        validation=_json(results / f"validation_{run_id}.json"),
        manifest=row["manifest"] or _json(results / f"manifest_{run_id}.json"),
        result=result if result is not None else _json(results / f"result_{run_id}.json"),
        epochs=metrics_sync(database, run_id),
        warnings=_warnings(database, run_id),
        parts=parts,
        bundle=bundle,
        study=study,
        external=external or [],
    )
    for name, part in parts.items():
        facts.assessments[name] = assess(
            part.scores,
            part.labels,
            facts.threshold,
            patients=patient_numbers(part.names, images.patients) if images else None,
            columns=part.columns,
            prevalence=study.get(PREVALENCE),
        )
    return facts


def patient_numbers(names: list[str], patients: Mapping[str, str | None]) -> np.ndarray | None:
    """int64 [N], a number for each patient; None where no image has one.

    An image without a patient id counts as a patient of its own.
    """
    owners = [patients.get(name) for name in names]
    if not any(owners):
        return None
    keys = [f"patient {o}" if o else f"image {n}" for o, n in zip(owners, names, strict=True)]
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def read_scores(path: Path, part: str) -> Part | None:
    """A file of scores; None where there is none. Raises UserError for one that is damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name for name in reader.fieldnames or () if name not in SCORE_COLUMNS]
            rows = list(reader)
        return Part(
            name=part,
            names=[row["filename"] for row in rows],
            labels=np.array([int(row["label"]) for row in rows], dtype=np.int64),
            scores=np.array([float(row["score"]) for row in rows], dtype=np.float64),
            columns={name: [row[name] or "" for row in rows] for name in columns},
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table of scores ({error})") from error


def _warnings(database: Path, run_id: int) -> list[str]:
    query = "SELECT payload FROM event WHERE run_id = ? AND event = 'warning' ORDER BY event_id"
    with connect(database) as connection:
        payloads = [row["payload"] for row in connection.execute(query, (run_id,))]
    found = []
    for text in payloads:
        try:
            found.append(str(json.loads(text)["message"]))
        except (ValueError, KeyError, TypeError):
            continue  # a damaged row costs its own line only
    return list(dict.fromkeys(found))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
