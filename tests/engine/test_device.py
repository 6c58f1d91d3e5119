"""Where the arithmetic runs, and how the process is set up for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from config.schema import System
from engine.device import configure_cublas, resolve

ROOT = Path(__file__).parents[2]
FAULTS = """
import resource, torch
from config.schema import System
from engine.device import resolve
if {resolved}:
    resolve(System(device="cpu"))
def large():  # 64 MB, as the activations of a batch
    torch.ones(16 << 20)
for _ in range(10):  # the heap's layout settles
    large()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    large()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(resolved: bool) -> int:
    command = [sys.executable, "-c", FAULTS.format(resolved=resolved)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_on_a_cpu_freed_memory_is_used_again() -> None:
    by_default = page_faults(resolved=False)
    if by_default < 10_000:
        pytest.skip("this C library keeps freed memory by itself")
    # Small blocks between large ones may make the heap grow once or twice more.
    assert page_faults(resolved=True) < by_default / 2


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


def test_a_named_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and events are those of the current device."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    found = []
    try:
        for precision in ("fp32", "bf16"):
            resolve(System(device="cuda:1", precision=precision))
            found.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        resolve(System(device="cpu"))
    assert current == [torch.device("cuda:1")] * 2
    assert found == [("highest", False), ("high", True)]  # TF32 beside bf16 only


@pytest.mark.gpu
def test_fp32_is_fp32_on_a_gpu() -> None:
    runtime = resolve(System(device="cuda", precision="fp32"))
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn((512, 512), generator=generator) for _ in range(2))
    found = first.to(runtime.device) @ second.to(runtime.device)
    expected = first.double() @ second.double()
    assert (found.cpu() - expected).abs().max() < 1e-3  # TF32: about 0.05


def test_a_gpu_is_compiled_for_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.device._device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr("engine.device._set_flags", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    system = System(precision="bf16")
    assert not resolve(system, 49_999).compile
    assert resolve(system, 50_000).compile
    assert not resolve(system, 50_000, freezes=True).compile
    assert resolve(System(precision="bf16", compile="on"), 1).compile
    assert not resolve(System(precision="bf16", compile="off"), 50_000).compile
