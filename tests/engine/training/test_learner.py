"""What is learnt is saved and restored as a whole, also under another precision."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from config import Config, ConfigManager
from engine.device import Runtime, resolve
from engine.model.resnet import build_model
from engine.training.learner import Learner


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.float32),
    ],
)
def test_a_run_is_resumed_under_another_precision(before: torch.dtype, after: torch.dtype) -> None:
    config = ConfigManager.load(
        overrides={"model.backbone": "resnet18", "model.weights": "none", "system.device": "cpu"},
        environ={},
    )
    first = learner(config, before)
    state = first.state_dict()
    second = learner(config, after)
    second.load_state_dict(state)
    assert second.scaler.is_enabled() == (after == torch.float16)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def learner(config: Config, dtype: torch.dtype) -> Learner:
    network: nn.Module = build_model(config.model, config.experiment.dropout_rate)
    runtime: Runtime = resolve(config.system, planned_steps=1)
    return Learner(network, config, dataclasses.replace(runtime, autocast_dtype=dtype))
