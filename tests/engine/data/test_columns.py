"""The other columns of a data set stay with each image, into the scores and the subgroups."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np

from config import ConfigManager
from engine.data.phantoms import write_demo_dataset
from engine.data.prepare import prepare
from engine.data.source import open_source
from engine.records.results import scores_table
from tests.engine.data.test_layouts import data_of
from tests.engine.data.test_source import make_zip


def test_every_other_column_is_kept_with_its_image(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,{n % 2},P{n},{'PA' if n % 3 else 'AP'},{20 + n},\n" for n in range(8))
    table = f"filename,label,patient_id,view,age,,view\n{rows}0.png,0,P0,LL,20\n"
    files = {"metadata.csv": table} | {f"{n}.png": "image" for n in range(8)}
    source = open_source(make_zip(tmp_path / "set.zip", files), data_of())
    assert source.columns == ("view (1)", "age", "view (2)")
    assert source.cells()["age"] == [str(20 + n) for n in range(8)]
    assert source.cells()["view (1)"] == ["AP|LL", "PA", "PA", "AP", "PA", "PA", "AP", "PA"]
    assert set(source.cells()["view (2)"]) == {""}


def test_scores_have_the_columns_of_the_images_that_were_scored(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_demo_dataset(tmp_path / "demo.zip", 40, 30, size=40)) as demo:
        files: dict[str, bytes | str] = {name: demo.read(name) for name in demo.namelist()}
        header, *lines = demo.read("metadata.csv").decode().splitlines()
    lines = [f"{line},{n % 90}" for n, line in enumerate(lines)]
    files["metadata.csv"] = "\n".join([f"{header},age", *lines])
    path = make_zip(tmp_path / "set.zip", files)
    overrides = {"data.image_size": 32, "output.cache_dir": str(tmp_path / "cache")}
    prepared = prepare(path, ConfigManager.load(overrides=overrides, environ={}))
    chosen = prepared.split.val[::-1]
    names, columns = prepared.texts(chosen)
    assert names == [prepared.names[i] for i in chosen]
    text = scores_table(names, prepared.labels[chosen], np.full(len(chosen), 0.25), columns)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["filename"] for row in rows] == names
    aged = {line.split(",")[1]: line.split(",")[-1] for line in lines}
    assert [row["age"] for row in rows] == [aged[Path(name).name] for name in names]
    assert list(columns) == ["age"]


def test_columns_cannot_hide_the_scores_or_become_formulas() -> None:
    columns = {"Score": ["-1.0", "=1+1"], "=x": ["-x", "a"]}
    text = scores_table(["a", "b"], np.array([0, 1]), np.array([0.5, 0.75]), columns)
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [
        ["filename", "label", "score", "data.Score", "'=x"],
        ["a", "0", "0.5", "-1.0", "'-x"],
        ["b", "1", "0.75", "'=1+1", "a"],
    ]
