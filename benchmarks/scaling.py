"""What do more images cost? `python -m benchmarks.scaling`

1,000, 10,000 and 100,000 made images: preparing them, opening them prepared, an epoch's input
(batches with augmentation) and a whole epoch, each per image and in turns; and the memory of a
training process with two loader workers, beyond what a file backs.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import multiprocessing
import os
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.lib.record import write_result
from benchmarks.lib.usage import anonymous_bytes
from benchmarks.peers import ours
from config import Config, ConfigManager
from engine.data.augment import epoch_parameters
from engine.data.inputs import training_inputs
from engine.data.loading import make_loaders
from engine.data.prepare import Prepared, prepare
from engine.device import resolve

EPOCH_BAR = 1.05  # cost per image of an epoch, the largest set over the one before
MEMORY_BAR = 2e9  # bytes, at the largest set
IMAGE_SIDE = 96  # pixels of a made image
LEAST_IMAGES = 30_000  # in a turn: small sets are gone through several times
WORKERS = 2


def main() -> int:
    """Measure, print the table, write the JSON; 0 whatever the figures are."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options.add_argument("--image-size", type=int, default=64)
    options.add_argument("--backbone", default="resnet18")
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = ConfigManager.load(
            overrides={
                "output.cache_dir": f"{name}/cache",
                "data.image_size": given.image_size,
                "data.residency": "host",
                "model.backbone": given.backbone,
                "model.weights": "none",
            },
            environ={},
        )
        figures: dict[str, dict[str, Any]] = {}
        sets: dict[int, Prepared] = {}
        for count in given.images:
            path = write_images(Path(name) / f"images_{count}.zip", count)
            began = time.perf_counter()
            prepare(path, config)
            prepared = time.perf_counter()
            sets[count] = prepare(path, config)
            opened = time.perf_counter()
            figures[str(count)] = {
                "prepare_ms": (prepared - began) / count * 1e3,
                "open_ms": (opened - prepared) / count * 1e3,
                "memory_bytes": memory(path, config),
            }
        turns = take_turns(sets, config, given.rounds)
    for count in given.images:
        for kind in ("input", "epoch"):
            values = turns[kind][count]
            figures[str(count)][f"{kind}_ms"] = statistics.median(values) * 1e3
            figures[str(count)][f"{kind}_ms_range"] = [min(values) * 1e3, max(values) * 1e3]
    report(given.images, figures)
    if len(given.images) > 1:
        figures["ratios"] = ratios_of(turns, *sorted(given.images)[-2:])
    print("written to", write_result("scaling", vars(given), figures))
    return 0


def report(counts: list[int], figures: dict[str, dict[str, Any]]) -> None:
    """The table; times are per image."""
    print("images      preparing   opened prepared   an epoch's input   an epoch   memory")
    for count in counts:
        found = figures[str(count)]
        print(
            f"{count:7,d}   {found['prepare_ms']:7.3f} ms        {found['open_ms']:7.3f} ms"
            f"         {found['input_ms']:7.3f} ms {found['epoch_ms']:7.3f} ms "
            f"{found['memory_bytes'] / 1e9:5.2f} GB"
        )
    print(f"the bar for memory is {MEMORY_BAR / 1e9:g} GB")


def ratios_of(
    turns: dict[str, dict[int, list[float]]], fewer: int, more: int
) -> dict[str, dict[str, float]]:
    """Cost per image of the largest set over the one before, of each turn."""
    found = {}
    for kind, seconds in turns.items():
        ratios = sorted(a / b for a, b in zip(seconds[more], seconds[fewer], strict=True))
        middle = statistics.median(ratios)
        found[kind] = {"ratio": middle, "lowest": ratios[0], "highest": ratios[-1]}
        print(
            f"{kind}: an image of {more:,} costs {middle:.3f} times one of {fewer:,} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
            + (f"; the bar is {EPOCH_BAR}" if kind == "epoch" else "")
        )
    return found


def write_images(path: Path, count: int) -> Path:
    """A ZIP of `count` small JPEGs, no two alike, of patients with two images each."""
    rng = np.random.default_rng(count)
    rows = ["patient_id,filename,label"]
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
            image = io.BytesIO()
            coarse.resize((IMAGE_SIDE, IMAGE_SIDE)).save(image, "JPEG", quality=90)
            archive.writestr(f"images/image_{number:06d}.jpg", image.getvalue())
            label = "PNEUMONIA" if number // 2 % 2 else "NORMAL"
            rows.append(f"P{number // 2},image_{number:06d}.jpg,{label}")
        archive.writestr("metadata.csv", "\n".join(rows))
    return path


def take_turns(
    sets: dict[int, Prepared], config: Config, rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Seconds per image of each turn, for each kind of work and each set."""
    trainees = {count: ours(config, data) for count, data in sets.items()}
    turns: dict[str, dict[int, list[float]]] = {
        kind: {count: [] for count in sets} for kind in ("input", "epoch")
    }
    for turn in range(rounds):
        for count, data in sets.items():
            times = max(1, LEAST_IMAGES // count)
            images = times * len(data.split.train)
            seconds = sum(input_epoch(config, data, turn) for _ in range(times))
            turns["input"][count].append(seconds / images)
            if turn == 0 and count == min(sets):
                trainees[count]()  # the first steps make their kernels
            seconds = sum(trainees[count]() for _ in range(times))
            turns["epoch"][count].append(seconds / images)
    return turns


def input_epoch(config: Config, data: Prepared, epoch: int) -> float:
    """Seconds for every batch of an epoch as the network would get it."""
    runtime = resolve(config.system, 1)
    loaders = make_loaders(config, data, runtime)
    loaders.train_batches.set_epoch(epoch + 1)
    began = time.perf_counter()
    parameters = epoch_parameters(
        len(data.labels), config.system.seed, epoch, config.augment, config.data.image_size
    ).to(runtime.device)
    for batch in loaders.train:
        training_inputs(batch, parameters, runtime, config.system.seed, config.augment)
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def memory(path: Path, config: Config) -> int:
    """Bytes without a file behind them, of a process that trains an epoch and its two workers."""
    spawn = multiprocessing.get_context("spawn")
    ours_end, theirs = spawn.Pipe()
    process = spawn.Process(target=_train_and_measure, args=(theirs, path, config))
    process.start()
    theirs.close()
    found = ours_end.recv()
    process.join()
    return int(found)


def _train_and_measure(pipe: Any, path: Path, config: Config) -> None:
    multiprocessing.set_start_method("fork", force=True)
    loading = dataclasses.replace(config.system, num_workers=WORKERS)
    config = dataclasses.replace(config, system=loading)
    train = ours(config, prepare(path, config))
    train()
    pipe.send(anonymous_bytes(os.getpid()))


if __name__ == "__main__":
    raise SystemExit(main())
