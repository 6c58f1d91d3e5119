"""`python -m engine.predict`, as a person runs it."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import pytest

from config import UserError
from engine import load_model
from engine.predict import main

from .conftest import DemoRun


@pytest.fixture
def images(demo_run: DemoRun, tmp_path: Path) -> Path:
    """A folder with six images of the demo and a broken one."""
    folder = tmp_path / "new images"
    folder.mkdir()
    with zipfile.ZipFile(demo_run.dataset) as archive:
        for name in [name for name in archive.namelist() if name.endswith(".png")][:6]:
            (folder / Path(name).name).write_bytes(archive.read(name))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return folder


def test_a_bad_file_gets_its_error_and_the_rest_their_scores(
    demo_run: DemoRun, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.csv"
    assert main([str(demo_run.bundle), str(images), "--out", str(out)]) == 1
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    bad = [row for row in rows if row["error"]]
    assert [Path(row["path"]).name for row in bad] == ["broken.png"]
    assert bad[0]["score"] == ""
    assert all(0 <= float(row["score"]) <= 1 for row in rows if not row["error"])
    assert {row["label"] for row in rows if not row["error"]} <= {"NORMAL", "PNEUMONIA"}


def test_scores_are_those_of_training(demo_run: DemoRun, tmp_path: Path) -> None:
    table = Path(demo_run.config.output.results_dir) / f"scores_{demo_run.results['run_id']}.csv"
    with table.open(newline="") as file:
        known = {row["filename"]: float(row["score"]) for row in csv.DictReader(file)}
    names = list(known)[:40]
    with zipfile.ZipFile(demo_run.dataset) as archive:
        for name in names:
            (tmp_path / Path(name).name).write_bytes(archive.read(name))
    paths = [str(tmp_path / Path(name).name) for name in names]
    out = tmp_path / "out.jsonl"
    assert main([str(demo_run.bundle), *paths, "--out", str(out), "--batch-size", "7"]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["path"] for row in found] == paths
    for name, row in zip(names, found, strict=True):
        assert row["score"] == pytest.approx(known[name], abs=1e-6)


def test_heat_maps_are_written_beside(demo_run: DemoRun, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "heat"
    main([str(demo_run.bundle), str(images), "--explain", str(folder), "--format", "json"])
    assert len(list(folder.glob("*.png"))) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing-there.png"], ""),
        (["{empty}"], "no image was found"),
        (["{images}", "--threshold", "1.5"], "between 0 and 1"),
        (["{images}", "--out", "scores.xlsx"], "name it .csv"),
        (["{images}", "--out", "/proc/no/scores.csv"], "cannot be written"),
    ],
)
def test_mistakes_are_said_in_words(
    demo_run: DemoRun, images: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    given = [text.format(empty=tmp_path / "empty", images=images) for text in arguments]
    if not words:
        assert main([str(demo_run.bundle), *given]) == 1  # a row with its error
        return
    with pytest.raises(UserError, match=words):
        main([str(demo_run.bundle), *given])


def test_an_operating_point_chooses_the_threshold(
    demo_run: DemoRun, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    arguments = [str(demo_run.bundle), str(images), "--out", str(out), "--operating-point"]
    main([*arguments, "sensitivity>=0.95"])
    found = {row["threshold"] for row in json.loads(out.read_text())}
    kept = load_model(demo_run.bundle).bundle["operating_points"]
    assert found == {kept["sensitivity>=0.95"]["threshold"]}
    assert kept["sensitivity>=0.95"]["figures"]["recall"] >= 0.95
    with pytest.raises(UserError, match="no operating point 'best'"):
        main([*arguments, "best"])


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_archives_and_patterns_are_taken_like_folders(
    demo_run: DemoRun, images: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(images.iterdir()):
            file.write(path, f"inner/{path.name}")
    out, heat = tmp_path / "out.json", tmp_path / "heat"
    scores = []
    for given in (str(archive), str(images / "phantom*.png"), str(images)):
        more = ["--explain", str(heat)] if given == str(archive) else []
        code = main([str(demo_run.bundle), given, "--out", str(out), *more])
        assert code == (0 if "*" in given else 1)  # the broken file is not in the pattern
        rows = json.loads(out.read_text())
        scores.append({Path(row["path"]).name: row["score"] for row in rows if not row["error"]})
    assert scores[0] == scores[1] == scores[2]
    assert len(scores[0]) == 6
    assert len(list(heat.iterdir())) == 6
