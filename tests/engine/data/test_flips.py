"""Malformed images by the thousand: none may end the process or take longer than five seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECONDS = 5.0

# In a process of its own, so that a crash in native code is a return code and not the test's end.
FLIPS = """
import io, json, random, sys, time
import numpy as np
from PIL import Image
from engine.data.decode import UnreadableImage, decode
from tests.engine.data.test_dicom import dicom

first, count = int(sys.argv[1]), int(sys.argv[2])
image = (np.random.default_rng(0).random((96, 80)) * 255).astype(np.uint8)
whole = {"dcm": dicom((image * 16).astype(np.uint16))}
for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    whole[kind] = file.getvalue()
found = {"tried": 0, "decoded": 0, "refused": 0, "slowest": 0.0}
for seed in range(first, first + count):
    print(seed, file=sys.stderr)
    rng = random.Random(seed)
    kind = rng.choice(sorted(whole))
    data = bytearray(whole[kind])
    for _ in range(rng.choice([1, 1, 2, 4, 16, 64])):
        # The header is where the harm is.
        where = rng.randrange(min(len(data), rng.choice([32, 256, len(data)])))
        data[where] = rng.choice([0, 255, rng.randrange(256)])
    if rng.random() < 0.2:
        data = data[: rng.randrange(len(data))]
    began = time.perf_counter()
    try:
        decode(bytes(data), "image.dcm" if kind == "dcm" else "image")
        found["decoded"] += 1
    except UnreadableImage:
        found["refused"] += 1
    found["slowest"] = max(found["slowest"], time.perf_counter() - began)
    found["tried"] += 1
print(json.dumps(found))
"""


def flip(first: int, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(first), str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"seed and error: {done.stderr[-2000:]}"
    found: dict[str, float] = json.loads(done.stdout)
    assert found["tried"] == count
    assert found["slowest"] < SECONDS
    assert found["refused"] > count / 5
    print(found)
    return found


def test_a_thousand_malformed_images() -> None:
    flip(0, 1000)


@pytest.mark.long
@pytest.mark.parametrize("first", [100_000, 200_000, 300_000, 400_000])
def test_twenty_thousand_malformed_images(first: int) -> None:
    flip(first, 5000)
