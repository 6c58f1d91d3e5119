"""Checkpoints: written whole or not at all, verified when read, free of executable content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from config import UserError
from config.errors import first_line
from engine.files import sync_folder

FORMAT = 2


def save(state: dict[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write `state` with its checksum: temporary file, fsync, rename, fsync of the folder.

    Where `keep` is given, the file that stood at `path` is there until the new one is whole.
    Raises OSError (a full disk, say); `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({**state, "format": FORMAT, "checksum": checksum(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read and verify a checkpoint; tensors come on the CPU. Raises UserError, naming the file."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(
            f"checkpoint {path} cannot be loaded safely: {first_line(error)}"
        ) from error
    if not isinstance(state, dict) or "checksum" not in state:
        raise UserError(f"{path} is not a Pneumoscope checkpoint")
    if state.pop("format", None) != FORMAT:
        raise UserError(f"checkpoint {path} was written by another version of Pneumoscope")
    if state.pop("checksum") != checksum(state):
        raise UserError(f"checkpoint {path} is damaged: its checksum does not match its content")
    return state


def load_last(folder: Path) -> dict[str, Any]:
    """The newest whole checkpoint of a run: `last.pt`, or the one before it where that is bad."""
    last, previous = folder / "last.pt", folder / "previous.pt"
    try:
        return load(last)
    except UserError:
        if not previous.exists():
            raise
        return load(previous)


def checksum(state: Any) -> str:
    """SHA-256 over every key, number and tensor of a nested state, in order."""
    digest = hashlib.sha256()
    _feed(digest.update, state)
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


def to_host(value: Any) -> Any:
    """A copy of a nested state with its tensors on the CPU, safe from later steps."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(item) for item in value)
    return value


class CheckpointWriter:
    """Writes off the critical path: one thread, one write at a time, in the order given."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """What is being written comes to its end; what fails there does not hide another error."""
        with contextlib.suppress(Exception):
            self.wait()

    def submit(self, write: Callable[[], None]) -> None:
        """Run `write` in the background, after what was submitted before. Raises its error."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until everything is on the disk. Raises what a write raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error


def _feed(update: Callable[[Any], None], value: Any) -> None:
    if isinstance(value, torch.Tensor):
        update(f"tensor {value.dtype} {list(value.shape)}".encode())
        if value.numel():
            update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for key, item in value.items():
            update(f"key {key!r}".encode())
            _feed(update, item)
    elif isinstance(value, list | tuple):
        update(f"list {len(value)}".encode())
        for item in value:
            _feed(update, item)
    else:
        update(json.dumps(value).encode())
