"""The queue: never in the way, in order, and no lasting event lost."""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time

import numpy as np
import pytest
import torch

from engine.events import (
    CheckpointSaved,
    EpochMetrics,
    EventQueue,
    RunWarning,
    Stamped,
    TrainingProgress,
)


class Listing:
    """A sink that keeps what it gets; may be slow, may fail."""

    def __init__(self, fails: bool = False, gate: threading.Event | None = None) -> None:
        self.got: list[Stamped] = []
        self.closed = False
        self._fails, self._gate = fails, gate

    async def open(self, run_id: int) -> None:
        self.run_id = run_id

    async def handle(self, stamped: Stamped) -> None:
        if self._gate is not None:
            self._gate.wait()
        if self._fails:
            raise OSError("no space left")
        self.got.append(stamped)

    async def close(self) -> None:
        self.closed = True


def progress(step: int) -> TrainingProgress:
    return TrainingProgress("train", 1, step, 100, 0.5, 10.0, 1.0)


def saved(number: int) -> CheckpointSaved:
    return CheckpointSaved("last.pt", number, "epoch")


def epoch(number: int, **changes: float) -> EpochMetrics:
    figures = dict.fromkeys(
        (
            *("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_precision"),
            *("val_recall", "val_specificity", "val_f1", "val_auroc", "learning_rate"),
            "epoch_seconds",
        ),
        0.5,
    )
    return EpochMetrics(epoch=number, is_best=False, **{**figures, **changes})


def test_lasting_events_all_arrive_in_order() -> None:
    sinks = [Listing(), Listing()]
    with EventQueue(sinks, 7) as events:
        for number in range(500):
            events.emit(saved(number))
    for sink in sinks:
        assert [s.event for s in sink.got] == [saved(number) for number in range(500)]
        assert {s.run_id for s in sink.got} == {7}
        assert sink.closed
    stamps = [s.at for s in sinks[0].got]
    assert stamps == sorted(stamps)
    assert stamps[0].endswith("+00:00")


def test_under_pressure_only_progress_is_merged() -> None:
    gate = threading.Event()
    sink = Listing(gate=gate)
    with EventQueue([sink], 1) as events:
        events.emit(saved(0))
        for number in range(1, 100):
            for step in range(50):
                events.emit(progress(step))
            events.emit(saved(number))
        gate.set()
    lasting = [s.event for s in sink.got if isinstance(s.event, CheckpointSaved)]
    assert lasting == [saved(number) for number in range(100)]
    passing = [s.event for s in sink.got if isinstance(s.event, TrainingProgress)]
    assert len(passing) <= 100
    assert {event.step for event in passing} == {49}  # the latest of each stretch


def test_emit_is_quick_even_with_a_sink_that_stands_still() -> None:
    gate = threading.Event()
    with EventQueue([Listing(gate=gate)], 1) as events:
        seconds = []
        for step in range(2000):
            began = time.perf_counter()
            events.emit(progress(step))
            seconds.append(time.perf_counter() - began)
        gate.set()
    assert statistics.median(seconds) < 100e-6
    assert max(seconds) < 0.05


def test_a_failing_sink_is_reported_once_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = Listing()
    with EventQueue([Listing(fails=True), good], 1) as events:
        for number in range(20):
            events.emit(saved(number))
    warnings = [s.event for s in good.got if isinstance(s.event, RunWarning)]
    assert len(warnings) == 1
    assert warnings[0].code == "sink_failed"
    assert "no space left" in warnings[0].message
    assert len(good.got) == 21
    assert capsys.readouterr().err.count("no space left") == 1


def test_emit_after_the_end_does_nothing_and_close_may_come_twice() -> None:
    sink = Listing()
    events = EventQueue([sink], 1)
    events.start()
    events.close()
    events.emit(saved(1))
    events.close()
    assert sink.got == []
    assert sink.closed


def test_the_sinks_are_closed_when_training_fails() -> None:
    sink = Listing()
    events = EventQueue([sink], 1)
    with pytest.raises(ZeroDivisionError), events:
        events.emit(saved(1 // 0))
    assert sink.closed


def test_it_works_inside_a_running_loop() -> None:
    sink = Listing()

    async def train() -> None:
        with EventQueue([sink], 1) as events:
            events.emit(saved(1))

    asyncio.run(train())
    assert len(sink.got) == 1


@pytest.mark.parametrize("value", [torch.tensor(0.5), np.float64(0.5)])
def test_an_event_holds_plain_values_only(value: object) -> None:
    with pytest.raises(TypeError, match=r"EpochMetrics\.val_loss"):
        epoch(1, val_loss=value)  # type: ignore[arg-type]


def test_what_is_not_finite_travels_as_null() -> None:
    payload = epoch(1, val_auroc=math.nan, val_loss=math.inf).payload()
    assert payload["val_auroc"] is None
    assert payload["val_loss"] is None
    assert payload["val_recall"] == 0.5
