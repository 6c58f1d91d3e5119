"""The loop, called with a list for `emit` and a lambda for `should_stop`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from config.schema import Augment, System
from engine.data.augment import THETA, epoch_parameters
from engine.data.dataset import Batch
from engine.data.inputs import MEAN, STD, training_inputs
from engine.device import resolve
from engine.stream.events import Event, TrainingProgress
from engine.training import progress
from engine.training.loop import TrainFigures, evaluate_epoch, train_one_epoch
from engine.training.progress import EpochState, NonFiniteLoss

RUNTIME = resolve(System(device="cpu", precision="fp32"))
Operations = Callable[[Callable[[], object]], list[str]]


def to_input(batch: Batch) -> torch.Tensor:
    return batch.images.float().div(255).expand(-1, 3, -1, -1)


def make_images(count: int, size: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(count) % 2, torch.arange(count))


def batches(all_images: Batch, size: int) -> list[Batch]:
    parts = [tensor.split(size) for tensor in all_images]
    return [Batch(*part) for part in zip(*parts, strict=True)]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 2))


def train(
    model: nn.Module,
    loader: list[Batch],
    optimizer: torch.optim.Optimizer | None = None,
    **changes: Any,
) -> tuple[TrainFigures, list[Event]]:
    emitted: list[Event] = []
    arguments: dict[str, Any] = {
        "sizes": [len(batch.labels) for batch in loader],
        "to_input": to_input,
        "optimizer": optimizer or torch.optim.SGD(model.parameters(), lr=0.1),
        "scaler": RUNTIME.scaler(),
        "runtime": RUNTIME,
        "state": EpochState(1),
        "gradient_clip": 0.0,
        "accumulate": 1,
        "emit": emitted.append,
        "should_stop": lambda: False,
        "after_step": lambda _: None,
        **changes,
    }
    return train_one_epoch(model, loader, **arguments), emitted


def same(first: nn.Module, second: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)


def test_a_step_is_what_a_bare_loop_does() -> None:
    loader = batches(make_images(20), 4)
    ours, bare = network(), network()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    losses = []
    for batch in loader:
        loss = nn.functional.cross_entropy(bare(to_input(batch)), batch.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    figures, _ = train(ours, loader, gradient_clip=0.5)
    assert same(ours, bare, 1e-7)
    assert figures.loss == pytest.approx(np.mean(losses), abs=1e-6)
    assert figures.images == 20


@pytest.mark.parametrize("count", [16, 18, 21])
def test_accumulated_batches_are_one_large_batch(count: int) -> None:
    small, large = network(), network()
    train(small, batches(make_images(count), 4), accumulate=2)
    train(large, batches(make_images(count), 8))
    assert same(small, large, 1e-6)


def test_it_overfits_eight_images() -> None:
    model, eight = network(), batches(make_images(8), 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for epoch in range(1, 61):
        figures, _ = train(model, eight, optimizer, state=EpochState(epoch))
    assert figures.accuracy == 1.0
    assert figures.loss < 0.05


def test_a_bad_loss_stops_with_the_first_bad_step() -> None:
    loader = batches(make_images(24), 4)

    def poison(batch: Batch) -> torch.Tensor:
        inputs = to_input(batch)
        return inputs * float("nan") if 8 in batch.indices else inputs

    with pytest.raises(NonFiniteLoss) as caught:
        train(network(), loader, to_input=poison)
    assert caught.value.step == 3


def test_an_epoch_continued_in_the_middle_ends_where_an_undisturbed_epoch_ends() -> None:
    loader = batches(make_images(22), 4)
    whole, broken = network(), network()
    expected, _ = train(whole, loader)
    taken: list[int] = []
    state = EpochState(1)
    first, _ = train(
        broken,
        loader,
        state=state,
        after_step=lambda s: taken.append(s.step),
        should_stop=lambda: taken[-1] == 2,
    )
    assert first.stopped
    assert state.step == 2
    kept = dataclasses.replace(state, sums=state.sums.clone())
    second, _ = train(copy.deepcopy(broken), loader[2:], state=kept, sizes=[4, 4, 4, 4, 4, 2])
    train(broken, loader[2:], state=state, sizes=[4, 4, 4, 4, 4, 2])
    assert same(whole, broken)
    assert second.loss == expected.loss
    assert second.accuracy == expected.accuracy
    assert second.images == 22


def test_a_stop_never_splits_a_gradient_group() -> None:
    state = EpochState(1)
    train(
        network(), batches(make_images(24), 4), state=state, accumulate=4, should_stop=lambda: True
    )
    assert state.step == 4


def test_every_image_is_scored_once_in_order() -> None:
    model = network().eval()
    loader = batches(make_images(11), 4)
    figures = evaluate_epoch(
        model, loader, 3, to_input, RUNTIME, 1, emit=lambda _: None, should_stop=lambda: False
    )
    whole = make_images(11)
    with torch.no_grad():
        logits = model(to_input(whole))
    assert figures.index.tolist() == list(range(11))
    assert figures.labels.tolist() == whole.labels.tolist()
    np.testing.assert_allclose(figures.scores, logits.softmax(1)[:, 1].numpy(), atol=1e-6)
    expected = nn.functional.cross_entropy(logits, whole.labels).item()
    assert figures.loss == pytest.approx(expected, abs=1e-6)


def test_progress_is_reported_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.04
        return now

    monkeypatch.setattr("engine.training.progress.time.perf_counter", clock)
    _, emitted = train(network(), batches(make_images(200), 2))
    reports = [event for event in emitted if isinstance(event, TrainingProgress)]
    assert 0 < len(reports) <= now * 4
    assert all(event.steps == 100 for event in reports)
    assert reports[-1].images_per_second > 0
    assert reports[-1].eta_seconds is not None


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_no_step_waits_for_the_device(device: str) -> None:
    """Past the meter's first reports, which copy the sums to the host."""
    if device == "cuda:1" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    runtime = resolve(System(device=device))
    all_images = make_images(1600, size=32)
    loader = [Batch(*(part.pin_memory() for part in b)) for b in batches(all_images, 8)]
    settings = Augment(flip=0.5, erase=0.5)
    parameters = epoch_parameters(1600, 42, 1, settings, 32).to(runtime.device)

    def augmented(batch: Batch) -> torch.Tensor:
        return training_inputs(batch, parameters, runtime, 42, settings)

    def watch(batch: Batch) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        return augmented(batch)

    def look_away(state: EpochState) -> None:
        time.sleep(0.005)  # 200 steps are a second: several reports
        if state.step == len(loader):  # the epoch's figures may wait
            torch.cuda.set_sync_debug_mode("default")

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).to(runtime.device)
    augmented(loader[0])  # what is made once is made
    try:
        figures, emitted = train(
            model, loader, runtime=runtime, to_input=watch, after_step=look_away
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([event for event in emitted if isinstance(event, TrainingProgress)]) >= 2
    assert figures.images == 1600


class LateCopy:
    """A copy to the host that arrives as many looks later, as from a GPU that is behind."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def query(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def test_a_report_is_of_the_step_whose_sums_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("engine.training.progress.time.perf_counter", lambda: now)
    made = progress._copy_of
    monkeypatch.setattr(
        "engine.training.progress._copy_of", lambda state: made(state)._replace(arrived=LateCopy(3))
    )
    emitted: list[Any] = []
    state = EpochState(1)
    meter = progress.Meter(emitted.append, "train", 100, state)
    for _ in range(40):  # a step of 0.04 s of 4 images: 100 images/s
        now += 0.04
        state.step += 1
        progress.add_batch(state, torch.full((4,), float(state.step)), torch.ones(4).bool())
        meter.tick(state)
    assert len(emitted) == 4
    for event in emitted:
        assert event.loss == pytest.approx((event.step + 1) / 2)
        arrived = event.step + 3  # when it was known to be done
        assert event.images_per_second == pytest.approx(event.step * 4 / (arrived * 0.04))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_million_losses_are_summed_without_drift(dtype: torch.dtype) -> None:
    """float32 is what MPS has."""
    state = EpochState(1, sums=torch.zeros(4, dtype=dtype))
    losses = torch.rand((1000, 1000), generator=torch.Generator().manual_seed(0))
    for batch in losses:
        state.step += 1
        progress.add_batch(state, batch, batch < 0.5)
    loss, correct = progress.finite_sums(state)
    assert loss == pytest.approx(losses.double().sum().item(), rel=1e-6)
    assert correct == (losses < 0.5).sum()
    assert state.images == 1_000_000


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_bad_step_is_known_whatever_follows(dtype: torch.dtype, bad: float) -> None:
    state = EpochState(1, sums=torch.zeros(4, dtype=dtype))
    for step in range(1, 9):
        state.step = step
        losses = torch.full((4,), bad if step in (3, 5) else 0.5)
        progress.add_batch(state, losses, torch.zeros(4).bool())
    with pytest.raises(NonFiniteLoss) as caught:
        progress.finite_sums(state)
    assert caught.value.step == 3


def test_sums_take_few_operations(operations: Operations) -> None:
    """On a GPU each is a kernel."""
    state = EpochState(1)
    losses, correct = torch.rand(8), torch.ones(8).bool()
    names = operations(lambda: progress.add_batch(state, losses, correct))
    assert len(names) <= 8, names


class RefusingFloat64(TorchDispatchMode):
    """Refuses what a device without float64 (MPS) refuses."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{function}: this device has no float64")
        return result


