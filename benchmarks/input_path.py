"""How fast do images come in? `python -m benchmarks.input_path`

Per core: preparing 1.3-megapixel JPEGs once (decode at reduced scale, resize, hash, store), and
batches from the cache with augmentation. Beside them what the usual recipe does in every epoch:
decode, resize and augment each JPEG with Pillow and torchvision. In turns, the first one thrown
away.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.lib.images import make_images
from benchmarks.lib.record import write_result
from config.schema import Augment, Data, System
from engine.data.augment import augment, epoch_parameters
from engine.data.cache import open_cache
from engine.data.inputs import MEAN, STD, normalise, to_float
from engine.data.source import open_source
from engine.device import resolve


def main() -> int:
    """Measure, print the table, write the JSON; 0 whatever the figures are."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    torch.set_num_threads(1)  # the figures are per core
    resolve(System(), planned_steps=1)  # the process is set up as for a run
    rates: dict[str, list[float]] = {"prepare": [], "batches": [], "usual": []}
    with tempfile.TemporaryDirectory() as name:
        folder = make_images(Path(name) / "images", given.images)
        source = open_source(folder, Data())
        for turn in range(given.rounds + 1):
            began = time.perf_counter()
            images = open_cache(
                source, given.image_size, Path(name) / f"c{turn}", 10, workers=1
            ).images
            prepared = time.perf_counter()
            batches_of(images)
            batched = time.perf_counter()
            usual_epoch(folder, given.image_size)
            ended = time.perf_counter()
            if turn:
                rates["prepare"].append(given.images / (prepared - began))
                rates["batches"].append(given.images / (batched - prepared))
                rates["usual"].append(given.images / (ended - batched))
    bars = {"prepare": 220, "batches": 900, "usual": None}
    figures = {}
    for key, values in rates.items():
        figures[key] = {
            "images_per_second": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "bar": bars[key],
        }
        print(
            f"{key:8s} {figures[key]['images_per_second']:8.0f} images/s and core "
            f"({min(values):.0f} to {max(values):.0f})"
            + (f", bar {bars[key]}" if bars[key] else "")
        )
    print("written to", write_result("input_path", vars(given), figures))
    return 0


def batches_of(images: np.ndarray, size: int = 32) -> None:
    """One epoch's inputs out of the cache, shuffled, augmented, normalised."""
    order = np.random.default_rng(0).permutation(len(images))
    parameters = epoch_parameters(len(images), 42, 1, Augment(), images.shape[-1])
    for start in range(0, len(images), size):
        index = order[start : start + size]
        batch = torch.from_numpy(np.asarray(images[index]))[:, None]
        normalise(augment(to_float(batch), parameters[index], 42, Augment()))


def usual_transform(size: int) -> v2.Compose:
    """What a torchvision tutorial would write for these images."""
    return v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomAffine(7, translate=(0.05, 0.05), scale=(0.9, 1.1)),
            v2.ColorJitter(brightness=0.1, contrast=0.1),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def usual_epoch(folder: Path, size: int) -> None:
    """The same images, each decoded and augmented on its own."""
    transform = usual_transform(size)
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image:
            transform(image.convert("RGB"))


if __name__ == "__main__":
    raise SystemExit(main())
