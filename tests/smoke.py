"""`python tests/smoke.py`: does an installation work at all?

Needs the declared dependencies only, no pytest: `make test-lowest` runs it with their lowest
versions. Trains the demo for an epoch, scores an image with the model, serves the page.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
LIMIT = 300.0  # seconds for each step


def main() -> int:
    """0 where everything worked; the first failure raises."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "engine.train", "--demo", "--epochs", "1"]
        subprocess.run(train, cwd=folder, env=environment, check=True, timeout=LIMIT)
        result = json.loads((Path(folder) / "output/results/result_1.json").read_text())
        assert result["status"] == "completed", result
        image = Path(folder) / "image.png"
        Image.fromarray(np.arange(64 * 64).reshape(64, 64).astype(np.uint8)).save(image)
        predict = [sys.executable, "-m", "engine.predict", result["best_model_path"], str(image)]
        subprocess.run(predict, cwd=folder, env=environment, check=True, timeout=LIMIT)
        serve(Path(folder), environment)
    print("smoke test passed")
    return 0


def serve(folder: Path, environment: dict[str, str]) -> None:
    """Start the server, ask for health, runs and the page, and stop it."""
    server = subprocess.Popen(
        [sys.executable, "-m", "server", "--port", "0"],
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = next(word for word in server.stdout.readline().split() if "http" in word)
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                health = fetch(f"{address}/healthz")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        assert json.loads(health)["status"] == "ok", health
        runs = json.loads(fetch(f"{address}/runs"))["runs"]
        assert [run["status"] for run in runs] == ["completed"], runs
        assert "<html" in fetch(f"{address}/")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(LIMIT)


def fetch(address: str) -> str:
    """The body of a GET."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    sys.exit(main())
