"""Figures of each epoch for TensorBoard: `results_dir/tensorboard/run_{run_id}`."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from config import UserError
from engine.records.log import METRIC_COLUMNS
from engine.stream.events import EpochMetrics, Stamped, TrainingResumed


def require_tensorboard() -> None:
    """Raises UserError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "output.tensorboard needs the package tensorboard: pip install -e '.[tensorboard]'"
        )


class TensorBoardSink:
    """A scalar for each figure of each epoch; a resumed run replaces those of later epochs."""

    def __init__(self, results_dir: Path) -> None:
        self._results_dir = results_dir
        self._writer: Any = None

    async def open(self, run_id: int) -> None:
        """The folder is made with the first epoch."""
        self._folder = self._results_dir / "tensorboard" / f"run_{run_id}"

    async def handle(self, stamped: Stamped) -> None:
        """Write the scalars of an epoch."""
        event = stamped.event
        if isinstance(event, TrainingResumed):
            await self.close()
            await asyncio.to_thread(self._begin, event.epoch + 1)
        elif isinstance(event, EpochMetrics):
            await asyncio.to_thread(self._write, event.payload())

    async def close(self) -> None:
        """Write what is buffered."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)
            self._writer = None

    def _begin(self, first: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds, and an optional package

        self._writer = SummaryWriter(str(self._folder), purge_step=first)

    def _write(self, figures: dict[str, Any]) -> None:
        if self._writer is None:
            self._begin()
        for name in METRIC_COLUMNS:
            value = figures.get(name)
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, figures["epoch"])
        self._writer.flush()