def test_no_step_needs_float64_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.sums_dtype(torch.device("mps")) == torch.float32
    monkeypatch.setattr("engine.training.progress.sums_dtype", lambda device: torch.float32)
    monkeypatch.setattr("engine.training.progress.PROGRESS_EVERY", 0.0)
    loader, settings = batches(make_images(16, size=8), 4), Augment(flip=0.5, erase=0.5)
    parameters = epoch_parameters(16, 42, 1, settings, 8)
    training_inputs(loader[0], parameters, RUNTIME, 42, settings)  # what is made once is made
    refusing = contextlib.ExitStack()
    batches_seen = 0

    def watch(batch: Batch) -> torch.Tensor:
        nonlocal batches_seen
        batches_seen += 1
        if batches_seen % len(loader) == 1:  # from here on, as far as the last step
            refusing.enter_context(RefusingFloat64())
        return training_inputs(batch, parameters, RUNTIME, 42, settings)

    def at_the_end(*_: object) -> bool:
        if batches_seen % len(loader) == 0:
            refusing.close()
        return False

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with refusing:
        figures, emitted = train(model, loader, optimizer, to_input=watch, after_step=at_the_end)
    assert len(emitted) == 4
    with refusing:
        scored = evaluate_epoch(
            model, loader, 4, watch, RUNTIME, 1, emit=emitted.append, should_stop=at_the_end
        )
    assert figures.images == len(scored.scores) == 16


