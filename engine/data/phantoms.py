"""Synthetic chest images for the demo and the tests: lungs, ribs, and an opacity or none."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.files import replacing


@dataclass(frozen=True)
class Build:
    """What a patient's images have in common; lengths in shares of the side."""

    lung_width: float
    lung_height: float
    gap: float  # between the lungs
    ribs: int
    rib_phase: float
    body: float  # brightness of the tissue


def write_demo_dataset(
    path: Path, images: int = 640, patients: int = 240, size: int = 96, seed: int = 0
) -> Path:
    """A ZIP of `images` PNGs of `size` pixels with metadata.csv; each patient has one class."""
    rng = np.random.default_rng(seed)
    builds = [new_build(rng) for _ in range(patients)]
    owners = np.concatenate([np.arange(patients), rng.integers(0, patients, images - patients)])
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["patient_id", "filename", "label"])
    # A run may be reading the one before.
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for number, owner in enumerate(owners.tolist()):
            ill = owner % 2 == 1
            name = f"phantom_{number:04d}.png"
            file = io.BytesIO()
            Image.fromarray(draw(builds[owner], ill, size, rng)).save(file, "PNG")
            archive.writestr(f"images/{name}", file.getvalue())
            writer.writerow([f"D{owner:03d}", name, "PNEUMONIA" if ill else "NORMAL"])
        archive.writestr("metadata.csv", table.getvalue())
    return path


def draw(build: Build, ill: bool, size: int, rng: np.random.Generator) -> np.ndarray:
    """One image, uint8 [size, size]: dark lungs in bright tissue, ribs, perhaps an opacity."""
    return draw_with_opacity(build, ill, size, rng)[0]


def draw_with_opacity(
    build: Build, ill: bool, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same image, and what the opacity adds to it, float64 [size, size] of the range 0 to 1."""
    y, x = np.mgrid[0:size, 0:size] / size
    x = x + rng.normal(0, 0.015)  # nobody stands twice in the same place
    y = y + rng.normal(0, 0.015)
    image = np.full((size, size), build.body)
    lungs = np.zeros((size, size))
    for side in (-1, 1):
        centre = 0.5 + side * (build.gap + build.lung_width)
        distance = ((x - centre) / build.lung_width) ** 2 + ((y - 0.48) / build.lung_height) ** 2
        lungs = np.maximum(lungs, _soft(1 - distance, 0.12))
    image -= 0.42 * lungs
    image += (
        0.1 * lungs * (np.sin((y * build.ribs + 0.35 * x + build.rib_phase) * 2 * np.pi) > 0.55)
    )
    image += 0.25 * np.exp(-(((x - 0.5) / 0.045) ** 2))  # spine and heart's shadow
    opacity = _opacity(build, x, y, rng) * lungs if ill else np.zeros((size, size))
    image += opacity
    image += rng.normal(0, 0.03, image.shape)
    image = image * rng.uniform(0.9, 1.1) + rng.normal(0, 0.02)  # exposure
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), opacity


def new_build(rng: np.random.Generator) -> Build:
    """Some patient."""
    return Build(
        lung_width=rng.uniform(0.13, 0.17),
        lung_height=rng.uniform(0.27, 0.35),
        gap=rng.uniform(0.05, 0.08),
        ribs=int(rng.integers(7, 11)),
        rib_phase=rng.uniform(0, 1),
        body=rng.uniform(0.62, 0.74),
    )


def _opacity(build: Build, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A soft, blotchy patch in one lung."""
    side = rng.choice([-1, 1])
    centre_x = 0.5 + side * (build.gap + build.lung_width) + rng.normal(0, 0.03)
    centre_y = rng.uniform(0.4, 0.65)
    radius = rng.uniform(0.09, 0.15)
    patch = np.exp(-(((x - centre_x) / radius) ** 2) - ((y - centre_y) / radius) ** 2)
    blotches = 1 + 0.3 * np.sin(x * 55 + rng.uniform(0, 6)) * np.sin(y * 55 + rng.uniform(0, 6))
    return rng.uniform(0.26, 0.4) * patch * blotches


def _soft(value: np.ndarray, edge: float) -> np.ndarray:
    return 1 / (1 + np.exp(-value / edge))


if __name__ == "__main__":
    write_demo_dataset(Path(sys.argv[1]))
