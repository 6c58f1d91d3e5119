"""Keep a benchmark's figures with what they were measured on."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision

from engine.device import describe

RESULTS = Path(__file__).parents[1] / "results"


def write_result(name: str, settings: dict[str, Any], figures: dict[str, Any]) -> Path:
    """`results/NAME.json`, or `NAME_cuda.json` where there is a GPU: neither hides the other."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document = {
        "benchmark": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": describe(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "settings": settings,
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = result_path(name)
    path.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def result_path(name: str) -> Path:
    """Where `write_result` writes; on a GPU another file than on a CPU."""
    return RESULTS / (f"{name}_cuda.json" if torch.cuda.is_available() else f"{name}.json")


def commit() -> str | None:
    """The commit measured, with a plus where the tree was changed; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=RESULTS.parent
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
