"""The file format of snapshots and bundles: complete or absent, verified, free of code."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from config import UserError
from config.errors import first_line
from engine.files import replacing

FORMAT = 2
TEMPORARY = ".*.tmp"  # what a killed process leaves: a glob pattern


class Damaged(UserError):
    """The file is there, and its content is not what was written."""


def save(state: dict[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write `state` with format and SHA-256: temporary file, fsync, rename, fsync of the folder.

    Where `keep` is given, the file at `path` is renamed to it once the new one is complete.
    Raises OSError (a full disk, say); `path` is then as it was.
    """
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            _write({**state, "format": FORMAT, "sha256": checksum(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)


def load(path: Path) -> dict[str, Any]:
    """Read and verify a file of this format or format 1; `format` says which. Tensors on the CPU.

    Raises UserError, naming the file; Damaged where its content is not what was written.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise Damaged(
            f"{path} cannot be loaded safely; it is damaged or was not written by Pneumoscope "
            f"({first_line(error)})"
        ) from error
    if not isinstance(state, dict) or not {"sha256", "checksum"} & set(state):
        raise UserError(f"{path} was not written by Pneumoscope")
    number = state.pop("format", None)
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise UserError(
            f"{path} has format {number}, and this version of Pneumoscope reads formats 1 to "
            f"{FORMAT}; use the version that wrote it, or a newer one"
        )
    if state.pop("checksum" if number == 1 else "sha256", None) != checksum(state):
        raise Damaged(f"{path} is damaged: its checksum does not match its content")
    return {**state, "format": number}


def checksum(state: Any) -> str:
    """SHA-256 over every key, number and tensor of a nested state, in order."""
    digest = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"tensor {value.dtype} {list(value.shape)}".encode())
            if value.numel():
                flat = value.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            for key, item in value.items():
                digest.update(f"key {key!r}".encode())
                feed(item)
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)}".encode())
            for item in value:
                feed(item)
        else:
            digest.update(json.dumps(value).encode())

    feed(state)
    return digest.hexdigest()


def random_state(device: torch.device) -> dict[str, Any]:
    """Every global random generator, as plain numbers and tensors."""
    numpy_name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [numpy_name, [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


class Staged:
    """A copy of a nested state on the host, safe from later steps; making it waits for nothing.

    From a CUDA device every tensor is copied once, into page-locked memory, in the order of the
    device's work; `state` waits for the copies, on the thread that asks for them.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._copied: torch.cuda.Event | None = None
        self._state: dict[str, Any] = _to_host(state, {})
        device = next((tensor.device for tensor in _tensors(state) if tensor.is_cuda), None)
        if device is not None:  # a run has one
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))

    def state(self) -> dict[str, Any]:
        """The copy, once it is complete."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._state


def _to_host(value: Any, copies: dict[int, torch.Tensor]) -> Any:
    """`copies` has what was copied already: the bundle and the snapshot share the weights."""
    if isinstance(value, torch.Tensor):
        if id(value) not in copies:
            copies[id(value)] = _host_copy(value.detach())
        return copies[id(value)]
    if isinstance(value, dict):
        return {key: _to_host(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_host(item, copies) for item in value)
    return value


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor.to("cpu", copy=True)
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, with the OSError that it turns into a RuntimeError."""
    troubles: list[OSError] = []

    class Output:
        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:
                troubles.append(error)
                raise

        def flush(self) -> None:
            file.flush()

    try:
        torch.save(state, Output())  # type: ignore[arg-type]
    except RuntimeError:
        if troubles:
            raise troubles[0] from None
        raise
