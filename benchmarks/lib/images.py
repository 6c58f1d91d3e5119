"""Made images for the benchmarks: JPEGs of about a megapixel, as hospitals export them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.phantoms import draw, new_build

WIDTH, HEIGHT = 1300, 1000  # 1.3 megapixels
DIFFERENT = 24  # drawn; the rest are these with their brightness changed


def make_images(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` JPEGs with metadata.csv in `folder`; what is there already is kept."""
    if (folder / "metadata.csv").exists():
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    drawn = [_image(number % 2 == 1, rng) for number in range(min(DIFFERENT, count))]
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["patient_id", "filename", "label"])
    for number in range(count):
        source = drawn[number % len(drawn)]
        pixels = np.clip(source * rng.uniform(0.85, 1.1), 0, 255).astype(np.uint8)
        name = f"image_{number:06d}.jpg"
        Image.fromarray(pixels).convert("RGB").save(folder / "images" / name, quality=90)
        writer.writerow([f"P{number}", name, "PNEUMONIA" if number % 2 else "NORMAL"])
    (folder / "metadata.csv").write_text(rows.getvalue(), encoding="utf-8")
    return folder


def _image(ill: bool, rng: np.random.Generator) -> np.ndarray:
    square = Image.fromarray(draw(new_build(rng), ill, HEIGHT, rng))
    return np.asarray(square.resize((WIDTH, HEIGHT)), dtype=np.float32)
