"""`python -m engine.evaluate`, as a person runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from config import UserError
from engine.data.phantoms import write_demo_dataset
from engine.evaluate import main

from .conftest import DemoRun


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other phantoms of the same kind."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return write_demo_dataset(folder / "elsewhere.zip", images=120, patients=60, size=80, seed=9)


def run(demo_run: DemoRun, dataset: Path, out: Path, *more: str) -> dict[str, object]:
    cache = f"output.cache_dir={demo_run.config.output.cache_dir}"
    arguments = [str(demo_run.bundle), "--dataset", str(dataset), "--out", str(out)]
    assert main([*arguments, "--set", cache, *more]) == 0
    (written,) = out.rglob("evaluation.json")
    found: dict[str, object] = json.loads(written.read_text())
    return found


def test_it_writes_figures_scores_and_a_page_that_asks_nobody(
    demo_run: DemoRun, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(demo_run, elsewhere, tmp_path, "--prevalence", "0.05")
    assessment = found["assessment"]
    assert isinstance(assessment, dict)
    assert assessment["count"] == 120
    assert assessment["patients"] == 60
    assert assessment["figures"]["auroc"]["value"] > 0.9
    low, high = assessment["figures"]["recall"]["interval"]
    assert low < assessment["figures"]["recall"]["value"] <= high
    (scores,) = tmp_path.rglob("scores.csv")
    assert len(scores.read_text().splitlines()) == 121
    (page,) = tmp_path.rglob("evaluation.html")
    text = page.read_text()
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org)", text)
    assert "where 5.0 % are ill" in text
    printed = capsys.readouterr().out
    assert re.search(r"finds \d+ of \d+ images with the disease", printed)


def test_a_model_against_itself_differs_in_nothing(
    demo_run: DemoRun, elsewhere: Path, tmp_path: Path
) -> None:
    found = run(demo_run, elsewhere, tmp_path, "--against", str(demo_run.bundle))
    comparison = found["comparison"]
    assert isinstance(comparison, dict)
    assert comparison["auroc_difference"] == 0
    assert comparison["p"] == comparison["p_decisions"] == 1.0


def test_swapped_classes_are_suspected(demo_run: DemoRun, elsewhere: Path, tmp_path: Path) -> None:
    import zipfile

    words = {b"NORMAL": b"PNEUMONIA", b"PNEUMONIA": b"NORMAL"}
    swapped = tmp_path / "swapped.zip"
    with zipfile.ZipFile(elsewhere) as given, zipfile.ZipFile(swapped, "w") as made:
        for name in given.namelist():
            data = given.read(name)
            if name == "metadata.csv":
                data = re.sub(rb"NORMAL|PNEUMONIA", lambda m: words[m.group()], data)
            made.writestr(name, data)
    found = run(demo_run, swapped, tmp_path / "out")
    assert any("are the two classes swapped" in text for text in found["warnings"])  # type: ignore[attr-defined]


def test_mistakes_are_said_in_words(demo_run: DemoRun, elsewhere: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="positive class is PNEUMONIA"):
        run(demo_run, elsewhere, tmp_path, "--set", "data.positive_label=COVID")
    with pytest.raises(UserError, match="between 0 and 1"):
        run(demo_run, elsewhere, tmp_path, "--prevalence", "5")
    with pytest.raises(UserError, match=r"nowhere\.zip"):
        run(demo_run, tmp_path / "nowhere.zip", tmp_path)
