"""How far an epoch is: its running sums on the device, and the meter that reports them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from engine.stream.events import Event, TrainingProgress

PROGRESS_EVERY = 0.25  # seconds
LOSS, CORRECT, SEEN, BAD_STEP = range(4)  # the columns of EpochState.sums

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
    # float64 [4] on the device: sum of losses, correct, images seen, first step with a bad loss
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    seconds: float = 0.0  # spent in this epoch before this process took it up


def finite_sums(state: EpochState) -> tuple[float, float, float]:
    """Loss sum, correct and seen, after waiting for the device. Raises NonFiniteLoss."""
    loss, correct, seen, bad_step = state.sums.tolist()
    if bad_step:
        raise NonFiniteLoss(int(bad_step))
    return loss, correct, max(seen, 1.0)


def add_batch(state: EpochState, losses: torch.Tensor, correct: torch.Tensor) -> None:
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
