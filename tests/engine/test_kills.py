"""SIGKILL at seeded moments, resume, and the same weights, rows and result in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.data.phantoms import write_demo_dataset
from engine.records import checkpoint

from .conftest import ROOT, query

SMALL = [
    *("--epochs", "3"),
    *("--set", "model.backbone=resnet18"),
    *("--set", "model.weights=none"),
    *("--set", "data.image_size=32"),
    *("--set", "system.batch_size=16"),
    *("--set", "system.precision=fp32"),
    *("--set", "experiment.checkpoint_minutes=0"),  # a snapshot after every step
    *("--set", "output.keep_snapshots=true"),
]
# A kill between the taking of a number and the run's row leaves the number taken.
OWN = {"training_time", "epoch_seconds", "best_model_path", "run_id", "run_uid", "conclusion"}


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Resume the run, or begin it where there is none yet."""
    begun = query(folder, "SELECT run_id FROM run")
    what = (
        ["--resume", str(begun[0][0])]
        if begun
        else ["--dataset", str(folder / "images.zip"), *SMALL]
    )
    with (folder / "stderr.txt").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "engine.train", *what],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def moments(folder: Path) -> dict[str, tuple[Callable[[], bool], float]]:
    """What to wait for before the kill, and how many seconds it comes later at most."""
    output = folder / "output"
    found = {
        "start": lambda: True,
        "preparation": lambda: any(output.glob("cache/*.partial")),
        "step": lambda: any(output.glob("checkpoints/run_*/last.pt")),
        "commit": lambda: (output / "pneumoscope.db-wal").exists(),
        "epoch": lambda: any(output.glob("results/metrics_*.csv")),
    }
    return {
        **{name: (reached, 1.5) for name, reached in found.items()},
        "snapshot": (lambda: any(output.glob("checkpoints/run_*/.*.tmp")), 0.0),
        # As long as its write takes: it is killed before, in and after the rename.
        "bundle": (lambda: any(output.glob("checkpoints/run_*/*.best_*.tmp")), 0.2),
    }


def end_state(folder: Path) -> dict[str, Any]:
    """Everything about a run that must not depend on kills."""
    output = folder / "output"
    ((run_id,),) = query(folder, "SELECT run_id FROM run")
    last = checkpoint.load(output / f"checkpoints/run_{run_id}/last.pt")
    best = checkpoint.load(output / f"checkpoints/run_{run_id}/best_model.pt")
    result = json.loads((output / f"results/result_{run_id}.json").read_text())
    assert best["epoch"] == result["best_epoch"]
    columns = "epoch, train_loss, val_loss, train_accuracy, val_recall, val_auroc, learning_rate"
    logged = "SELECT json_extract(payload, '$.epoch') FROM event WHERE event = '{}' ORDER BY 1"
    return {
        "last": checkpoint.checksum(last["learner"]["model"]),
        "optimizer": checkpoint.checksum(last["learner"]["optimizer"]),
        "best": checkpoint.checksum(best["weights"]),
        "result": {key: value for key, value in result.items() if key not in OWN},
        "scores": (output / f"results/scores_{run_id}.csv").read_text(),
        "rows": query(folder, f"SELECT {columns} FROM run_metrics ORDER BY epoch"),
        "logged": query(folder, logged.format("training_metrics_update")),
        "status": query(folder, "SELECT status, best_epoch, total_epochs_run FROM run"),
        "ends": query(folder, "SELECT count(*) FROM event WHERE event = 'training_complete'"),
    }


def fresh(folder: Path) -> Path:
    folder.mkdir()
    write_demo_dataset(folder / "images.zip", images=60, patients=30, size=48, seed=3)
    return folder


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("kills", "only"),
    [
        (8, None),
        pytest.param(50, None, marks=pytest.mark.long),
        pytest.param(20, "bundle", marks=pytest.mark.long),
    ],
)
def test_killed_runs_end_as_if_nothing_had_happened(
    tmp_path: Path, kills: int, only: str | None
) -> None:
    undisturbed = fresh(tmp_path / "undisturbed")
    assert start(undisturbed).wait(timeout=120) == 0
    expected = end_state(undisturbed)
    assert expected["logged"] == [(1,), (2,), (3,)]

    rng = random.Random(42)
    done, round_number = 0, 0
    struck: dict[str, int] = {}
    while done < kills:
        folder = fresh(tmp_path / f"killed{round_number}")
        round_number += 1
        completed = False
        while not completed:
            process = start(folder)
            if done < kills:
                known = moments(folder)
                kind = only or rng.choice(list(known))
                reached, latest = known[kind]
                delay = rng.uniform(0, latest)
                while process.poll() is None and not reached():
                    time.sleep(0.001)
                strike_at = time.monotonic() + delay
                while process.poll() is None and time.monotonic() < strike_at:
                    time.sleep(0.001)
                if process.poll() is None:
                    process.kill()
                    done += 1
                    struck[kind] = struck.get(kind, 0) + 1
            completed = process.wait(timeout=120) == 0
            if process.returncode > 0:
                pytest.fail((folder / "stderr.txt").read_text())
            if query(folder, "SELECT 1 FROM run"):
                assert query(folder, "PRAGMA integrity_check") == [("ok",)]
        assert end_state(folder) == expected, struck
        shutil.rmtree(folder)  # two hundred megabytes of snapshots
    print(f"kills survived: {done} of {done}, at {struck}")
