"""TensorBoard reads each epoch's figures once, also after a resume."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path

import pytest

from engine.records.log import METRIC_COLUMNS
from engine.stream.events import EpochMetrics, Stamped, TrainingResumed
from engine.stream.sinks.tensorboard import TensorBoardSink


def epoch(number: int, value: float) -> EpochMetrics:
    figures = {name: value for name in METRIC_COLUMNS if name != "epoch"}
    return EpochMetrics(epoch=number, is_best=False, **figures)


def test_its_own_reader_finds_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    async def write(*events: EpochMetrics | TrainingResumed) -> None:
        sink = TensorBoardSink(tmp_path)
        await sink.open(3)
        for event in events:
            await sink.handle(Stamped(3, "now", event))
        await sink.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package and of protobuf
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        asyncio.run(write(epoch(1, 0.5), epoch(2, float("nan")), epoch(3, 0.7)))
        asyncio.run(write(TrainingResumed(2, []), epoch(3, 0.9)))
        found = EventAccumulator(str(tmp_path / "tensorboard" / "run_3")).Reload()
    scalars = [(one.step, round(one.value, 3)) for one in found.Scalars("val_recall")]
    assert scalars == [(1, 0.5), (3, 0.9)]
    assert set(found.Tags()["scalars"]) == {*METRIC_COLUMNS} - {"epoch"}
