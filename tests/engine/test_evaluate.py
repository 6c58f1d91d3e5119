"""`python -m engine.evaluate`, as a person runs it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config import UserError
from engine import load_model
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


def test_it_shows_internal_beside_external_and_how_robust_the_scores_are(
    demo_run: DemoRun, elsewhere: Path, tmp_path: Path
) -> None:
    found = run(demo_run, elsewhere, tmp_path, "--operating-point", "youden")
    internal, changes = found["internal"], found["robustness"]
    assert isinstance(internal, dict)
    assert internal["part"] == "test"
    assert internal["count"] == demo_run.results["test"]["count"]
    assert isinstance(changes, list)
    assert changes[0]["decisions_changed"] == 0
    assert {"JPEG, quality 25", "half the resolution"} <= {one["change"] for one in changes}
    assert all(0 <= one["decisions_changed"] <= 1 for one in changes)
    (page,) = tmp_path.rglob("evaluation.html")
    text = page.read_text()
    assert "internal (test part)" in text
    assert found["assessment"]["threshold"] == pytest.approx(  # type: ignore[index]
        load_model(demo_run.bundle, device="cpu").threshold_of("youden")
    )


def test_a_run_is_named_by_its_number(demo_run: DemoRun, elsewhere: Path, tmp_path: Path) -> None:
    overrides = [
        f"output.{key}={value}" for key, value in demo_run.config.to_dict()["output"].items()
    ]
    chosen = [word for one in overrides for word in ("--set", one)]
    arguments = ["1", "--dataset", str(elsewhere), "--out", str(tmp_path), "--no-robustness"]
    assert main([*arguments, *chosen]) == 0
    assert (tmp_path / "run_1_on_elsewhere" / "evaluation.html").exists()


def test_other_images_than_the_trainings_are_noticed(
    demo_run: DemoRun, elsewhere: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bright"
    with zipfile.ZipFile(elsewhere) as archive:
        archive.extractall(folder)
    for path in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(np.float32)
        Image.fromarray((255 - pixels / 8).astype(np.uint8)).save(path)
    found = run(demo_run, folder, tmp_path / "out", "--no-robustness")
    warnings = found["warnings"]
    assert isinstance(warnings, list)
    assert any("brightness" in text for text in warnings)
    usual = run(demo_run, elsewhere, tmp_path / "usual", "--no-robustness")["warnings"]
    assert isinstance(usual, list)
    assert not any("brightness" in text or "contrast" in text for text in usual)
