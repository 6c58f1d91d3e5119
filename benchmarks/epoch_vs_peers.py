"""An epoch from JPEGs, after the first, beside the peers: `python -m benchmarks.epoch_vs_peers`

Same images, same ResNet50, same number of steps, in turns, each contender in a process of its own:
what one does to memory, threads or caches does not reach the others. The peers: PyTorch Lightning
with torchmetrics at its defaults (fp32, no workers) and tuned as its documentation advises
(bf16-mixed, channels_last, persistent workers); timm's loader and augmentation with a bare loop;
and the bare loop with our precision, layout and use of memory. Needs `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.lib.images import make_images
from benchmarks.lib.record import write_result
from benchmarks.lib.usage import peak_bytes
from benchmarks.peers import OURS, TITLES, USUAL, make_contender
from config import Config, ConfigManager
from engine.data.prepare import prepare

BARS = {224: 3.0, 64: 5.0}  # times as fast as Lightning at its defaults, on a CPU


def main() -> int:
    """Measure, print the table, write the JSON; 0 whatever the figures are."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=128, help="that train in an epoch")
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = make_images(Path(name) / "images", given.images * 5 // 4)
        config = ConfigManager.load(
            overrides={
                "output.cache_dir": f"{name}/cache",
                "data.image_size": given.image_size,
                "system.batch_size": given.batch_size,
                "model.weights": "none",
            },
            environ={},
        )
        prepare(folder, config)
        turns = take_turns(folder, config, given.rounds)
    ours = statistics.median(turns[OURS]["seconds"])
    figures: dict[str, Any] = {}
    print("seconds of an epoch, how many times ours (of single turns), peak memory")
    for title in TITLES:
        seconds = turns[title]["seconds"]
        middle = statistics.median(seconds)
        ratios = sorted(a / b for a, b in zip(seconds, turns[OURS]["seconds"], strict=True))
        figures[title] = {
            "epoch_seconds": middle,
            "lowest": min(seconds),
            "highest": max(seconds),
            "times_ours": middle / ours,
            "times_ours_lowest": ratios[0],
            "times_ours_highest": ratios[-1],
            "peak_bytes": turns[title]["peak_bytes"],
        }
        print(
            f"{title:34s} {middle:7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})   "
            f"{middle / ours:5.2f}x ours ({ratios[0]:.2f} to {ratios[-1]:.2f})   "
            f"{turns[title]['peak_bytes'] / 1e9:5.2f} GB"
        )
    if bar := BARS.get(given.image_size):
        print(f"the bar over {USUAL}: {bar}x; memory: the training process at its peak")
    name = f"epoch_vs_peers_{given.image_size}px"
    print("written to", write_result(name, vars(given), figures))
    return 0


def take_turns(folder: Path, config: Config, rounds: int) -> dict[str, dict[str, Any]]:
    """Every contender's seconds of each turn but the first, and its peak memory."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    turns: dict[str, dict[str, Any]] = {}
    for title in TITLES:
        pipes[title], theirs = spawn.Pipe()
        spawn.Process(target=contend, args=(theirs, title, folder, config)).start()
        theirs.close()
        turns[title] = {"seconds": [], "peak_bytes": 0}
    try:
        for turn in range(rounds + 1):
            for title, pipe in pipes.items():
                pipe.send(True)
                seconds, turns[title]["peak_bytes"] = pipe.recv()
                if turn:
                    turns[title]["seconds"].append(seconds)
    finally:
        for pipe in pipes.values():
            pipe.close()
    return turns


def contend(pipe: Connection, title: str, folder: Path, config: Config) -> None:
    """A contender's process: an epoch whenever it is asked to, until the other end closes."""
    warnings.simplefilter("ignore")
    # Data loaders' workers as they are by default on Linux, not spawned as this process was.
    multiprocessing.set_start_method("fork", force=True)
    train = None
    with contextlib.suppress(EOFError, ConnectionResetError):
        while pipe.recv():
            train = train or make_contender(title, folder, config)
            pipe.send((train(), peak_bytes(os.getpid())))


if __name__ == "__main__":
    raise SystemExit(main())
