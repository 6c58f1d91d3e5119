"""A kept model in use: from image files to scores, by the same steps as in training."""

from __future__ import annotations

import functools
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import UserError
from config.errors import first_line
from config.schema import Model, System
from engine import device as devices
from engine.data import decode
from engine.data.archive import UnreadableFile
from engine.data.inputs import evaluation_inputs
from engine.inference import bundle
from engine.inference.drift import image_warnings
from engine.inference.files import ImageFile, image_files
from engine.inference.folding import fold_norms
from engine.inference.gradcam import heat_maps, randomisation_check
from engine.model.ensemble import Ensemble
from engine.model.resnet import build_model
from engine.model.views import VIEWS, mean_logits

Reading = list[tuple[ImageFile, "Future[np.ndarray | str]"]]  # files that are being read


@dataclass(frozen=True)
class Prediction:
    """One image's result: score and label, or the error."""

    path: Path
    score: float | None  # probability of the positive class
    label: str | None  # at the threshold of the bundle's default operating point
    error: str | None  # why the file could not be scored
    warnings: tuple[str, ...] = ()  # what is unusual of the image beside the training's
    file: ImageFile | None = field(default=None, repr=False, compare=False)


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
        members = int(shape.get("members", 1))
        networks = [build_model(settings, shape["dropout_rate"]) for _ in range(members)]
        network = networks[0] if "members" not in shape else Ensemble(networks)
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

    def _reading(self, pool: ThreadPoolExecutor, files: Iterator[ImageFile], count: int) -> Reading:
        """The next files, being decoded while the network is busy with those before."""
        return [(file, pool.submit(self.read, file)) for file in itertools.islice(files, count)]

    def _scored(self, batch: Reading) -> Iterator[Prediction]:
        read = [future.result() for _, future in batch]
        images = [found for found in read if isinstance(found, np.ndarray)]
        scores = iter(self.scores(np.stack(images)).tolist() if images else [])
        population = self.bundle["training_population"]
        for (file, _), found in zip(batch, read, strict=True):
            if isinstance(found, str):
                yield Prediction(file.path, None, None, found, file=file)
            else:
                score = next(scores)
                label = self.label_names[score >= self.threshold]
                warnings = tuple(image_warnings(found, population))
                yield Prediction(file.path, score, label, None, warnings, file)

    @functools.cached_property
    def _fused(self) -> nn.Module:
        """The network with each BatchNorm folded into the convolution before it: less to compute.

        The network itself stays: gradients and exported files need its own layers.
        """
        return fold_norms(self.network).to(memory_format=self._runtime.memory_format)

    @torch.inference_mode()
    def scores(self, images: np.ndarray) -> np.ndarray:
        """Decoded images, uint8 [B, S, S] -> calibrated scores, float64 [B]."""
        inputs = self._inputs(images)
        with self._runtime.autocast():
            logits = mean_logits(self._fused, inputs, self.average_views)
        scaled = logits.double() / (self.bundle["temperature"] or 1.0)
        return np.asarray(scaled.softmax(dim=1)[:, 1].cpu())

    def heat_map(self, image: np.ndarray) -> np.ndarray:
        """Grad-CAM of one decoded image, uint8 [S, S]: float32 [S, S] in 0..1."""
        inputs = self._inputs(image.copy()[None])
        maps = torch.stack([heat_maps(network, inputs)[0] for network in self._members()])
        return maps.mean(dim=0).cpu().numpy()

    def heat_map_check(self, images: np.ndarray) -> float:
        """Correlation of heat maps with those of random weights, for images uint8 [B, S, S]."""
        inputs = self._inputs(images)
        checks = [randomisation_check(network, inputs) for network in self._members()]
        return float(np.mean(checks))

    def _members(self) -> list[nn.Module]:
        return list(self.network.members) if isinstance(self.network, Ensemble) else [self.network]

    def _inputs(self, images: np.ndarray) -> torch.Tensor:
        """Decoded images, uint8 [B, S, S] -> what the network takes."""
        return evaluation_inputs(torch.from_numpy(images)[:, None], self._runtime, self.channels)

    def read(self, file: Path | ImageFile) -> np.ndarray | str:
        """The image as the network was trained on it, uint8 [S, S]; or what is wrong with it."""
        one = file if isinstance(file, ImageFile) else ImageFile(file)
        try:
            data = one.read()
        except OSError as error:
            return error.strerror or str(error)
        except UnreadableFile as error:
            return str(error)
        return self.decode(data, one.path.name)

    def decode(self, data: bytes, name: str) -> np.ndarray | str:
        """The content of an image file, likewise; `name` is for messages."""
        try:
            image = decode.decode(data, name, at_least=self.image_size, bits=self._bits)
        except decode.UnreadableImage as error:
            return str(error)
        return decode.resize(image.pixels, self.image_size, self.fit)
