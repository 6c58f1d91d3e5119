"""The loop, called with a list for `emit` and a lambda for `should_stop`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from config.schema import Augment, System
from engine.data.augment import THETA, epoch_parameters
from engine.data.dataset import Batch
from engine.data.inputs import MEAN, STD, training_inputs
from engine.device import resolve
from engine.stream.events import Event, TrainingProgress
from engine.training.loop import TrainFigures, evaluate_epoch, train_one_epoch
from engine.training.progress import EpochState, NonFiniteLoss

RUNTIME = resolve(System(device="cpu", precision="fp32"), planned_steps=1)


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
    told: list[Event] = []
    arguments: dict[str, Any] = {
        "sizes": [len(batch.labels) for batch in loader],
        "to_input": to_input,
        "optimizer": optimizer or torch.optim.SGD(model.parameters(), lr=0.1),
        "scaler": RUNTIME.scaler(),
        "runtime": RUNTIME,
        "state": EpochState(1),
        "gradient_clip": 0.0,
        "accumulate": 1,
        "emit": told.append,
        "should_stop": lambda: False,
        "after_step": lambda _: None,
        **changes,
    }
    return train_one_epoch(model, loader, **arguments), told


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


def test_going_on_in_the_middle_ends_where_an_undisturbed_epoch_ends() -> None:
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
    kept = EpochState(1, state.step, state.sums.clone(), state.seconds)
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


def test_progress_is_told_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.04
        return now

    monkeypatch.setattr("engine.training.progress.time.perf_counter", clock)
    _, told = train(network(), batches(make_images(200), 2))
    progress = [event for event in told if isinstance(event, TrainingProgress)]
    assert 0 < len(progress) <= now * 4
    assert all(event.steps == 100 for event in progress)
    assert progress[-1].images_per_second > 0
    assert progress[-1].eta_seconds is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_device() -> None:
    runtime = resolve(System(), planned_steps=1)
    loader = [
        Batch(*(part.pin_memory() for part in b)) for b in batches(make_images(64, size=32), 8)
    ]

    settings = Augment(flip=0.5, erase=0.5)
    parameters = epoch_parameters(64, 42, 1, settings, 32).to(runtime.device)

    def augmented(batch: Batch) -> torch.Tensor:
        return training_inputs(batch, parameters, runtime, 42, settings)

    def watch(batch: Batch) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        return augmented(batch)

    def look_away(state: EpochState) -> None:
        if state.step == len(loader):  # the epoch's figures may wait
            torch.cuda.set_sync_debug_mode("default")

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).to(runtime.device)
    augmented(loader[0])  # what is made once is made
    try:
        train(model, loader, runtime=runtime, to_input=watch, after_step=look_away)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_inputs_are_made_outside_autocast() -> None:
    runtime = resolve(System(device="cpu", precision="bf16"), planned_steps=1)
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
    runtime = resolve(System(device="cpu", precision="bf16"), planned_steps=1)
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
