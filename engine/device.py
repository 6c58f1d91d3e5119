"""Where and how the arithmetic runs: device, precision, memory format, determinism, compile."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from config import UserError
from config.schema import System

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
COMPILE_PAYS_AFTER = 50_000  # steps; compiling takes minutes, a step gains some ten percent


@dataclass(frozen=True)
class Runtime:
    """The resolved answers to every `auto` of the system section that concern the step."""

    device: torch.device
    autocast_dtype: torch.dtype  # float32 means autocast is off
    memory_format: torch.memory_format
    compile: bool
    pin_memory: bool

    @property
    def non_blocking(self) -> bool:
        """Whether copies to the device may be left to it: elsewhere they are not ordered."""
        return self.device.type == "cuda"

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""
        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names[self.autocast_dtype]

    def autocast(self) -> AbstractContextManager[None]:
        """One AMP path: the same context whether it is on or off."""
        return torch.autocast(
            self.device.type,
            dtype=self.autocast_dtype if self.autocast_dtype != torch.float32 else None,
            enabled=self.autocast_dtype != torch.float32,
        )

    def scaler(self) -> torch.amp.GradScaler:
        """fp16 only: bf16 has the range of fp32."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype == torch.float16)


def resolve(system: System, planned_steps: int = 0, freezes: bool = False) -> Runtime:
    """Choose for this machine, and set the process up for it.

    Raises UserError for a device or precision it does not have. `freezes`: the layers that are
    trained change from epoch to epoch, and each change would be another graph to compile.
    """
    device = _device(system.device)
    _set_flags(device, system)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and events are those of the current device
    pays = device.type == "cuda" and planned_steps >= COMPILE_PAYS_AFTER and not freezes
    return Runtime(
        device=device,
        autocast_dtype=_autocast_dtype(system.precision, device),
        memory_format=torch.channels_last,
        compile=system.compile == "on" or (system.compile == "auto" and pays),
        pin_memory=device.type == "cuda"
        if system.pin_memory == "auto"
        else bool(system.pin_memory),
    )


def describe(device: torch.device) -> str:
    """A person's name for the device, for logs and for comparing runs."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"{device.type} ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(
                f"system.device: {name} is not here ({count} CUDA devices found); use auto or cpu"
            )
        if device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("system.device: mps is not available on this machine; use auto or cpu")
    return device


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        if dtype == torch.float16 and device.type == "cpu":
            raise UserError("system.precision: fp16 needs a GPU; use bf16, fp32 or auto")
        return dtype
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    # Without the instructions, bf16 on a CPU is emulated and slower than fp32.
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _set_flags(device: torch.device, system: System) -> None:
    torch.use_deterministic_algorithms(system.deterministic)
    torch.backends.cudnn.benchmark = not system.deterministic
    if system.deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first cuBLAS call
    if device.type == "cuda":
        # fp32 is fp32; beside bf16 or fp16, TF32 is precise enough for what is left in fp32.
        tf32 = system.precision != "fp32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
    if device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let malloc use large freed blocks again, where the C library is glibc.

    By default it returns a large tensor's memory to the system, and the next one of that size
    comes back as zeroed pages, one fault each: at 224 px a third of a training step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never
    mallopt(M_TOP_PAD, 64 << 20)  # bytes by which the heap grows at least


def configure_cublas(deterministic: bool) -> list[tuple[str, str]]:
    """Make cuBLAS deterministic where wanted; a remark (code, message) where it is too late.

    cuBLAS reads the environment at its first use in a process.
    """
    if not deterministic or "CUBLAS_WORKSPACE_CONFIG" in os.environ:
        return []
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if not torch.cuda.is_initialized():
        return []
    message = (
        "system.deterministic: this process used the GPU before, so cuBLAS may not be "
        "deterministic, or may refuse to work; restart Python, or set "
        "CUBLAS_WORKSPACE_CONFIG=:4096:8 before it is started"
    )
    return [("determinism_too_late", message)]
