"""What a training step calls and what is saved of it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from config import Config, ConfigManager
from engine.device import Runtime, resolve
from engine.model.resnet import build_model
from engine.training.learner import Learner

ROOT = Path(__file__).parents[3]
WITHOUT_COMPILER = """
import dataclasses, torch
from config import ConfigManager, UserError
from engine.device import resolve
from engine.model.resnet import build_model
from engine.training.learner import Learner
class Small(torch.nn.Sequential):
    pass
def learner(choice):
    values = {"system.compile": choice, "system.device": "cpu", "data.image_size": 32}
    config = ConfigManager.load(overrides=values, environ={})
    runtime = dataclasses.replace(resolve(config.system), compile=True)
    model = Small(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(3600, 2))
    return Learner(model, config, runtime)
chosen = learner("auto")
assert not chosen.is_compiled
assert [code for code, _ in chosen.warnings] == ["not_compiled"], chosen.warnings
print(chosen.warnings[0][1])
try:
    learner("on")
except UserError as error:
    print(error)
"""


@pytest.mark.long
def test_without_a_compiler_auto_trains_without_and_on_is_refused(tmp_path: Path) -> None:
    environ = {
        **{key: value for key, value in os.environ.items() if key not in ("CC", "CXX")},
        "PATH": str(tmp_path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", WITHOUT_COMPILER]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told, refused = done.stdout.splitlines()
    assert told.startswith("the model is trained without torch.compile")
    assert refused.startswith("system.compile=on: torch.compile does not work here")


def new(compiled: bool) -> tuple[Learner, Runtime, Config]:
    values = {
        "system.device": "cpu",
        "system.batch_size": 4,
        "data.image_size": 32,
    }
    config = ConfigManager.load(overrides=values, environ={})
    runtime = dataclasses.replace(resolve(config.system), compile=compiled)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8, 2),
    )
    return Learner(model, config, runtime), runtime, config


def steps(learner: Learner, runtime: Runtime, numbers: range) -> None:
    """Two images in the last of each three batches, as at an epoch's end."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        images = torch.rand((2 if number % 3 == 2 else 4, 3, 32, 32), generator=generator)
        torch.manual_seed(number)  # dropout's
        with runtime.autocast():
            logits = learner.step_model(images.contiguous(memory_format=torch.channels_last))
        labels = torch.arange(len(images)) % 2
        nn.functional.cross_entropy(logits.float(), labels).backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=True)


@pytest.mark.long
def test_a_resumed_compiled_training_ends_with_the_same_weights() -> None:
    whole, runtime, _ = new(compiled=True)
    eager, _, _ = new(compiled=False)
    for name, value in eager.model.state_dict().items():  # trying the compiler left no trace
        assert torch.equal(value, whole.model.state_dict()[name]), name
    assert whole.is_compiled
    whole.begin_epoch(1)
    steps(whole, runtime, range(6))
    whole.model.eval()
    with torch.inference_mode():
        whole.model(torch.rand(3, 3, 32, 32))
    whole.begin_epoch(2)
    steps(whole, runtime, range(6, 12))

    torch.compiler.reset()
    first, _, _ = new(compiled=True)
    first.begin_epoch(1)
    steps(first, runtime, range(6))
    first.begin_epoch(2)
    steps(first, runtime, range(6, 8))
    state = first.state_dict()
    torch.compiler.reset()  # as in another process, where the short batch is met first
    second, _, _ = new(compiled=True)
    second.load_state_dict(state)
    second.begin_epoch(2)
    steps(second, runtime, range(8, 12))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


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
    first = learner_of(config, before)
    state = first.state_dict()
    second = learner_of(config, after)
    second.load_state_dict(state)
    assert second.scaler.is_enabled() == (after == torch.float16)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def learner_of(config: Config, dtype: torch.dtype) -> Learner:
    network: nn.Module = build_model(config.model, config.experiment.dropout_rate)
    runtime: Runtime = resolve(config.system)
    return Learner(network, config, dataclasses.replace(runtime, autocast_dtype=dtype))
