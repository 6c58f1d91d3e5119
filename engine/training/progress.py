"""How far an epoch is: its running sums on the device, and the meter that reports them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from engine.distributed import Processes
from engine.stream.events import Event, TrainingProgress

PROGRESS_EVERY = 0.25  # seconds
# The columns of EpochState.sums. The total of the losses stays infinite or NaN once it is; so the
# first step with a bad loss is the one after FINITE. REST is what rounding took from LOSS so far.
LOSS, CORRECT, FINITE, REST = range(4)

Emit = Callable[[Event], None]


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN; `step` (1-based) names the batch."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is not a finite number at step {step}")
        self.step = step


@dataclass
class EpochState:
    """What a snapshot must hold to continue in the middle of an epoch."""

    epoch: int  # 1-based
    step: int = 0  # batches done
    # [4] on the device, of `sums_dtype`: sum of losses, correct images, steps with a finite total
    # and the rounding error of the sum of losses (float32 only)
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    seconds: float = 0.0  # spent in this epoch before this process continued it
    images: int = 0  # seen

    def move_to(self, device: torch.device) -> None:
        """Keep the sums on `device` from now on."""
        self.sums = self.sums.to(device, sums_dtype(device))


def sums_dtype(device: torch.device) -> torch.dtype:
    """float64, but on MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def finite_sums(state: EpochState) -> tuple[float, float]:
    """Loss sum and correct images, after waiting for the device. Raises NonFiniteLoss."""
    sums = state.sums.tolist()
    _require_finite(sums, state.step)
    return sums[LOSS], sums[CORRECT]


def join_sums(state: EpochState, processes: Processes) -> tuple[float, float, int]:
    """Loss sum, correct images and images of all processes, after waiting for the device.

    From then on process 0 has them, and what the others add comes on top. Together. Raises
    NonFiniteLoss, in all processes.
    """
    if processes.is_alone:
        return (*finite_sums(state), state.images)
    found = processes.gather((state.sums.tolist(), state.images))
    totals = [sum(sums[column] for sums, _ in found) for column in range(len(state.sums))]
    totals[FINITE] = min(sums[FINITE] for sums, _ in found)
    images = sum(images for _, images in found)
    _require_finite(totals, state.step)
    kept = totals if processes.is_main else [0.0, 0.0, totals[FINITE], 0.0]
    state.sums.copy_(torch.tensor(kept))
    state.images = images if processes.is_main else 0
    return totals[LOSS], totals[CORRECT], images


def add_batch(state: EpochState, losses: torch.Tensor, correct: torch.Tensor) -> None:
    """Add a batch's losses, float32 [B], and hits, bool [B], to the running sums."""
    sums = state.sums
    totals = torch.stack((losses, correct.to(losses.dtype))).sum(dim=1, dtype=sums.dtype)
    if sums.dtype == torch.float32:  # Kahan's summation: the error stays that of one addition
        totals[LOSS] -= sums[REST]
        before = sums[LOSS].clone()
        sums[:FINITE] += totals
        sums[REST] = (sums[LOSS] - before) - totals[LOSS]
    else:
        sums[:FINITE] += totals
    sums[FINITE] += sums[LOSS] < math.inf
    state.images += len(losses)


class _Copy(NamedTuple):
    """Sums on their way to the host, and how far the epoch was when they were asked for."""

    sums: torch.Tensor
    step: int
    images: int
    arrived: torch.cuda.Event | None  # None where they are there


class Meter:
    """Reports progress at most four times a second, without ever waiting for a GPU."""

    def __init__(
        self, emit: Emit, phase: str, steps: int, state: EpochState, checks: bool = False
    ) -> None:
        """`checks`: raise NonFiniteLoss as soon as it is seen."""
        self._checks = checks
        self._emit, self._phase, self._epoch, self._steps = emit, phase, state.epoch, steps
        self._first_step, self._first_image = state.step, state.images
        self._began = time.perf_counter()
        self._next = self._began + PROGRESS_EVERY
        self._copy: _Copy | None = None

    def tick(self, state: EpochState) -> None:
        """Ask for the sums when a report is due; emit those that have arrived.

        Raises NonFiniteLoss where it checks.
        """
        now = time.perf_counter()
        if self._copy is None:
            if now < self._next:
                return
            self._copy = _copy_of(state)
        if self._copy.arrived is None or self._copy.arrived.query():
            self._report(self._copy, now)
            self._copy, self._next = None, now + PROGRESS_EVERY

    def _report(self, copy: _Copy, now: float) -> None:
        sums = copy.sums.tolist()
        if self._checks:
            _require_finite(sums, copy.step)
        seconds = now - self._began
        done = copy.step - self._first_step
        self._emit(
            TrainingProgress(
                phase=self._phase,
                epoch=self._epoch,
                step=copy.step,
                steps=self._steps,
                loss=sums[LOSS] / max(copy.images, 1),
                images_per_second=(copy.images - self._first_image) / seconds,
                eta_seconds=(self._steps - copy.step) * seconds / done,
            )
        )


def _copy_of(state: EpochState) -> _Copy:
    """On a GPU the copy is made when the device gets there; elsewhere it is made at once."""
    sums, on_gpu = state.sums, state.sums.is_cuda
    copy = sums.to("cpu", non_blocking=on_gpu, copy=True)
    arrived = None
    if on_gpu:
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(sums.device))
    return _Copy(copy, state.step, state.images, arrived)


def _require_finite(sums: list[float], step: int) -> None:
    if sums[FINITE] < step:
        raise NonFiniteLoss(int(sums[FINITE]) + 1)
