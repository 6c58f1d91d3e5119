"""Several processes under torchrun train as one would; a lost process costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.data.dataset import EpochBatches
from engine.data.phantoms import write_demo_dataset
from engine.distributed import Processes, stream_seed
from engine.records import checkpoint
from engine.trainer import CentralizedTrainer

from .conftest import ROOT, query
from .test_faults import SMALL, epochs, in_folder, wait_until

# BatchNorm's statistics are of each process's images: with a frozen backbone all agree.
FROZEN = {"model.freeze_epochs": 99, "experiment.dropout_rate": 0.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return write_demo_dataset(folder / "images.zip", images=90, patients=45, size=48, seed=3)


def launch(
    folder: Path, processes: int, words: list[str], restarts: int = 0, **settings: Any
) -> subprocess.Popen[str]:
    chosen = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
    sets = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    torchrun += [f"--max-restarts={restarts}", "-m", "engine.train"]
    return subprocess.Popen(
        [sys.executable, *torchrun, *words, *sets],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return sorted(map(int, text.split()))


def figures(folder: Path) -> list[tuple[float, ...]]:
    names = "epoch, train_loss, train_accuracy, val_loss, val_auroc, val_recall"
    return query(folder, f"SELECT {names} FROM run_metrics ORDER BY epoch")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    best = folder / "output" / "checkpoints" / "run_1" / "best_model.pt"
    found: dict[str, torch.Tensor] = checkpoint.load(best)["weights"]
    return found


def test_two_processes_of_which_one_is_killed_and_then_three_train_as_one_does(
    dataset: Path, tmp_path: Path
) -> None:
    alone, several = tmp_path / "alone", tmp_path / "several"
    several.mkdir()
    settings = {key.replace(".", "__"): value for key, value in FROZEN.items()}
    config = in_folder(alone, experiment__epochs=5, system__test_split=0.2, **settings)
    CentralizedTrainer(config, "images").train(dataset)

    words = ["--dataset", str(dataset), "--epochs", "5", "--set", "system.test_split=0.2"]
    process = launch(several, 2, words, **settings)
    wait_until(lambda: len(epochs_if_any(several)) >= 2, seconds=150)
    os.kill(max(children(process.pid)), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "2 processes, 16 images a step together" in output
    assert query(several, "SELECT status FROM run") == [("interrupted",)]
    ((reason,),) = query(
        several,
        "SELECT json_extract(payload, '$.reason') FROM event WHERE event = 'training_interrupted'",
    )
    assert "another process of it is gone" in reason

    process = launch(several, 3, ["--resume", "1"])
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "resumed after epoch" in output
    assert query(several, "SELECT run_id, status FROM run") == [(1, "completed")]
    assert np.array(figures(several)) == pytest.approx(np.array(figures(alone)), abs=1e-5)
    for name, value in weights(alone).items():
        assert torch.allclose(weights(several)[name], value, atol=1e-4), name


def test_processes_that_do_not_agree_stop_with_both_values(dataset: Path, tmp_path: Path) -> None:
    """And nothing is left that looks like a run which went well."""
    script = """
        import os, sys
        os.environ["PNEUMOSCOPE__system__seed"] = str(40 + int(os.environ["RANK"]))
        from engine.cli import run_command
        from engine.train import main
        run_command(main)
    """
    file = tmp_path / "start.py"
    file.write_text("\n".join(line[8:] for line in script.splitlines()))
    sets = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(file), "--dataset", str(dataset), *sets],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "do not have the same system.seed: 40 in process 0, 41 in process 1" in done.stderr
    assert query(tmp_path, "SELECT status FROM run") == [("failed",)]
    ((payload,),) = query(tmp_path, "SELECT payload FROM event WHERE event = 'training_failed'")
    assert "system.seed" in json.loads(payload)["error"]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("count", "batch"), [(90, 16), (97, 16), (98, 16), (33, 16), (7, 16)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_image_is_in_the_part_of_exactly_one_process(
    count: int, batch: int, processes: int, shuffle: bool
) -> None:
    def batches(rank: int, of: int) -> EpochBatches:
        return EpochBatches(count, batch, 1, shuffle, processes=Processes(rank, of))

    parts = [list(batches(rank, processes)) for rank in range(processes)]
    assert sorted(i for part in parts for own in part for i in own) == list(range(count))
    if shuffle and count >= 2 * processes:
        assert len({len(part) for part in parts}) == 1  # all take the same steps
        assert all(len(own) >= 2 for part in parts for own in part)
        sizes = [sum(map(len, own)) for own in zip(*parts, strict=True)]
        assert sizes == batches(0, processes).sizes()


def test_every_step_of_every_process_has_a_dropout_stream_of_its_own() -> None:
    seeds = {
        stream_seed(42, epoch, step, rank, 3)
        for epoch in range(1, 4)
        for step in range(50)
        for rank in range(3)
    }
    assert len(seeds) == 3 * 50 * 3
    assert stream_seed(42, 1, 2, 0, 3) == stream_seed(42, 1, 2, 0, 3)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_a_process_killed_at_any_moment_costs_nothing(
    dataset: Path, tmp_path: Path, seed: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    words = ["--dataset", str(dataset), "--epochs", "5"]
    process = launch(whole, 2, words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    process = launch(cut, 2, words, restarts=1)
    chance = random.Random(seed)
    after = chance.randrange(4)
    wait_until(lambda: children(process.pid) and len(epochs_if_any(cut)) >= after)
    time.sleep(chance.uniform(0, 2))  # a moment within the epoch, not a wait
    os.kill(chance.choice(children(process.pid)), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert figures(cut) == figures(whole)
    assert checkpoint.checksum(weights(cut)) == checkpoint.checksum(weights(whole))


@pytest.mark.long
def test_a_run_is_continued_by_another_number_of_processes(dataset: Path, tmp_path: Path) -> None:
    alone, changing = tmp_path / "alone", tmp_path / "changing"
    changing.mkdir()
    settings = {key.replace(".", "__"): value for key, value in FROZEN.items()}
    config = in_folder(alone, experiment__epochs=9, **settings)
    CentralizedTrainer(config, "images").train(dataset)
    words = ["--dataset", str(dataset), "--epochs", "9"]
    for processes, until in ((3, 2), (2, 5), (3, 9)):
        process = launch(changing, processes, words, **settings)
        words = ["--resume", "1"]
        settings = {}
        if until < 9:
            wait_until(lambda until=until: len(epochs_if_any(changing)) >= until)  # type: ignore[misc]
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert np.array(figures(changing)) == pytest.approx(np.array(figures(alone)), abs=1e-5)


def epochs_if_any(folder: Path) -> list[int]:
    return epochs(folder) if (folder / "output" / "pneumoscope.db").exists() else []
