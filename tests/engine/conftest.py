"""What the tests of whole runs share."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config import Config, ConfigManager
from engine.cli import DEMO_OVERRIDES

ROOT = Path(__file__).parents[2]


def query(folder: Path, text: str) -> list[tuple[Any, ...]]:
    """From the database of the runs in `folder`; empty as long as it has no tables."""
    path = folder / "output" / "pneumoscope.db"
    if not path.exists():
        return []
    database = sqlite3.connect(path, timeout=10)
    try:
        return database.execute(text).fetchall()
    except sqlite3.OperationalError:
        return []  # not made yet, or killed before they were
    finally:
        database.close()


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the disk of `folder` up to `leave` bytes; the file to remove."""
    filler = folder / "filler"
    block = b"\0" * 65536
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(block)
    os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler


@dataclass(frozen=True)
class DemoRun:
    """A finished run on the demo's images, with a test part."""

    folder: Path
    config: Config
    dataset: Path
    results: dict[str, Any]

    @property
    def bundle(self) -> Path:
        return Path(self.results["best_model_path"])


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """Trained once for all tests of what a model is used for; about 25 seconds."""
    from engine import CentralizedTrainer
    from engine.data.phantoms import write_demo_dataset

    folder = tmp_path_factory.mktemp("demo")
    output = {
        f"output.{key}": str(folder / key)
        for key in ("checkpoint_dir", "log_dir", "results_dir", "cache_dir")
    }
    overrides = {
        **DEMO_OVERRIDES,
        "system.test_split": 0.15,
        "system.precision": "fp32",
        "output.database": str(folder / "pneumoscope.db"),
        **output,
    }
    config = ConfigManager.load(overrides=overrides, environ={})
    dataset = write_demo_dataset(folder / "phantoms.zip")
    results = CentralizedTrainer(config=config, run_name="demo").train(dataset)
    return DemoRun(folder, config, dataset, results)
