"""The model as torch.compile makes it, tried before the training depends on it."""

from __future__ import annotations

import torch
from torch import nn

from config.errors import first_line
from engine.device import Runtime
from engine.training.loop import Forward


class CannotCompile(RuntimeError):
    """torch.compile failed here; the message is the reason in one line."""


def compile_model(model: nn.Module, shape: tuple[int, int, int, int], runtime: Runtime) -> Forward:
    """`model`, compiled for inputs of `shape` [B, 3, S, S]; weights, state and mode are shared.

    One training step on zeros compiles both directions; nothing of it remains. Every other shape
    is compiled when it comes (`dynamic=False`: a graph for any shape would depend on which shape
    came first, and a resumed run would then differ from one that was never stopped). Raises
    CannotCompile, where there is no C compiler or no Triton, say.
    """
    compiled: Forward = torch.compile(model, dynamic=False)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    zeros = torch.zeros(shape, device=runtime.device).contiguous(
        memory_format=runtime.memory_format
    )
    gpus = [runtime.device] if runtime.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus):
            with runtime.autocast():
                logits = compiled(zeros)
            logits.float().sum().backward()
    except torch.OutOfMemoryError:
        raise  # the training would have met it, too
    except Exception as error:  # each of the compilers below torch has its own
        raise CannotCompile(f"{type(error).__name__}: {first_line(error)}") from error
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        model.zero_grad(set_to_none=True)
    return compiled
