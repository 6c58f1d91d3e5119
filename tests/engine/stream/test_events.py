"""The queue: never in the way, in order, and no lasting event lost."""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from engine.stream.events import (
    CheckpointSaved,
    EpochMetrics,
    RunWarning,
    Stamped,
    TrainingProgress,
    TrainingStarted,
)
from engine.stream.queue import EventQueue


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


class Raising(Listing):
    """A sink that raises what even careful code may not expect."""

    def __init__(self, error: BaseException, place: str) -> None:
        super().__init__()
        self._error, self._place = error, place

    async def open(self, run_id: int) -> None:
        if self._place == "open":
            raise self._error

    async def handle(self, stamped: Stamped) -> None:
        if self._place == "handle":
            raise self._error

    async def close(self) -> None:
        if self._place == "close":
            raise self._error


def progress(step: int) -> TrainingProgress:
    return TrainingProgress("train", 1, step, 100, 0.5, 10.0, 1.0)


def saved(number: int) -> CheckpointSaved:
    return CheckpointSaved("last.pt", number, "epoch")


def epoch(number: int, **changes: float) -> EpochMetrics:
    figures = dict.fromkeys(
        (
            *("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_precision"),
            *("val_recall", "val_specificity", "val_f1", "val_auroc", "learning_rate"),
            *("epoch_seconds", "train_seconds", "val_recall_at_specificity"),
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
    assert statistics.quantiles(seconds, n=100)[-1] < 0.05


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


def test_emit_never_raises_whatever_a_sink_raises(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), MemoryError()):
        for place in ("open", "handle", "close"):
            good = Listing()
            with EventQueue([Raising(error, place), good], 1) as events:
                for number in range(3):
                    events.emit(saved(number))
                    time.sleep(0.002)
            assert [s.event for s in good.got if not isinstance(s.event, RunWarning)] == [
                saved(number) for number in range(3)
            ]
            assert good.closed
    assert capsys.readouterr().err.count("Raising failed") == 12


def test_a_queue_that_never_started_can_be_closed() -> None:
    events = EventQueue([Listing()], 1)
    events.emit(saved(1))
    events.close()
    events.emit(saved(2))


def test_a_sink_that_never_ends_does_not_hold_up_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate = threading.Event()
    events = EventQueue([Listing(gate=gate)], 1)
    events.start()
    events.emit(saved(1))
    began = time.perf_counter()
    events.close(timeout=0.2)
    assert time.perf_counter() - began < 2
    assert "did not finish within 0.2 s" in capsys.readouterr().err
    gate.set()


def test_threads_may_emit_together() -> None:
    sink = Listing()
    with EventQueue([sink], 1) as events:

        def emit_from(first: int) -> None:
            for number in range(first, first + 200):
                events.emit(saved(number))

        threads = [threading.Thread(target=emit_from, args=(1000 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    numbers = [s.event.epoch for s in sink.got if isinstance(s.event, CheckpointSaved)]
    assert len(numbers) == len(set(numbers)) == 800
    for n in range(4):
        assert [e for e in numbers if e // 1000 == n] == list(range(1000 * n, 1000 * n + 200))


@pytest.mark.parametrize(
    ("config", "where"),
    [({"a": {"b": torch.tensor(1)}}, r"\['a'\]\['b'\]"), ({"a": [object()]}, r"\['a'\]")],
)
def test_a_tensor_is_found_however_deep_it_hides(config: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        TrainingStarted("name", config, "cpu", {})


def test_null_reaches_into_what_is_nested() -> None:
    event = TrainingStarted("name", {"a": [math.nan, (1.5, -math.inf)]}, "cpu", {"b": math.inf})
    text = json.dumps(event.payload(), allow_nan=False)
    assert json.loads(text)["config"] == {"a": [None, [1.5, None]]}
    assert json.loads(text)["dataset"] == {"b": None}