def test_inputs_are_made_outside_autocast() -> None:
    runtime = resolve(System(device="cpu", precision="bf16"))
    seen: list[bool] = []

    def watch(batch: Batch) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return to_input(batch)

    loader = batches(make_images(8), 4)
    train(network(), loader, runtime=runtime, to_input=watch)
    evaluate_epoch(
        network(), loader, 2, watch, runtime, 1, emit=lambda _: None, should_stop=lambda: False
    )
    assert seen == [False] * 4


def test_under_bf16_images_are_sampled_where_float64_says() -> None:
    """The grey level of a ramp is its column: the network's input says where it was sampled."""
    side, count, settings = 224, 8, Augment(brightness=0, contrast=0, noise=0, rotate=20, flip=0.5)
    runtime = resolve(System(device="cpu", precision="bf16"))
    ramp = torch.arange(side, dtype=torch.uint8).expand(count, 1, side, side)
    parameters = epoch_parameters(count, 42, 1, settings, side)
    seen: list[torch.Tensor] = []

    class Watching(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs)
            return super().forward(inputs[:, 0, 0, :8])

    loader = [Batch(ramp, torch.arange(count) % 2, torch.arange(count))]
    train(
        Watching(8, 2),
        loader,
        runtime=runtime,
        to_input=lambda batch: training_inputs(batch, parameters, runtime, 42, settings),
    )
    columns = (seen[0][:, 0].double() * STD[0] + MEAN[0]) * 255
    theta = parameters[:, THETA].view(-1, 2, 3).double()
    grid = nn.functional.affine_grid(theta, [count, 1, side, side], align_corners=False)
    expected = (((grid[..., 0] + 1) * side - 1) / 2).clamp(0, side - 1)
    assert (columns - expected).abs().max() < 0.05
