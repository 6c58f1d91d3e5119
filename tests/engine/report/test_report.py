"""The report of a run: written when training ends and by `python -m engine.report`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from config import UserError
from engine.metrics.intervals import wilson_interval
from engine.report.__main__ import main
from engine.report.facts import read_scores
from engine.report.flow import flow_diagram
from engine.report.limitations import images_needed
from engine.report.study import read_study

from ..conftest import DemoRun

MEGABYTE = 1_000_000


def written(demo_run: DemoRun) -> str:
    (path,) = demo_run.folder.rglob("report_*.html")
    assert path.stat().st_size < 3 * MEGABYTE
    return path.read_text(encoding="utf-8")


def again(demo_run: DemoRun, *more: str) -> str:
    database = f"output.database={demo_run.config.output.database}"
    assert main([str(demo_run.results["run_id"]), "--set", database, *more]) == 0
    return written(demo_run)


def test_training_leaves_a_report_that_asks_no_host(demo_run: DemoRun) -> None:
    text = written(demo_run)
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|@import|url\(", text)
    assert re.search(r"the model finds \d+ of \d+ images with the disease", text)
    assert "These images chose nothing" in text
    assert "0 patients and 0 identical images in two parts" in text
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    assert len(anchors) == 13
    assert anchors <= set(re.findall(r'id="([^"]+)"', text))
    card = (demo_run.bundle.parent / "model_card.md").read_text(encoding="utf-8")
    assert "There is no external testing" in card
    assert "| specificity |" in card


def test_the_command_writes_the_same_report(demo_run: DemoRun) -> None:
    assert again(demo_run) == written(demo_run)


def test_mistakes_have_images_and_maps_beside_their_check(demo_run: DemoRun) -> None:
    (path,) = demo_run.folder.rglob("scores_test_*.csv")
    before = path.read_text()
    head, *rows = before.splitlines()
    name, label, _ = rows[0].split(",")
    try:
        path.write_text("\n".join([head, f"{name},{label},{1 - int(label)}.0", *rows[1:]]) + "\n")
        shown = again(demo_run)
        hidden = again(demo_run, "--set", "report.images=false")
    finally:
        path.write_text(before)
    assert 'src="data:image/jpeg;base64,' in shown
    assert "their correlation with the maps of random weights is" in shown
    assert "<img" not in hidden
    assert "report.images is false" in hidden
    assert name in hidden


def test_study_yaml_fills_what_only_a_person_knows(demo_run: DemoRun, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("intended_use: <b>teaching</b>\nannotators: [A, B]\nprevalence: 0.05\n")
    text = again(demo_run, "--study", str(study))
    assert "&lt;b&gt;teaching&lt;/b&gt;" in text
    assert "A; B" in text
    assert "where 5.0 % are ill" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("intended_usage: x", "did you mean intended_use"),
        ("prevalence: 5", "above 0 and below 1"),
        ("- a", "keys with texts"),
        ("a: [", "not YAML"),
        ("ethics: {a: b}", "ethics must be a text"),
    ],
)
def test_mistakes_in_study_yaml_are_said(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        read_study(path)


def test_a_run_without_a_model_or_a_number_is_said(demo_run: DemoRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="by its number"):
        main(["baseline"])
    with pytest.raises(UserError, match="there is no run 99"):
        main(["99", "--set", f"output.database={demo_run.config.output.database}"])
    with pytest.raises(UserError, match="there is no database"):
        main(["1", "--set", f"output.database={tmp_path / 'none.db'}"])


def test_the_flow_adds_up() -> None:
    drawn = flow_diagram(
        {
            "images": 90,
            "missing_images": 7,
            "unreadable_images": 3,
            "counts": {"train": {"N": 50, "P": 20}, "val": {"N": 15, "P": 5}, "test": {}},
            "patients": {"train": 60, "val": 20, "test": 0},
            "patient_ids": True,
            "label_names": ["N", "P"],
        }
    )
    texts = re.findall(r">([^<]+)</text>", drawn)
    assert texts[0] == "100 images in the data set"
    assert "90 images used" in texts
    assert "train: 70 images" in texts
    assert not any(text.startswith("test") for text in texts)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_the_wanted_number_of_images_gives_the_width(share: float) -> None:
    count = images_needed(share, 0.1)
    low, high = wilson_interval(share * count, count)
    assert high - low == pytest.approx(0.1, abs=0.003)


def test_scores_keep_their_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("filename,label,score,view\na.png,1,0.75,PA\nb.png,0,0.25,\n")
    part = read_scores(path, "val")
    assert part is not None
    assert part.columns == {"view": ["PA", ""]}
    assert np.array_equal(part.scores, [0.75, 0.25])
    path.write_text("filename,label,score\na.png,ill,0.75\n")
    with pytest.raises(UserError, match="cannot be read as a table of scores"):
        read_scores(path, "val")
