"""What do two processes gain on two cores? `python -m benchmarks.ddp`

The same training under torchrun with one process and with two (gloo), one compute thread each and
the same images a step together, in turns. The figure is the median epoch of one process over that
of two, after each run's first epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lib.record import write_result
from engine.data.phantoms import write_demo_dataset

BAR = 1.8  # times as fast as one, at least
ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 0 whatever the figure is."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=320)
    options.add_argument("--image-size", type=int, default=128)
    options.add_argument("--backbone", default="resnet50")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args(arguments)
    epochs: dict[int, list[float]] = {1: [], 2: []}
    overheads: dict[int, list[float]] = {1: [], 2: []}
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_demo_dataset(
            folder / "images.zip", images=given.images, patients=given.images // 2
        )
        train(folder, dataset, given, 1)  # decodes the images; thrown away
        for _ in range(given.rounds):
            medians = []
            for count in (1, 2):
                seconds, overhead = train(folder, dataset, given, count)
                epochs[count] += seconds
                overheads[count].append(overhead)
                medians.append(statistics.median(seconds))
            ratios.append(medians[0] / medians[1])
    figures = {
        "one_epoch_seconds": statistics.median(epochs[1]),
        "two_epoch_seconds": statistics.median(epochs[2]),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "one_seconds_outside_epochs": statistics.median(overheads[1]),
        "two_seconds_outside_epochs": statistics.median(overheads[2]),
        "bar": BAR,
    }
    print(
        f"an epoch with one process {figures['one_epoch_seconds']:.1f} s, with two "
        f"{figures['two_epoch_seconds']:.1f} s: {figures['ratio']:.2f} times as fast (of "
        f"{len(ratios)} rounds {min(ratios):.2f} to {max(ratios):.2f}); the bar is {BAR}. Start "
        f"and end take {figures['one_seconds_outside_epochs']:.1f} s and "
        f"{figures['two_seconds_outside_epochs']:.1f} s"
    )
    print("written to", write_result("ddp", vars(given), figures))
    return 0


def train(
    folder: Path, dataset: Path, given: argparse.Namespace, count: int
) -> tuple[list[float], float]:
    """Seconds of every epoch but the first; seconds that the run took outside its epochs."""
    settings = {
        "experiment.epochs": given.epochs,
        "model.backbone": given.backbone,
        "model.weights": "none",
        "data.image_size": given.image_size,
        "system.device": "cpu",
        "output.cache_dir": folder / "cache",
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, *torchrun, "-m", "engine.train", "--dataset", str(dataset)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    place = Path(tempfile.mkdtemp(dir=folder))
    began = time.perf_counter()
    subprocess.run(command, cwd=place, env=environ, stdout=subprocess.DEVNULL, check=True)
    whole = time.perf_counter() - began
    table = json.loads((place / "output" / "results" / "metrics_1.json").read_text())
    seconds = [epoch["epoch_seconds"] for epoch in table["epochs"]]
    return seconds[1:], whole - sum(seconds)


if __name__ == "__main__":
    raise SystemExit(main())
