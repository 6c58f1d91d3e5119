"""README's tutorial, command by command, as it is written there."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest

from engine.data.phantoms import write_demo_dataset

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SMALL = {  # by the environment: the commands stay as they are
    "system__device": "cpu",
    "system__batch_size": "16",
    "system__num_workers": "0",
    "experiment__epochs": "2",
    "model__backbone": "resnet18",
    "model__weights": "none",
    "data__image_size": "32",
}


def commands() -> list[list[str]]:
    section = README.partition("## From images to a report")[2].partition("\n## ")[0]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [shlex.split(line) for line in block.group(1).splitlines()]


def test_the_tutorial_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    for key, value in SMALL.items():
        monkeypatch.setenv(f"PNEUMOSCOPE__{key}", value)
    write_demo_dataset(tmp_path / "images.zip", images=90, patients=60, size=48)
    other = write_demo_dataset(tmp_path / "other_hospital.zip", images=40, patients=30, seed=9)
    with zipfile.ZipFile(other) as archive:
        for name in [one for one in archive.namelist() if one.endswith(".png")][:4]:
            target = tmp_path / "new_images" / Path(name).name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(archive.read(name))
    (tmp_path / "new_images" / "broken.png").write_bytes(b"no image")
    codes = {}
    for python, flag, module, *arguments in commands():
        assert (python, flag) == ("python", "-m")
        name = "engine.report.__main__" if module == "engine.report" else module
        codes[module] = importlib.import_module(name).main(arguments)
    assert codes == {"engine.train": 0, "engine.evaluate": 0, "engine.report": 0,
                     "engine.predict": 1, "engine.export": 0}  # fmt: skip
    report = (tmp_path / "output/results/report_1.html").read_text(encoding="utf-8")
    assert "These images chose nothing" in report
    assert "other_hospital.zip" in report
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["error"]) for row in rows] == [True, False, False, False, False]
    assert len(list((tmp_path / "heat").iterdir())) == 4
    assert "the same decisions as the bundle on 4 images" in capsys.readouterr().out
    assert (tmp_path / "output/checkpoints/run_1/model.onnx").stat().st_size > 1e6
    with zipfile.ZipFile(tmp_path / "run_1.zip") as archive:
        contents = json.loads(archive.read("pneumoscope_run.json"))
    assert contents["run"]["run_name"] == "baseline"
    assert len(contents["metrics"]) == 2
