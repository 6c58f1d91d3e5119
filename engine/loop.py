"""The hand-written loop. It knows no file, table or socket: only tensors and `emit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from engine.data.dataset import Batch
from engine.device import Runtime
from engine.events import Event, TrainingProgress

PROGRESS_EVERY = 0.25  # seconds
LOSS, CORRECT, SEEN, BAD_STEP = range(4)  # the columns of EpochState.sums

ToInput = Callable[[Batch], torch.Tensor]  # uint8 batch -> float inputs [B, 3, S, S] on the device
Emit = Callable[[Event], None]


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN; `step` (1-based) names the batch."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is not a finite number at step {step}")
        self.step = step


@dataclass
class EpochState:
    """What a checkpoint must hold to go on in the middle of an epoch."""

    epoch: int  # 1-based
    step: int = 0  # batches done
    # float64 [4] on the device: sum of losses, correct, films seen, first step with a bad loss
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    seconds: float = 0.0  # spent in this epoch before this process took it up


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
    """One pass over a loader, films in the loader's order."""

    loss: float  # mean cross entropy
    scores: np.ndarray  # float64 [N], probability of the positive class
    labels: np.ndarray  # int64 [N]
    index: np.ndarray  # int64 [N], record indices
    stopped: bool


def train_one_epoch(
    model: nn.Module,
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
) -> TrainFigures:
    """Train on what `loader` yields from batch `state.step` on.

    `sizes` are the films in each batch of the whole epoch: an optimizer step is the mean over all
    films of its `accumulate` batches, however the last one is filled. `after_step` and
    `should_stop` are called between optimizer steps only. Raises NonFiniteLoss.
    """
    device, steps = runtime.device, len(sizes)
    state.sums = state.sums.to(device)
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    meter = Meter(emit, "train", state.epoch, steps, state.step)
    started = time.perf_counter() - state.seconds
    stopped = False
    for batch in loader:
        state.step += 1
        first = (state.step - 1) // accumulate * accumulate  # batches before this gradient group
        group_films = sum(sizes[first : first + accumulate])
        labels = batch.labels.to(device, non_blocking=True)
        with runtime.autocast():
            logits = model(to_input(batch))
        losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        scaler.scale(losses.sum() / group_films).backward()
        with torch.no_grad():
            _add(state, losses, logits.argmax(dim=1) == labels)
        if state.step % accumulate == 0 or state.step == steps:
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
    loss, correct, seen = finite_sums(state)  # the only wait for the device in the epoch
    state.seconds = time.perf_counter() - started
    return TrainFigures(loss / seen, correct / seen, int(seen), state.seconds, stopped)


@torch.inference_mode()
def evaluate_epoch(
    model: nn.Module,
    loader: Iterable[Batch],
    steps: int,
    to_input: ToInput,
    runtime: Runtime,
    epoch: int,
    *,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> EvalFigures:
    """Score every film of `loader` once, none padded, none dropped."""
    model.eval()
    state = EpochState(epoch)
    state.sums = state.sums.to(runtime.device)
    meter = Meter(emit, "validate", epoch, steps)
    all_logits: list[torch.Tensor] = []
    all_labels: list[torch.Tensor] = []
    all_index: list[torch.Tensor] = []
    stopped = False
    for batch in loader:
        state.step += 1
        labels = batch.labels.to(runtime.device, non_blocking=True)
        with runtime.autocast():
            logits = model(to_input(batch)).float()
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        _add(state, losses, logits.argmax(dim=1) == labels)
        all_logits.append(logits)
        all_labels.append(batch.labels)
        all_index.append(batch.indices)
        meter.tick(state)
        if should_stop():
            stopped = True
            break
    logits = torch.cat(all_logits).double().cpu()
    total, _, seen, _ = state.sums.tolist()
    return EvalFigures(
        loss=total / seen,
        scores=logits.softmax(dim=1)[:, 1].numpy(),
        labels=torch.cat(all_labels).cpu().numpy(),
        index=torch.cat(all_index).cpu().numpy(),
        stopped=stopped,
    )


def finite_sums(state: EpochState) -> tuple[float, float, float]:
    """Loss sum, correct and seen, after waiting for the device. Raises NonFiniteLoss."""
    loss, correct, seen, bad_step = state.sums.tolist()
    if bad_step:
        raise NonFiniteLoss(int(bad_step))
    return loss, correct, max(seen, 1.0)


def _add(state: EpochState, losses: torch.Tensor, correct: torch.Tensor) -> None:
    """Add a batch to the running sums on the device; remember the first step with a bad loss."""
    total = losses.sum(dtype=torch.float64)
    new_bad = (~total.isfinite()) & (state.sums[BAD_STEP] == 0)
    state.sums[LOSS] += total
    state.sums[CORRECT] += correct.sum()
    state.sums[SEEN] += len(losses)
    state.sums[BAD_STEP] += new_bad * state.step


class Meter:
    """Tells progress at most four times a second, without ever waiting for the device."""

    def __init__(self, emit: Emit, phase: str, epoch: int, steps: int, done: int = 0) -> None:
        self._emit, self._phase, self._epoch, self._steps = emit, phase, epoch, steps
        self._first, self._began = done, time.perf_counter()
        self._next = self._began + PROGRESS_EVERY
        self._copy: torch.Tensor | None = None  # the sums on their way to the host
        self._arrived: torch.cuda.Event | None = None

    def tick(self, state: EpochState) -> None:
        """Read the sums that have arrived, emit them, and ask for the next. May raise."""
        now = time.perf_counter()
        if now < self._next:
            return
        if self._copy is not None and (self._arrived is None or self._arrived.query()):
            self._tell(self._copy.tolist(), state.step, now)
            self._copy = None
            self._next = now + PROGRESS_EVERY
        if self._copy is None:
            self._copy = state.sums.to("cpu", non_blocking=True, copy=True)
            if state.sums.is_cuda:
                self._arrived = torch.cuda.Event()
                self._arrived.record()
            else:
                self._tell(self._copy.tolist(), state.step, now)
                self._copy, self._next = None, now + PROGRESS_EVERY

    def _tell(self, sums: list[float], step: int, now: float) -> None:
        if sums[BAD_STEP] and self._phase == "train":
            raise NonFiniteLoss(int(sums[BAD_STEP]))
        seconds = now - self._began
        done = step - self._first
        per_step = sums[SEEN] / step
        self._emit(
            TrainingProgress(
                phase=self._phase,
                epoch=self._epoch,
                step=step,
                steps=self._steps,
                loss=sums[LOSS] / max(sums[SEEN], 1.0),
                images_per_second=done * per_step / seconds,
                eta_seconds=(self._steps - step) * seconds / done,
            )
        )
