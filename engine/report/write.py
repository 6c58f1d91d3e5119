"""Write a run's report and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from config import Config, UserError
from config.errors import first_line
from engine.data.prepare import Prepared
from engine.data.source import open_source
from engine.files import write_text
from engine.inference.predictor import Predictor, load_model
from engine.records.claim import stored_run
from engine.records.identity import run_folder
from engine.report.card import model_card
from engine.report.facts import ImageSource, gather
from engine.report.mistakes import find_mistakes
from engine.report.run_page import run_page
from engine.report.study import find_study, read_study

SWITCHED_OFF = "The images are not shown: report.images is false."


def report_path(config: Config, run_id: int) -> Path:
    """`results_dir/report_{run_id}.html`."""
    return Path(config.output.results_dir) / f"report_{run_id}.html"


def card_path(config: Config, run_id: int) -> Path:
    """`checkpoint_dir/run_{run_id}/model_card.md`."""
    return run_folder(config.to_dict()["output"], run_id) / "model_card.md"


def write_report(
    config: Config,
    run_id: int,
    model: Predictor,
    images: ImageSource | None,
    study: dict[str, Any],
    result: dict[str, Any] | None = None,
    external: list[dict[str, Any]] | None = None,
    note: str = "",
) -> list[Path]:
    """Write both documents of a run, complete or not at all; where they are.

    `config` names the folders and says whether images are shown; `result` is given where
    `result_{run_id}.json` has not been written. Raises UserError where records are missing, and
    OSError where a file cannot be written.
    """
    database = Path(config.output.database)
    facts = gather(database, run_id, model.bundle, study, images, result, external)
    shown = config.report.images
    mistakes = find_mistakes(
        facts.main,
        facts.threshold,
        model,
        images if shown else None,
        note if shown else SWITCHED_OFF,
    )
    paths = [report_path(config, run_id), card_path(config, run_id)]
    for path, text in zip(paths, (run_page(facts, mistakes), model_card(facts)), strict=True):
        write_text(path, text)
    return paths


def write_at_end(
    config: Config, run_id: int, bundle: Path, data: Prepared, result: dict[str, Any]
) -> list[str]:
    """Both documents of a run that ends; what went wrong with `study.yaml`, in words.

    Raises as `write_report`.
    """
    remarks: list[str] = []
    study: dict[str, Any] = {}
    dataset = stored_run(Path(config.output.database), run_id)["dataset_path"]
    found = find_study(Path(dataset))
    if found is not None:
        try:
            study = read_study(found)
        except UserError as error:
            remarks.append(f"the report is without the study's statements: {error}")
    model = load_model(bundle, device=config.system.device)
    write_report(config, run_id, model, of_prepared(data), study, result)
    return remarks


def of_prepared(data: Prepared) -> ImageSource:
    """The images as the run has them, in the decode cache."""
    rows = dict(zip(data.names, data.rows.tolist(), strict=True))
    patients = dict(zip(data.names, data.patients, strict=True))

    def read(name: str) -> np.ndarray:
        if name not in rows:  # a name that is escaped in the table of scores
            raise UserError(f"{name} is not found under this name")
        return data.images[rows[name]]

    return ImageSource(read, patients)


def of_dataset(path: Path, config: Config, model: Predictor) -> tuple[ImageSource | None, str]:
    """The images of a data set as it is now; None and the reason where it cannot be opened."""
    try:
        source = open_source(path, config.data)
    except (UserError, OSError) as error:
        return None, (
            f"The images are not shown, and intervals are by image, because the data set cannot "
            f"be opened ({first_line(error)})."
        )

    def read(name: str) -> Any:
        image = model.decode(source.read(name), name)
        if isinstance(image, str):
            raise UserError(f"{name} cannot be read: {image}")
        return image

    return ImageSource(read, {record.name: record.patient for record in source.records}), ""
