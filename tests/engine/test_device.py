"""Where the arithmetic runs, and what the process is told for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.device import configure_cublas

ROOT = Path(__file__).parents[2]
FAULTS = """
import resource, torch
from config.schema import System
from engine.device import resolve
if {told}:
    resolve(System(device="cpu"), planned_steps=1)
def large():  # 64 MB, as the activations of a batch
    torch.ones(16 << 20)
for _ in range(3):
    large()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    large()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(told: bool) -> int:
    command = [sys.executable, "-c", FAULTS.format(told=told)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_on_a_cpu_freed_memory_is_used_again() -> None:
    by_default = page_faults(told=False)
    if by_default < 10_000:
        pytest.skip("this C library keeps freed memory by itself")
    assert page_faults(told=True) < by_default / 100


def test_determinism_is_prepared_before_the_gpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert configure_cublas(deterministic=False) == []
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert configure_cublas(deterministic=True) == []
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # no GPU is needed to ask
    ((code, message),) = configure_cublas(deterministic=True)
    assert code == "determinism_too_late"
    assert "restart Python" in message
