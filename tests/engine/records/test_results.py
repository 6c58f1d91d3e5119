"""Folders that can be written, and reports that are not taken for a run's."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config import ConfigManager
from config.schema import Output
from engine.records.figures import figures_so_far
from engine.records.results import check_writable, sweep, write_dataset_report


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Output:
    monkeypatch.chdir(tmp_path)
    return ConfigManager.load(environ={}).output


def test_runs_that_start_together_do_not_find_folders_unwritable(output: Output) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: check_writable(output), range(400)))
    assert [path for path in Path("output").rglob("*") if path.is_file()] == []


def test_the_report_of_a_data_set_is_no_run_s_whatever_its_name(output: Output) -> None:
    for name in ("1", "../../x", "ünïcode " * 50):
        write_dataset_report(output, name, {"images": 1})
    found = sorted(path.name for path in Path("output", "results").iterdir())
    assert found[0] == "validation_dataset_.._.._x.json"
    assert found[1] == "validation_dataset_1.json"
    assert len(found) == 3
    for path in Path("output", "results").iterdir():
        assert json.loads(path.read_text()) == {"images": 1}


def test_a_run_that_was_killed_has_the_figures_of_its_recorded_epochs() -> None:
    figures = {f"val_{k}": 0.5 for k in ("accuracy", "precision", "recall", "f1", "auroc")}
    rows = [
        {"epoch": n, "epoch_seconds": 2.0, "val_specificity": n / 10, **figures} for n in (1, 2, 3)
    ]
    found = figures_so_far(rows, 2, "best_model.pt")
    assert found["total_epochs_run"] == 3
    assert found["training_time"] == 6.0
    assert (found["best_epoch"], found["best_model_path"]) == (2, "best_model.pt")
    assert found["metrics"]["best_specificity"] == 0.2
    nothing = figures_so_far([], None, None)
    assert (nothing["total_epochs_run"], nothing["metrics"]["best_recall"]) == (0, None)


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    output = Output(results_dir=str(tmp_path))
    for name in (".scores_3.csv.123.tmp", ".metrics_3.json.9.tmp", ".scores_13.csv.123.tmp"):
        (tmp_path / name).touch()
    sweep(output, 3)
    assert [path.name for path in tmp_path.iterdir()] == [".scores_13.csv.123.tmp"]
