"""What do two trainings at once cost each other? `python -m benchmarks.contention`

The same training, started as anyone would start it, alone and then twice at the same time on the
same cores (`system.threads=auto` divides them; `--threads N` shows what a fixed number does). The
figure is the median epoch of the pair over the median epoch alone, after each run's first epoch;
rounds in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.lib.record import write_result
from engine.data.phantoms import write_demo_dataset

BAR = 2.3  # times as long as alone, at most
ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 0 whatever the figure is."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=640)
    options.add_argument("--image-size", type=int, default=64)
    options.add_argument("--backbone", default="resnet18")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", default="auto")
    given = options.parse_args(arguments)
    alone: list[float] = []
    paired: list[float] = []
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_demo_dataset(folder / "images.zip", images=given.images, size=96)
        train(folder, dataset, given, count=1)  # decodes the images; thrown away
        for _ in range(given.rounds):
            single = train(folder, dataset, given, count=1)
            pair = train(folder, dataset, given, count=2)
            alone += single
            paired += pair
            ratios.append(statistics.median(pair) / statistics.median(single))
    figures = {
        "alone_epoch_seconds": statistics.median(alone),
        "paired_epoch_seconds": statistics.median(paired),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "bar": BAR,
    }
    print(
        f"an epoch alone {figures['alone_epoch_seconds']:.2f} s, beside another run "
        f"{figures['paired_epoch_seconds']:.2f} s; ratio {figures['ratio']:.2f} (of "
        f"{len(ratios)} rounds {min(ratios):.2f} to {max(ratios):.2f}); the bar is {BAR}"
    )
    print("written to", write_result("contention", vars(given), figures))
    return 0


def train(folder: Path, dataset: Path, given: argparse.Namespace, count: int) -> list[float]:
    """Seconds of every epoch but the first, of `count` runs that start together."""
    settings = {
        "experiment.epochs": given.epochs,
        "experiment.early_stopping_patience": 1000,
        "model.backbone": given.backbone,
        "model.weights": "none",
        "data.image_size": given.image_size,
        "system.threads": given.threads,
        "system.device": "cpu",
        "output.cache_dir": folder / "cache",
    }
    command = [sys.executable, "-m", "engine.train", "--dataset", str(dataset)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = []
    for _ in range(count):
        place = Path(tempfile.mkdtemp(dir=folder))
        process = subprocess.Popen(command, cwd=place, env=environ, stdout=subprocess.DEVNULL)
        running.append((place, process))
    seconds = []
    for place, process in running:
        if process.wait():
            raise RuntimeError(f"a training ended with exit code {process.returncode}")
        table = json.loads((place / "output" / "results" / "metrics_1.json").read_text())
        seconds += [epoch["epoch_seconds"] for epoch in table["epochs"][1:]]
    return seconds


if __name__ == "__main__":
    raise SystemExit(main())
