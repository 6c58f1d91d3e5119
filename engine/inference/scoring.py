"""A model's scores on a whole labelled data set, read as training reads it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import Config, UserError
from engine.data.adopt import with_headers
from engine.data.cache import CachedImages, Progress, open_cache
from engine.data.prepare import owner_numbers
from engine.data.source import open_source
from engine.inference import drift
from engine.inference.predictor import Predictor

BATCH = 64


@dataclass(frozen=True)
class ScoredDataset:
    """Every readable image of a data set, in its order, with the model's score."""

    path: Path
    names: list[str]
    labels: np.ndarray  # int64 [N], 1 is the positive class
    scores: np.ndarray  # float64 [N]
    images: CachedImages  # uint8 [M, S, S]
    rows: np.ndarray  # int64 [N], the row of each image in `images`
    patients: list[str | None]
    columns: dict[str, list[str]]  # the data set's other columns: name -> N cells
    unreadable: dict[str, str]  # name -> reason
    warnings: list[str]

    @property
    def patient_numbers(self) -> np.ndarray | None:
        """int64 [N], a number for each patient; None where the data set names none."""
        return owner_numbers(self.patients, self.names)


def score_dataset(
    model: Predictor, path: Path, config: Config, progress: Progress | None = None
) -> ScoredDataset:
    """Score every image of a data set that can be read.

    `config` says how the data set is read; the size of the images is the model's. Raises UserError
    for a data set that cannot be read at all, or whose positive class is not the model's.
    """
    if config.data.positive_label != model.label_names[1]:
        raise UserError(
            f"the model's positive class is {model.label_names[1]}, and data.positive_label is "
            f"{config.data.positive_label}; set data.positive_label={model.label_names[1]}"
        )
    source = open_source(path, config.data)
    opened = open_cache(
        source,
        model.image_size,
        Path(config.output.cache_dir),
        config.data.cache_max_gb,
        config.data.decode_memory_gb,
        progress=progress,
        fit=model.fit,
    )
    readable = [row for row, scan in enumerate(opened.scans) if scan.error is None]
    kept = dataclasses.replace(source, records=[source.records[row] for row in readable])
    kept = with_headers(kept, [opened.scans[row] for row in readable], config.data)
    scores: list[np.ndarray] = []
    figures: list[dict[str, float]] = []
    for at in range(0, len(readable), BATCH):
        batch = np.asarray(opened.images[np.array(readable[at : at + BATCH])])
        scores.append(model.scores(batch))
        figures += [drift.figures_of(image) for image in batch]
    joined = np.concatenate(scores) if scores else np.empty(0)
    unusual = drift.dataset_warnings(figures, joined, model.bundle["training_population"])
    unreadable = {
        record.name: scan.error
        for record, scan in zip(source.records, opened.scans, strict=True)
        if scan.error is not None
    }
    return ScoredDataset(
        path=path,
        names=[record.name for record in kept.records],
        labels=np.array([record.label for record in kept.records], dtype=np.int64),
        scores=joined,
        images=opened.images,
        rows=np.array(readable, dtype=np.int64),
        patients=[record.patient for record in kept.records],
        columns=kept.cells(),
        unreadable=unreadable,
        warnings=[*(message for _, message in [*kept.warnings, *opened.warnings]), *unusual],
    )
