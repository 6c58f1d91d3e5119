"""The self-contained model file, `best_model.pt`: weights, and all that is needed to use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import Config, UserError
from engine.data.cache.entry import PREPROCESSING
from engine.data.inputs import GREY_MEAN, GREY_STD, MEAN, STD
from engine.data.prepare import Prepared
from engine.inference import drift
from engine.metrics.calibrated import DEFAULT_POINT, Calibrated, operating_point
from engine.model.resnet import stem_of
from engine.records import checkpoint
from engine.records.manifest import code_version, package_versions

KEYS = {  # beside `format`
    *("run_uid", "epoch", "architecture", "weights", "preprocessing", "label_names", "temperature"),
    *("operating_points", "default_operating_point", "metrics", "training_population"),
    *("data_fingerprint", "config", "versions"),
}
SAMPLED = 1000  # training images that the pixel statistics are taken from
SCORE_BINS = 20  # of the histogram of validation scores over 0..1


def describe(config: Config, data: Prepared, run_uid: str) -> dict[str, Any]:
    """What every bundle of a run has in common."""
    return {
        "run_uid": run_uid,
        "architecture": architecture(config.to_dict()),
        "preprocessing": preprocessing(
            config.data.image_size,
            bits=data.report["bits_in_use"],
            channels=1 if config.model.grey_input else 3,
            average_views=config.recipe.average_views,
            fit=config.data.fit,
        ),
        "label_names": list(data.label_names),
        "training_population": {
            "counts": data.report["counts"],
            "split": data.report["split"],  # what it proves of patients and pixels
            "warnings": [f"{code}: {message}" for code, message in data.warnings],
            **_pixel_statistics(data),
        },
        "data_fingerprint": data.fingerprint,
        "config": config.to_dict(),
        "versions": {"packages": package_versions(), "code": code_version()},
    }


def of_epoch(
    common: dict[str, Any],
    weights: dict[str, torch.Tensor],
    epoch: int,
    figures: dict[str, Any],
    calibrated: Calibrated,
) -> dict[str, Any]:
    """The content of one epoch's bundle.

    `figures` and `calibrated` are of the validation part, `figures` at the default operating point.
    """
    population = {
        **common["training_population"],
        "val_scores": np.histogram(calibrated.scores, SCORE_BINS, (0.0, 1.0))[0].tolist(),
    }
    return {
        **common,
        "training_population": population,
        "weights": weights,
        "epoch": epoch,
        "metrics": {"val": figures},
        "temperature": calibrated.temperature,
        "operating_points": calibrated.points,
        "default_operating_point": calibrated.default,
    }


def load(path: Path) -> dict[str, Any]:
    """A bundle of this format, whichever it was written in. Raises UserError, naming the file."""
    content = checkpoint.load(path)
    if content.pop("format") == 1 and {"model", "metrics", "label_names"} <= set(content):
        content = _from_format_1(content)
    if "learner" in content or "optimizer" in content:
        raise UserError(
            f"{path} is a snapshot to resume a run from, not a model; use best_model.pt beside it"
        )
    if set(content) != KEYS:
        missing, unknown = sorted(KEYS - set(content)), sorted(set(content) - KEYS)
        raise UserError(
            f"{path} is no model bundle of this version of Pneumoscope (missing: "
            f"{', '.join(missing) or 'nothing'}; unknown: {', '.join(unknown) or 'nothing'})"
        )
    return content


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """What `build_model` needs, from the sections of a configuration."""
    return {
        "backbone": config["model"]["backbone"],
        "head_sizes": list(config["model"]["head_sizes"]),
        "dropout_rate": config["experiment"]["dropout_rate"],
        "input_channels": 1 if config["model"].get("grey_input") else 3,
        "image_size": config["data"]["image_size"],
        "stem": stem_of(Config.from_dict(config).model, config["data"]["image_size"]),
    }


def preprocessing(
    image_size: int,
    decoder: str | None = PREPROCESSING,
    bits: int | None = None,
    channels: int = 3,
    average_views: str = "none",
    fit: str = "squash",
) -> list[dict[str, Any]]:
    """Every step from a file to the network's input; `decoder` is the version of the first.

    `bits` is what the 16-bit images of the data set use, None where it has none. `fit` is
    `data.fit`; bundles made before there was a choice do not have it.
    """
    mean, std = (MEAN, STD) if channels == 3 else ((GREY_MEAN,), (GREY_STD,))
    averaged = {"step": "average the outputs", "over": average_views}
    resize = {"step": "resize", "to": [image_size, image_size], "filter": "bilinear, antialiased"}
    return [
        {"step": "decode", "to": "grey, 8 bits", "version": decoder, "bits_in_use": bits},
        resize if fit == "squash" else resize | {"fit": fit},
        {"step": "scale", "divide_by": 255},
        {"step": "normalise", "channels": channels, "mean": list(mean), "std": list(std)},
        *([averaged] if average_views != "none" else []),
    ]


def _pixel_statistics(data: Prepared) -> dict[str, Any]:
    """Mean and standard deviation of the decoded training images, in 0..1, over a sample."""
    places = np.linspace(0, len(data.split.train) - 1, min(SAMPLED, len(data.split.train)))
    rows = data.rows[data.split.train[places.astype(np.int64)]]
    figures = [drift.figures_of(data.images[row]) for row in rows.tolist()]
    mean = float(np.mean([one["mean"] for one in figures]))
    square = float(np.mean([one["mean"] ** 2 + one["std"] ** 2 for one in figures]))
    return {
        "pixel_mean": mean,
        "pixel_std": float(np.sqrt(max(0.0, square - mean**2))),
        "image_figures": drift.statistics(figures),
        "pixel_images": len(rows),
    }


def _from_format_1(old: dict[str, Any]) -> dict[str, Any]:
    """A bundle of the first version; what it did not keep is None."""
    return {
        "run_uid": None,
        "epoch": old["epoch"],
        "architecture": architecture(old["config"]),
        "weights": old["model"],
        "preprocessing": preprocessing(old["config"]["data"]["image_size"], "1"),
        "label_names": old["label_names"],
        "temperature": None,
        "metrics": {"val": old["metrics"]},
        "operating_points": {DEFAULT_POINT: operating_point(DEFAULT_POINT, old["metrics"])},
        "default_operating_point": DEFAULT_POINT,
        "training_population": None,
        "data_fingerprint": None,
        "config": old["config"],
        "versions": None,
    }
