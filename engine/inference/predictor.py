"""A kept model in use: from image files to scores, by the same steps as in training."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import UserError
from config.errors import first_line
from config.schema import Model, System
from engine import device as devices
from engine.data import decode
from engine.data.archive import read_file
from engine.data.inputs import evaluation_inputs
from engine.data.names import IMAGE_ENDINGS
from engine.inference import bundle
from engine.inference.gradcam import heat_maps, randomisation_check
from engine.model.resnet import build_model
from engine.model.views import VIEWS, mean_logits


@dataclass(frozen=True)
class Prediction:
    """One image's result: score and label, or the error."""

    path: Path
    score: float | None  # probability of the positive class
    label: str | None  # at the threshold of the bundle's default operating point
    error: str | None  # why the file could not be scored


def load_model(path: str | Path, device: str = "auto", precision: str = "fp32") -> Predictor:
    """Open a bundle for prediction. Raises UserError for a file that is none, naming it."""
    return Predictor(bundle.load(Path(path)), device, precision)


class Predictor:
    """The model of a bundle, in evaluation mode."""

    def __init__(self, content: dict[str, Any], device: str, precision: str) -> None:
        """Raises UserError for an architecture, a preprocessing or a device that is not known."""
        shape = content["architecture"]
        self.image_size = int(shape["image_size"])
        steps = content["preprocessing"]
        self.channels = int(shape["input_channels"])
        self.average_views: str = steps[4]["over"] if len(steps) == 5 else "none"
        self.fit = str(steps[1].get("fit", "squash"))
        known = bundle.preprocessing(
            self.image_size,
            channels=self.channels,
            average_views=self.average_views,
            fit=self.fit,
        )
        if steps[1:] != known[1:] or self.average_views not in VIEWS:
            raise UserError(
                "the model was trained with another preprocessing than this version of Pneumoscope "
                "has; use the version that made it"
            )
        self._bits: int | None = steps[0].get("bits_in_use")
        settings = Model(
            shape["backbone"],
            "none",
            tuple(shape["head_sizes"]),
            stem=shape.get("stem", "standard"),  # a bundle without it is older than the choice
            grey_input=self.channels == 1,
        )
        network = build_model(settings, shape["dropout_rate"])
        try:
            network.load_state_dict(content["weights"])
        except RuntimeError as error:
            reason = first_line(error)
            raise UserError(f"the weights do not fit the architecture: {reason}") from error
        deterministic = torch.are_deterministic_algorithms_enabled()  # the caller's choice stays
        system = System(
            device=device, precision=precision, compile="off", deterministic=deterministic
        )
        self._runtime = devices.resolve(system, planned_steps=1)
        self.network = network.to(self._runtime.device).eval()
        self.network.to(memory_format=self._runtime.memory_format)
        self.bundle = {key: value for key, value in content.items() if key != "weights"}
        self.label_names: list[str] = content["label_names"]
        self.threshold = self.threshold_of(content["default_operating_point"])

    def threshold_of(self, operating_point: str) -> float:
        """The threshold that a rule chose on the validation part. Raises UserError."""
        points = self.bundle["operating_points"]
        if operating_point not in points:
            raise UserError(
                f"the model has no operating point {operating_point!r}; it has {', '.join(points)}"
            )
        return float(points[operating_point]["threshold"])

    def predict(
        self, paths: str | Path | Iterable[str | Path], batch_size: int = 32
    ) -> Iterator[Prediction]:
        """Score image files, and those in folders, in order; a bad file gets an error."""
        files = image_files(paths)
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            ahead = deque(self._reading(pool, files, batch_size) for _ in range(2))
            while batch := ahead.popleft():
                ahead.append(self._reading(pool, files, batch_size))
                yield from self._scored(batch)

    def _reading(
        self, pool: ThreadPoolExecutor, files: Iterator[Path], count: int
    ) -> list[tuple[Path, Future[np.ndarray | str]]]:
        """The next files, being decoded while the network is busy with those before."""
        return [(path, pool.submit(self.read, path)) for path in itertools.islice(files, count)]

    def _scored(self, batch: list[tuple[Path, Future[np.ndarray | str]]]) -> Iterator[Prediction]:
        read = [future.result() for _, future in batch]
        images = [found for found in read if isinstance(found, np.ndarray)]
        scores = iter(self.scores(np.stack(images)).tolist() if images else [])
        for (path, _), found in zip(batch, read, strict=True):
            if isinstance(found, str):
                yield Prediction(path, None, None, found)
            else:
                score = next(scores)
                yield Prediction(path, score, self.label_names[score >= self.threshold], None)

    @torch.inference_mode()
    def scores(self, images: np.ndarray) -> np.ndarray:
        """Decoded images, uint8 [B, S, S] -> scores, float64 [B]."""
        inputs = self._inputs(images)
        with self._runtime.autocast():
            logits = mean_logits(self.network, inputs, self.average_views)
        scaled = logits.double() / (self.bundle["temperature"] or 1.0)
        return np.asarray(scaled.softmax(dim=1)[:, 1].cpu())

    def heat_map(self, image: np.ndarray) -> np.ndarray:
        """Grad-CAM of one decoded image, uint8 [S, S]: float32 [S, S] in 0..1."""
        inputs = self._inputs(image.copy()[None])
        return heat_maps(self.network, inputs)[0].cpu().numpy()

    def heat_map_check(self, images: np.ndarray) -> float:
        """Correlation of heat maps with those of random weights, for images uint8 [B, S, S]."""
        inputs = self._inputs(images)
        return randomisation_check(self.network, inputs)

    def _inputs(self, images: np.ndarray) -> torch.Tensor:
        """Decoded images, uint8 [B, S, S] -> what the network takes."""
        return evaluation_inputs(torch.from_numpy(images)[:, None], self._runtime, self.channels)

    def read(self, path: Path) -> np.ndarray | str:
        """The image as the network was trained on it, uint8 [S, S]; or what is wrong with it."""
        try:
            data = read_file(path)  # of a pipe or a device it is an error
        except OSError as error:
            return error.strerror or str(error)
        return self.decode(data, path.name)

    def decode(self, data: bytes, name: str) -> np.ndarray | str:
        """The content of an image file, likewise; `name` is for messages."""
        try:
            image = decode.decode(data, name, at_least=self.image_size, bits=self._bits)
        except decode.UnreadableImage as error:
            return str(error)
        return decode.resize(image.pixels, self.image_size, self.fit)


def image_files(paths: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """Files as they are given; of a folder, those with a known ending, in order."""
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given)
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
            yield from sorted(found)
        else:
            yield path
