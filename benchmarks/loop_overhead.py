"""What does the engine's step cost over a bare loop? `python -m benchmarks.loop_overhead`

Both train the same ResNet on the same batches with the same precision, layout and optimizer, in
one process, in turns of a few steps; the engine with every sink on. The ratio is the median of
the pairs, after one pair that is thrown away.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.lib.record import write_result
from benchmarks.peers import engine_epoch
from config.schema import Model, System
from engine.data.dataset import Batch
from engine.data.inputs import normalise, to_float
from engine.device import Runtime, resolve
from engine.model.resnet import build_model
from engine.records.database import create_run_sync
from engine.stream.queue import EventQueue
from engine.stream.sinks.console import ConsoleSink
from engine.stream.sinks.database import DatabaseSink
from engine.stream.sinks.files import FilesSink


def main() -> int:
    """Measure, print the table, write the JSON; 0 whatever the figure is."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pairs", type=int, default=9)
    options.add_argument("--steps", type=int, default=6, help="steps in each half of a pair")
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--image-size", type=int, default=64)
    options.add_argument("--backbone", default="resnet50")
    given = options.parse_args()
    runtime = resolve(System(), planned_steps=0)
    batches = make_batches(given.steps, given.batch_size, given.image_size)
    bare, ours = (new_model(given.backbone, runtime) for _ in range(2))
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "pneumoscope.db"
        run_id = create_run_sync(database, run_name="overhead", status="in_progress", config={})
        sinks = [DatabaseSink(database), FilesSink(Path(folder), Path(folder)), ConsoleSink()]
        with EventQueue(sinks, run_id) as events:
            for pair in range(given.pairs + 1):
                order = (0, 1) if pair % 2 else (1, 0)  # neither always goes second
                seconds = [0.0, 0.0]
                for contender in order:
                    began = time.perf_counter()
                    if contender == 0:
                        bare_steps(*bare, batches, runtime)
                    else:
                        engine_steps(*ours, batches, runtime, events, pair + 1)
                    seconds[contender] = (time.perf_counter() - began) / len(batches)
                if pair:
                    pairs.append((seconds[0], seconds[1]))
    ratios = sorted(engine / plain for plain, engine in pairs)
    figures = {
        "bare_step_seconds": statistics.median(p for p, _ in pairs),
        "engine_step_seconds": statistics.median(e for _, e in pairs),
        "ratio": statistics.median(ratios),
        "ratio_lowest": ratios[0],
        "ratio_highest": ratios[-1],
        "pairs": len(pairs),
    }
    print(
        f"bare {figures['bare_step_seconds'] * 1e3:.1f} ms, engine "
        f"{figures['engine_step_seconds'] * 1e3:.1f} ms a step; ratio {figures['ratio']:.4f} "
        f"(of {len(pairs)} pairs {ratios[0]:.4f} to {ratios[-1]:.4f}); the bar is 1.02"
    )
    print("written to", write_result("loop_overhead", vars(given), figures))
    return 0


def make_batches(count: int, size: int, side: int) -> list[Batch]:
    """Random images [size, 1, side, side], the same for both."""
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            torch.randint(0, 256, (size, 1, side, side), dtype=torch.uint8, generator=generator),
            torch.randint(0, 2, (size,), generator=generator),
            torch.arange(size),
        )
        for _ in range(count)
    ]


def new_model(backbone: str, runtime: Runtime) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same start for both."""
    torch.manual_seed(0)
    model = build_model(Model(backbone=backbone, weights="none"), 0.3).to(
        runtime.device, memory_format=runtime.memory_format
    )
    return model.train(), torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def bare_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], runtime: Runtime
) -> None:
    """What anybody would write, without a single extra."""
    for batch in batches:
        images = batch.images.to(runtime.device, non_blocking=True)
        labels = batch.labels.to(runtime.device, non_blocking=True)
        inputs = normalise(to_float(images)).contiguous(memory_format=runtime.memory_format)
        with runtime.autocast():
            logits = model(inputs)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()


def engine_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    runtime: Runtime,
    events: EventQueue,
    epoch: int,
) -> None:
    """The engine's own epoch over the same batches."""

    def to_input(batch: Batch) -> torch.Tensor:
        images = batch.images.to(runtime.device, non_blocking=True)
        return normalise(to_float(images)).contiguous(memory_format=runtime.memory_format)

    sizes = [len(batch.labels) for batch in batches]
    engine_epoch(model, optimizer, batches, sizes, to_input, runtime, epoch, events.emit)


if __name__ == "__main__":
    sys.exit(main())
