"""A kept model as ONNX or as a PyTorch program: from 8-bit grey pixels to the calibrated score."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import UserError
from config.errors import first_line
from engine.data.inputs import normalise, to_float
from engine.files import jsonable, sync_folder
from engine.inference.predictor import Predictor
from engine.model.views import mean_logits

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4  # of a score
METADATA = "pneumoscope"  # its key in the file
CHECKED = 64  # images in a batch of the check


class Exported(nn.Module):
    """Decoded images, uint8 [B, S, S] -> scores of the positive class, float32 [B]."""

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.network, self.channels = model.network, model.channels
        self.views = model.average_views
        self.temperature = model.bundle["temperature"] or 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same steps as in training."""
        inputs = normalise(to_float(images.unsqueeze(1)), self.channels)
        logits = mean_logits(self.network, inputs, self.views)
        scores: torch.Tensor = (logits.float() / self.temperature).softmax(dim=1)[:, 1]
        return scores


def export_model(model: Predictor, form: str, path: Path, images: np.ndarray) -> float:
    """Write `model` as `form` (onnx or torch) to `path`; the largest difference of a score.

    `images`, uint8 [N, S, S], are scored by the file and by the bundle first: the file gets its
    name only where every score agrees to 1e-4 and every decision at every kept operating point is
    the same. Raises UserError where they do not, where a package is missing, or where the file
    cannot be written.
    """
    if form == "onnx":
        _require_onnx()
    network = Exported(model).eval()
    example = torch.zeros((2, model.image_size, model.image_size), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    metadata = json.dumps(jsonable(metadata_of(model)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet(), torch.no_grad():
            network(example)  # the constants of `normalise` are made now, not while it is traced
            if form == "onnx":
                program = torch.onnx.export(
                    network,
                    (example,),
                    dynamo=True,
                    dynamic_shapes={"images": {0: batch}},
                    input_names=["images"],
                    output_names=["score"],
                    external_data=False,
                    verbose=False,
                )
                assert program is not None
                program.model.metadata_props[METADATA] = metadata
                program.save(str(temporary), external_data=False)
            else:
                exported = torch.export.export(
                    network, (example,), dynamic_shapes={"images": {0: batch}}
                )
                torch.export.save(exported, temporary, extra_files={METADATA: metadata})
        difference = _check(model, form, temporary, images)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def metadata_of(model: Predictor) -> dict[str, Any]:
    """What the file says of itself: input, output, labels, thresholds, preprocessing, figures."""
    kept = model.bundle
    size = model.image_size
    return {
        "input": f"images: uint8 [batch, {size}, {size}], grey, decoded and resized as the first "
        "two steps of `preprocessing` say; the others are in the model",
        "output": "score: float32 [batch], calibrated, of the positive class",
        "label_names": kept["label_names"],
        "threshold": model.threshold,
        "operating_point": kept["default_operating_point"],
        "operating_points": kept["operating_points"],
        "preprocessing": kept["preprocessing"],
        "run_uid": kept["run_uid"],
        "epoch": kept["epoch"],
        "metrics": {
            part: {name: figures.get(name) for name in ("auroc", "recall", "specificity")}
            for part, figures in kept["metrics"].items()
        },
        "note": "For research. Not a medical device.",
    }


def scores_of_file(form: str, path: Path, images: np.ndarray) -> np.ndarray:
    """What an exported file gives images uint8 [N, S, S]: float64 [N]."""
    batches = [images[at : at + CHECKED] for at in range(0, len(images), CHECKED)]
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = [session.run(["score"], {"images": batch})[0] for batch in batches]
    else:
        program = torch.export.load(path).module()
        with torch.inference_mode():
            found = [program(torch.from_numpy(batch.copy())).numpy() for batch in batches]
    return np.concatenate(found).astype(np.float64)


def _check(model: Predictor, form: str, path: Path, images: np.ndarray) -> float:
    ours = np.concatenate(
        [model.scores(images[at : at + CHECKED]) for at in range(0, len(images), CHECKED)]
    )
    theirs = scores_of_file(form, path, images)
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"the exported model gives other scores than the bundle: up to {difference:.2g} off on "
            f"{len(images)} images; nothing was written"
        )
    for name, point in model.bundle["operating_points"].items():
        threshold = float(point["threshold"])
        if changed := int(((ours >= threshold) != (theirs >= threshold)).sum()):
            raise UserError(
                f"the exported model decides otherwise on {changed} of {len(images)} images at "
                f"{name}; nothing was written"
            )
    return difference


def _require_onnx() -> None:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  the exporter's own need

        onnxruntime.disable_telemetry_events()
    except ImportError as error:
        raise UserError(
            f"ONNX needs packages that are not installed ({first_line(error)}); install the extra: "
            "python -m pip install -e '.[onnx]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print progress and warn of their own future."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
