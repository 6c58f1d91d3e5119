"""What a run was made of: enough to run it again and to say what differs."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from config import Config
from engine.device import Runtime, describe
from engine.files import visible
from engine.model.weights import origin

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydicom")
CODE = ("config", "engine")  # the packages whose code decides the figures


def build_manifest(
    config: Config,
    dataset: Path,
    fingerprint: str,
    runtime: Runtime,
    chosen: dict[str, Any],
) -> dict[str, Any]:
    """JSON-able; `chosen` is what the `auto` settings of the loaders came to.

    Raises UserError where a file of initial weights cannot be read.
    """
    return {
        "command": [visible(word) for word in sys.argv],
        "config": config.to_dict(),
        "dataset": {"path": str(dataset), "fingerprint": fingerprint},
        "weights": origin(config.model.weights, config.model.backbone),  # to begin with
        "code": code_version(),
        "packages": package_versions(),
        "hardware": {
            "device": describe(runtime.device),
            "precision": runtime.precision,
            "compile": runtime.compile,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.platform(),
            **chosen,
        },
        "seeds": {"system.seed": config.system.seed},
    }


def package_versions() -> dict[str, str | None]:
    """Python's and the packages' versions; None for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def code_version() -> dict[str, str]:
    """The package's version, and a hash of its source: an edited checkout has another one."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in CODE:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    try:
        version = metadata.version("pneumoscope")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return {"version": version, "source": digest.hexdigest()[:16]}
