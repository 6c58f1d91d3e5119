"""The ingredients of the training, each against what its source says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from config import Config, ConfigManager
from engine.data.dataset import balanced_order
from engine.device import resolve
from engine.model.resnet import build_model
from engine.model.views import mean_logits, views
from engine.training.learner import Learner
from engine.training.recipe import Objective, prior_shift, warmup_factor


def settings(**changes: object) -> Config:
    chosen = {key.replace("__", "."): value for key, value in changes.items()}
    base = {"system.device": "cpu", "system.precision": "fp32", "model.weights": "none"}
    return ConfigManager.load(
        overrides={**base, "model.backbone": "resnet18", **chosen}, environ={}
    )


def learner(steps: int = 4, positive_share: float = 0.5, **changes: object) -> Learner:
    config = settings(**changes)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    return Learner(model, config, resolve(config.system), steps, positive_share)


@given(st.floats(0.05, 0.95), st.floats(0.02, 0.98))
def test_a_balanced_loss_with_its_shift_gives_the_true_probability(
    share: float, within: float
) -> None:
    """Of images that cannot be told apart `within` are ill: the weighted loss has its minimum."""
    objective = Objective.of(settings(recipe__balance="loss"), share)
    assert objective.class_weights is not None
    negative, positive = objective.class_weights
    assert share * positive + (1 - share) * negative == pytest.approx(1)
    best = math.log(within * positive / ((1 - within) * negative))
    logits = torch.tensor([[0.0, best]], dtype=torch.float32).repeat(2, 1).requires_grad_()
    losses = objective.losses(logits, torch.tensor([0, 1]))
    (losses @ torch.tensor([1 - within, within])).backward()
    assert logits.grad is not None
    assert float(logits.grad[:, 1].sum()) == pytest.approx(0, abs=1e-5)  # it is the minimum
    corrected = best + prior_shift("loss", share)
    assert 1 / (1 + math.exp(-corrected)) == pytest.approx(within)


def test_the_shift_is_in_what_is_evaluated_and_kept_and_nowhere_else() -> None:
    balanced = learner(positive_share=0.73, recipe__balance="sampling")
    inputs = torch.rand(3, 12)
    raw = balanced.model(inputs)
    before = {name: value.clone() for name, value in balanced.model.state_dict().items()}
    with balanced.in_use() as model:
        shifted = model(inputs)
    odds = torch.tensor([0.0, math.log(0.73 / 0.27)])
    torch.testing.assert_close(shifted, raw + odds)
    for name, value in balanced.model.state_dict().items():
        assert torch.equal(value, before[name])
    state = balanced.state_dict()
    balanced.model.load_state_dict(balanced.kept_weights(state))
    torch.testing.assert_close(balanced.model(inputs), shifted)


@given(st.integers(2, 60), st.integers(2, 60), st.integers(1, 5))
def test_balanced_sampling_shows_half_of_either_class_and_no_image_twice_before_all_once(
    negatives: int, positives: int, epoch: int
) -> None:
    labels = np.array([0] * negatives + [1] * positives)
    order = balanced_order(labels, seed=1, epoch=epoch)
    assert len(order) == len(labels)
    assert labels[order].sum() == len(labels) - len(labels) // 2
    for label in (0, 1):
        seen = np.bincount(order, minlength=len(labels))[labels == label]
        assert seen.max() - seen.min() <= 1
    assert (order == balanced_order(labels, seed=1, epoch=epoch)).all()


def test_mixup_mixes_images_and_labels_alike_and_repeats_by_seed_epoch_and_step() -> None:
    objective = Objective(mixup=4.0, seed=3)
    labels = torch.tensor([0, 1, 1, 0, 1])
    inputs = nn.functional.one_hot(labels, 2).float().view(5, 2, 1, 1)
    mixed, targets = objective.mix(inputs, labels, epoch=2, step=7)
    torch.testing.assert_close(mixed.view(5, 2), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(5))
    assert not torch.equal(targets, inputs.view(5, 2))
    again, _ = objective.mix(inputs, labels, epoch=2, step=7)
    other, _ = objective.mix(inputs, labels, epoch=2, step=8)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)


def test_label_smoothing_gives_its_share_to_the_other_class() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    expected = nn.functional.cross_entropy(
        logits, torch.tensor([[0.05, 0.95], [0.95, 0.05]]), reduction="none"
    )
    found = Objective(label_smoothing=0.1).losses(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(found, expected)


def test_the_average_follows_the_weights_as_a_loop_by_hand_does() -> None:
    averaged = learner(recipe__ema=0.5)
    expected = [p.detach().clone() for p in averaged.model.parameters()]
    for step in range(1, 7):
        averaged.begin_epoch(1, step - 1)
        averaged.model(torch.rand(4, 12)).sum().backward()
        averaged.optimizer.step()
        averaged.after_step(step)
        decay = min(0.5, (1 + step) / (10 + step))
        present = [p.detach() for p in averaged.model.parameters()]
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, present, strict=True)]
    with averaged.in_use() as model:
        for found, wanted in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(found.detach(), wanted)
    kept = averaged.kept_weights(averaged.state_dict())
    torch.testing.assert_close(kept["1.weight"], expected[0])


def test_the_rate_rises_over_the_warm_up_and_the_scheduler_sees_the_full_one() -> None:
    warm = learner(
        steps=4,
        recipe__warmup_epochs=1.5,
        experiment__learning_rate=0.6,
        experiment__reduce_lr_patience=0,
    )
    rates = []
    for epoch in (1, 2):
        warm.begin_epoch(epoch)
        for step in range(1, 5):
            rates.append(warm.optimizer.param_groups[0]["lr"])
            warm.after_step(step)
        assert warm.learning_rate == pytest.approx(0.6)
        warm.end_epoch(val_loss=float(1 - epoch))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6])
    warm.end_epoch(val_loss=5.0)
    assert warm.learning_rate == pytest.approx(0.3)
    assert warmup_factor(0.0, 0.0, 4) == 1


def test_each_stage_has_a_share_of_the_rate_of_the_one_behind_it() -> None:
    config = settings(recipe__stage_rate=0.5, data__image_size=32, model__freeze_epochs=1)
    trained = Learner(build_model(config.model, 0.0), config, resolve(config.system))
    for epoch in range(1, 8):
        trained.begin_epoch(epoch)
    names = {id(p): name for name, p in trained.model.named_parameters()}
    shares = {
        names[id(p)].split(".")[0]: group["lr"] / 0.001
        for group in trained.optimizer.param_groups
        for p in group["params"]
    }
    assert shares == pytest.approx(
        {"fc": 1, "layer4": 0.5, "layer3": 0.25, "layer2": 0.125, "layer1": 0.0625}
        | {"conv1": 0.03125, "bn1": 0.03125}
    )
    assert trained.learning_rate == 0.001


def test_views_are_the_image_its_mirror_and_its_shifts() -> None:
    image = torch.arange(32 * 32, dtype=torch.float32).view(1, 1, 32, 32)
    assert [v.shape for v in views(image, "shift")] == [image.shape] * 5
    moved = views(image, "shift")[1]
    assert torch.equal(moved[..., 2:], image[..., :-2])  # two pixels, a sixteenth
    assert torch.equal(views(image, "flip")[1], image.flip(-1))

    def left(inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, 0, 0, :2]

    found = mean_logits(left, image, "flip")
    assert found.tolist() == [[15.5, 15.5]]
