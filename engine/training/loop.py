"""The hand-written loop. It knows no file, table or socket: only tensors and `emit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from engine.data.dataset import Batch
from engine.device import Runtime
from engine.distributed import ALONE, Processes
from engine.model.views import mean_logits
from engine.training.progress import LOSS, Emit, EpochState, Meter, add_batch, join_sums
from engine.training.recipe import PLAIN, Objective, criterion

CHECK_EVERY = 50  # steps after which several processes look together whether the loss is finite
Forward = Callable[[torch.Tensor], torch.Tensor]  # inputs -> logits [B, 2]
ToInput = Callable[[Batch], torch.Tensor]  # uint8 batch -> float inputs [B, 3, S, S] on the device


@dataclass(frozen=True)
class TrainFigures:
    """One epoch of training; `stopped` when `should_stop` ended it early."""

    loss: float
    accuracy: float
    images: int
    seconds: float
    stopped: bool


@dataclass(frozen=True)
class EvalFigures:
    """One pass over a loader: images in its order, or by index where several processes had it."""

    loss: float  # mean cross entropy
    scores: np.ndarray  # float64 [N], probability of the positive class
    labels: np.ndarray  # int64 [N]
    index: np.ndarray  # int64 [N], record indices
    seconds: float
    stopped: bool


def train_one_epoch(
    model: Forward,
    loader: Iterable[Batch],
    sizes: Sequence[int],
    to_input: ToInput,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    state: EpochState,
    *,
    gradient_clip: float,
    accumulate: int,
    emit: Emit,
    should_stop: Callable[[], bool],
    after_step: Callable[[EpochState], None],
    objective: Objective = PLAIN,
    processes: Processes = ALONE,
    hold: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> TrainFigures:
    """Train on what `loader` yields from batch `state.step` on.

    `sizes` are the images in each batch of the whole epoch: an optimizer step is the mean over all
    images of its `accumulate` batches, however the last one is filled. `after_step` and
    `should_stop` are called between optimizer steps only. Within `hold()`, gradients are summed
    but not exchanged with the other processes; `model` exchanges them otherwise, as a mean.
    Raises NonFiniteLoss, in all processes together.
    """
    device, steps = runtime.device, len(sizes)
    state.move_to(device)
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    meter = Meter(emit, "train", steps, state, checks=processes.is_alone)
    started = time.perf_counter() - state.seconds
    stopped = False
    for batch in loader:
        state.step += 1
        first = (state.step - 1) // accumulate * accumulate  # batches before this gradient group
        group_images = sum(sizes[first : first + accumulate])
        labels = batch.labels.to(device, non_blocking=runtime.non_blocking)
        inputs = to_input(batch)  # in float32: bf16 has too few bits for geometry
        inputs, targets = objective.mix(inputs, labels, state.epoch, state.step)
        is_last = state.step % accumulate == 0 or state.step == steps
        with nullcontext() if is_last else hold():
            with runtime.autocast():
                logits = model(inputs)
            losses = objective.losses(logits, targets)
            # Each process has its part of the group's images, and the mean is over processes.
            scaler.scale(losses.sum() / (group_images / processes.count)).backward()
        with torch.no_grad():
            add_batch(state, losses, logits.argmax(dim=1) == labels)
        if not processes.is_alone and state.step % CHECK_EVERY == 0:
            join_sums(state, processes)
        if is_last:
            scaler.unscale_(optimizer)
            if gradient_clip > 0:
                nn.utils.clip_grad_norm_(trainable, gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            meter.tick(state)
            state.seconds = time.perf_counter() - started
            after_step(state)
            if state.step < steps and should_stop():
                stopped = True
                break
    # The only wait for the device in the epoch.
    loss, correct, seen = join_sums(state, processes)
    state.seconds = time.perf_counter() - started
    return TrainFigures(loss / seen, correct / seen, seen, state.seconds, stopped)


@torch.inference_mode()
def evaluate_epoch(
    model: nn.Module,
    loader: Iterable[Batch],
    steps: int,
    to_input: ToInput,
    runtime: Runtime,
    epoch: int,
    phase: str = "validate",
    *,
    emit: Emit,
    should_stop: Callable[[], bool],
    average_views: str = "none",
    processes: Processes = ALONE,
) -> EvalFigures:
    """Score every image of `loader` once, none padded, none dropped.

    Of several processes each scores what its loader has; all of them get the figures of all.
    """
    started = time.perf_counter()
    model.eval()
    state = EpochState(epoch)
    state.move_to(runtime.device)
    meter = Meter(emit, phase, steps, state)
    all_logits: list[torch.Tensor] = []
    all_labels: list[torch.Tensor] = []
    all_index: list[torch.Tensor] = []
    stopped = False
    for batch in loader:
        state.step += 1
        labels = batch.labels.to(runtime.device, non_blocking=runtime.non_blocking)
        inputs = to_input(batch)
        with runtime.autocast():
            logits = mean_logits(model, inputs, average_views)
        losses = criterion(logits, labels)
        add_batch(state, losses, logits.argmax(dim=1) == labels)
        all_logits.append(logits)
        all_labels.append(batch.labels)
        all_index.append(batch.indices)
        meter.tick(state)
        if should_stop():
            stopped = True
            break
    logits = torch.cat(all_logits).cpu().double()  # in this order: MPS has no float64
    found = processes.gather(
        (
            state.sums[LOSS].item(),
            logits.softmax(dim=1)[:, 1].numpy(),
            torch.cat(all_labels).cpu().numpy(),
            torch.cat(all_index).cpu().numpy(),
            stopped,
        )
    )
    losses_of, scores_of, labels_of, index_of, stopped_of = zip(*found, strict=True)
    index = np.concatenate(index_of)
    order = slice(None) if processes.is_alone else np.argsort(index, kind="stable")
    return EvalFigures(
        loss=sum(losses_of) / len(index),
        scores=np.concatenate(scores_of)[order],
        labels=np.concatenate(labels_of)[order],
        index=index[order],
        seconds=time.perf_counter() - started,
        stopped=any(stopped_of),
    )
