"""One training step, one validation batch and one snapshot, and what a whole run would take."""

from __future__ import annotations

import dataclasses
import itertools
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config import Config, UserError
from engine.data.prepare import Prepared
from engine.device import describe, resolve
from engine.model.resnet import build_model
from engine.run import Run
from engine.stop import StopRequest
from engine.stream.events import Event

LARGEST = 4096  # images of a batch that are tried
STEPS = 3  # of training: the first compiles, allocates and tunes, and is not counted


def rehearse(data: Prepared, config: Config) -> dict[str, Any]:
    """Measured seconds, memory and bytes, and estimates of a run; JSON-able.

    Trains STEPS optimizer steps of a network that is thrown away, as a run would begin. On a GPU,
    `largest_batch` is the largest power of two of images that a training step can take. Raises
    UserError, and what a run would raise.
    """
    resolve(config.system)
    torch.manual_seed(config.system.seed)
    with _elsewhere(config) as moved:
        network = build_model(config.model, config.experiment.dropout_rate, config.data.image_size)
        stop = StopRequest()
        stop.set("a rehearsal trains single steps")
        events: list[Event] = []
        run = Run(0, "rehearsal", "rehearsal", moved, data, network, events.append, stop)
        with run.threads, run.saving.snapshots:
            return _measure(run, data, config)


def largest_batch(fits: Callable[[int], bool], start: int, most: int = LARGEST) -> int | None:
    """The largest size of `start` doubled or halved again and again, up to `most`, that `fits`.

    None where not even one image does.
    """
    size = start
    if fits(size):
        while size * 2 <= most and fits(size * 2):
            size *= 2
        return size
    while size > 1:
        size //= 2
        if fits(size):
            return size
    return None


def _measure(run: Run, data: Prepared, config: Config) -> dict[str, Any]:
    device, system = run.runtime.device, config.system
    seconds = []
    for _ in range(min(STEPS, len(run.loaders.train_batches))):
        before, began = run.state.position.images, time.perf_counter()
        run.train_epoch()
        seconds.append((time.perf_counter() - began, run.state.position.images - before))
    step_seconds, images = min(seconds[1:] or seconds, key=lambda one: one[0] / one[1])
    per_image = step_seconds / images
    batch = next(iter(run.loaders.val))
    began = time.perf_counter()
    run.evaluate(itertools.islice([batch], 1), 1, 1)
    val_seconds = (time.perf_counter() - began) / len(batch.indices)
    began = time.perf_counter()
    run.saving.snapshots.begin()
    run.saving.save("rehearsal")
    run.saving.snapshots.__exit__()
    snapshot = run.saving.snapshots.folder / "last.pt"
    if not snapshot.exists():
        raise UserError(
            f"output.checkpoint_dir: {config.output.checkpoint_dir}: a snapshot could not be "
            "written there"
        )
    snapshot_seconds = time.perf_counter() - began
    weights = sum(
        t.numel() * t.element_size() for t in run.state.learner.model.state_dict().values()
    )
    epoch = per_image * len(data.split.train) + val_seconds * len(data.split.val)
    found: dict[str, Any] = {
        "device": f"{describe(device)}, {run.runtime.precision}",
        "batch_size": system.batch_size,
        "first_step_seconds": seconds[0][0],
        "images_per_second": 1 / per_image,
        "validation_images_per_second": 1 / val_seconds,
        "snapshot_seconds": snapshot_seconds,
        "snapshot_bytes": snapshot.stat().st_size,
        "epoch_seconds": epoch,
        "run_seconds": epoch * config.experiment.epochs,
        "epochs": config.experiment.epochs,
        "memory_bytes": _peak_memory(),
        "gpu_memory_bytes": None,
        "largest_batch": None,
        "disk_bytes": 2 * snapshot.stat().st_size + weights,
        "cache_bytes": len(data.rows) * config.data.image_size**2,
    }
    if device.type == "cuda":
        found["gpu_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        found["largest_batch"] = largest_batch(_attempt(run), system.batch_size)
    return found


def _attempt(run: Run) -> Callable[[int], bool]:
    """Whether a training step of so many images fits into the GPU's memory."""
    learner, runtime, config = run.state.learner, run.runtime, run.config
    side, channels = config.data.image_size, 1 if config.model.grey_input else 3

    def fits(images: int) -> bool:
        try:
            inputs = torch.zeros(images, channels, side, side, device=runtime.device)
            inputs = inputs.to(memory_format=runtime.memory_format)
            with runtime.autocast():
                logits = learner.model(inputs)
            nn.functional.cross_entropy(
                logits.float(), torch.zeros(images, dtype=torch.int64, device=runtime.device)
            ).backward()
            torch.cuda.synchronize(runtime.device)
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            learner.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    return fits


@contextmanager
def _elsewhere(config: Config) -> Iterator[Config]:
    """The configuration with a folder of checkpoints that goes at the end, on the same disk."""
    folder = Path(config.output.checkpoint_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=folder) as name:
            output = dataclasses.replace(config.output, checkpoint_dir=name, results_dir=name)
            yield dataclasses.replace(config, output=output)
    except OSError as error:
        raise UserError(
            f"output.checkpoint_dir: {folder} cannot be written ({error.strerror or error})"
        ) from error


def _peak_memory() -> int:
    """Bytes of this process at its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def sentences(found: dict[str, Any]) -> list[str]:
    """The rehearsal in words, for a terminal and a page."""
    lines = [
        f"on {found['device']}: {found['images_per_second']:.1f} images a second in training "
        f"(batches of {found['batch_size']}; the first step took "
        f"{found['first_step_seconds']:.1f} s), {found['validation_images_per_second']:.1f} in "
        "validation",
        f"an epoch takes about {duration(found['epoch_seconds'])}, "
        f"{found['epochs']} epochs at most {duration(found['run_seconds'])}",
        f"memory: {found['memory_bytes'] / 1e9:.1f} GB at most so far",
        f"disk: {found['disk_bytes'] / 1e6:.0f} MB for the run (a snapshot of "
        f"{found['snapshot_bytes'] / 1e6:.0f} MB was written in {found['snapshot_seconds']:.1f} s)"
        f" and {found['cache_bytes'] / 1e6:.0f} MB for the decoded images",
    ]
    if found["gpu_memory_bytes"] is not None:
        largest = found["largest_batch"]
        lines.append(
            f"GPU memory: {found['gpu_memory_bytes'] / 1e9:.1f} GB at most; the largest batch "
            f"tried that fits: {largest if largest is not None else 'none'}"
        )
    return lines


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is read most easily."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{math.ceil(seconds / 360) / 10:.1f} h"
