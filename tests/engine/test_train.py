"""The command, as its user meets it: real processes, real signals."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from config.schema import RULES
from engine.data.phantoms import write_demo_dataset
from engine.records import checkpoint

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--set", "model.backbone=resnet18"),
    *("--set", "model.weights=none"),
    *("--set", "data.image_size=32"),
    *("--set", "system.batch_size=16"),
    *("--set", "system.num_workers=0"),
    *("--set", "experiment.early_stopping_patience=1000"),  # only a signal ends it
]


def command(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "engine.train", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}


def run(arguments: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def start(arguments: Sequence[str | Path], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def query(folder: Path, text: str) -> list[tuple[object, ...]]:
    database = sqlite3.connect(folder / "output" / "pneumoscope.db", timeout=10)
    try:
        return database.execute(text).fetchall()
    finally:
        database.close()


def epochs_recorded(folder: Path) -> int:
    return len(query(folder, "SELECT 1 FROM run_metrics"))


def wait_for_epoch(process: subprocess.Popen[str], folder: Path, before: int = 0) -> None:
    """Until the database has more than `before` rows of epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if (folder / "output" / "pneumoscope.db").exists():
            try:
                if epochs_recorded(folder) > before:
                    return
            except sqlite3.OperationalError:
                pass  # the tables are being made
        time.sleep(0.05)
    pytest.fail("no epoch in two minutes")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_demo_dataset(tmp_path / "images.zip", images=60, patients=30, size=48, seed=3)


def test_a_zip_in_one_command(dataset: Path, tmp_path: Path) -> None:
    done = run(["--dataset", dataset, "--run-name", "one", "--epochs", "1", *SMALL], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recall" in done.stdout
    assert "\r" not in done.stdout  # no progress bar where nobody watches
    assert query(tmp_path, "SELECT run_name, status FROM run") == [("one", "completed")]
    assert (tmp_path / "output/checkpoints/run_1/best_model.pt").exists()


def test_help_shows_every_key_with_its_meaning(tmp_path: Path) -> None:
    shown = run(["--help"], tmp_path).stdout
    for key, rule in RULES.items():
        assert key in shown
        assert rule.meaning in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "experiment.epoch=3"], "experiment.epochs"),
        (["--set", "experiment.epochs=-1"], "experiment.epochs"),
        (["--set", "epochs"], "KEY=VALUE"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    dataset: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = run(["--dataset", dataset, *arguments], tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "output").exists()


def test_bad_data_is_a_mistake_and_leaves_no_run(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("readme.txt", "no images")
    done = run(["--dataset", tmp_path / "bad.zip", *SMALL], tmp_path)
    assert done.returncode == 2
    assert "bad.zip" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "output" / "pneumoscope.db").exists()


def test_weights_that_are_not_available_are_a_mistake_and_leave_no_run(
    dataset: Path, tmp_path: Path
) -> None:
    nowhere = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path / "torch")}
    done = subprocess.run(
        command(["--dataset", dataset, "--set", "data.image_size=32"]),
        cwd=tmp_path,
        env={**environment(), **nowhere},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    shown = done.stderr.splitlines()[-1]
    assert shown.startswith("error: the ImageNet weights of resnet50")
    assert "model.weights=none" in shown
    assert "model.weights=PATH" in shown
    assert "failed" not in done.stdout
    assert not (tmp_path / "output" / "pneumoscope.db").exists()


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGHUP, signal.SIGQUIT)]
)
def test_a_signal_saves_and_the_run_is_resumed(
    dataset: Path, tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    process = start(["--dataset", dataset, "--epochs", "300", *SMALL], tmp_path)
    wait_for_epoch(process, tmp_path)
    if first == signal.SIGHUP:
        process.send_signal(first)  # a closing terminal sends one, and its shell another
    stop(process, first)
    assert ending(tmp_path) == ("stopped", "training_stopped")
    before = epochs_recorded(tmp_path)
    began = query(tmp_path, "SELECT started_at FROM run")

    resumed = start(["--resume", "1"], tmp_path)
    wait_for_epoch(resumed, tmp_path, before)
    stop(resumed, second)
    assert ending(tmp_path) == ("stopped", "training_stopped")
    epochs = [row[0] for row in query(tmp_path, "SELECT epoch FROM run_metrics ORDER BY epoch")]
    assert epochs == list(range(1, len(epochs) + 1))
    assert query(tmp_path, "SELECT started_at FROM run") == began


def stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert "Traceback" not in output


def ending(folder: Path) -> tuple[object, object]:
    """The status of the run and the last event of the log."""
    last = "SELECT event FROM event ORDER BY event_id DESC LIMIT 1"
    return query(folder, "SELECT status FROM run")[0][0], query(folder, last)[0][0]


def test_a_killed_run_leaves_a_readable_database_and_a_loadable_checkpoint(
    dataset: Path, tmp_path: Path
) -> None:
    process = start(["--dataset", dataset, "--epochs", "300", *SMALL], tmp_path)
    wait_for_epoch(process, tmp_path)
    process.kill()
    process.communicate()
    assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    folder = tmp_path / "output" / "checkpoints" / "run_1"
    found = [checkpoint.load(path) for path in folder.glob("[lp]*.pt")]  # last, previous
    assert max(state["state"]["epoch"] for state in found) >= 1


def test_the_demo_learns_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(["--demo"], tmp_path)
    assert done.returncode == 0, done.stderr
    recall, specificity = query(
        tmp_path,
        "SELECT val_recall, val_specificity FROM run JOIN run_metrics USING (run_id) "
        "WHERE epoch = best_epoch",
    )[0]
    assert isinstance(recall, float)
    assert isinstance(specificity, float)
    assert recall >= 0.9
    assert specificity >= 0.8
    assert time.monotonic() - began < 180  # the demo's own bar is 90 s on an idle machine


def test_a_stopped_demo_is_resumed(tmp_path: Path) -> None:
    process = start(["--demo", "--epochs", "300"], tmp_path)
    wait_for_epoch(process, tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    before = epochs_recorded(tmp_path)
    resumed = start(["--resume", "1"], tmp_path)
    wait_for_epoch(resumed, tmp_path, before)
    resumed.send_signal(signal.SIGINT)
    output, _ = resumed.communicate(timeout=180)
    assert resumed.returncode == 0, output
