"""`engine.check`: what it finds is what is there; its pictures are what the network sees."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from config import Config, ConfigManager, UserError
from engine import check
from engine.data.augment import epoch_parameters
from engine.data.dataset import Batch
from engine.data.inputs import GREY_MEAN, GREY_STD, training_inputs
from engine.data.prepare import prepare
from engine.device import resolve
from engine.rehearsal import largest_batch, rehearse
from engine.report.bars import bar_chart
from engine.report.contact import alike, contact_sheet
from engine.report.overview import overview

PEOPLE = 24  # two images each


def make_dataset(folder: Path) -> Path:
    """48 images; AP for most of the ill; two identical images with two labels; one unlisted."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = ["filename,patient_id,label,age,view"]
    for person in range(PEOPLE):
        for number in range(2):
            ill, name = person % 2, f"p{person:02d}_{number}.png"
            pixels = rng.integers(0, 256, (40, 50), dtype=np.uint8)
            if number == 1 and person in (0, 1):
                pixels = np.tile(np.arange(50, dtype=np.uint8), (40, 1))
            Image.fromarray(pixels).save(folder / "images" / name)
            view = "AP" if bool(ill) != (person in (0, 1)) else "PA"
            label = ("NORMAL", "PNEUMONIA")[ill]
            rows.append(f"{name},P{person},{label},{20 + person},{view}")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "images" / "unlisted.png")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


def config_in(folder: Path, **overrides: object) -> Config:
    base = {
        "data.image_size": 32,
        "model.backbone": "resnet18",
        "model.weights": "none",
        "system.batch_size": 8,
        "output.cache_dir": str(folder / "cache"),
        "output.checkpoint_dir": str(folder / "checkpoints"),
    }
    return ConfigManager.load(overrides=base | overrides)


def run_check(folder: Path, *options: str) -> tuple[str, dict[str, object]]:
    """The page and the document."""
    code = check.main(
        [
            *("--dataset", str(make_dataset(folder / "set")), "--out", str(folder / "out")),
            *("--set", f"output.cache_dir={folder / 'cache'}", "--set", "data.image_size=32"),
            *options,
        ]
    )
    assert code == 0
    page = (folder / "out" / "set.html").read_text(encoding="utf-8")
    return page, json.loads((folder / "out" / "set.json").read_text(encoding="utf-8"))


def test_the_page_opens_offline_and_shows_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, document = run_check(tmp_path)
    printed = capsys.readouterr().out
    assert "48 images of 24 patients: 24 PNEUMONIA and 24 NORMAL" in printed
    assert "49 found, 48 used; 1 unlisted" in printed
    assert "1 groups, 1 with two labels" in printed
    assert not re.search(r"https?://|<script", page)
    assert page.count("<img") == page.count("data:image/jpeg;base64,")
    assert "two labels" in page
    assert "1 without a row in the table" in page
    view = next(one for one in document["columns"] if one["column"] == "view")  # type: ignore[attr-defined]
    assert view["alone"] > 0.9
    assert "AUROC of the column alone 0.9" in page


def test_images_are_left_out_where_the_configuration_says_so(tmp_path: Path) -> None:
    page, _ = run_check(tmp_path, "--set", "report.images=false")
    assert "<img" not in page
    assert "report.images is false" in page


def test_what_is_wrong_is_an_error_in_words_and_writes_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    (dataset / "images" / "p00_0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"p00_0\.png.*not an image"):
        check.main(
            [
                *("--dataset", str(dataset), "--out", str(tmp_path / "out")),
                *("--set", f"output.cache_dir={tmp_path / 'cache'}"),
            ]
        )
    assert not (tmp_path / "out").exists()


def test_augmented_pictures_are_the_inputs_of_the_first_epoch(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    data = prepare(make_dataset(tmp_path / "set"), config)
    rows = {row.title: row for row in contact_sheet(data, config)}
    assert list(rows) == [
        *("train, NORMAL", "train, NORMAL, augmented", "train, PNEUMONIA"),
        *("train, PNEUMONIA, augmented", "val, NORMAL", "val, PNEUMONIA"),
    ]
    shown = rows["train, NORMAL, augmented"].pictures
    index = torch.tensor([data.names.index(picture.name) for picture in shown])
    pixels = torch.from_numpy(np.asarray(data.images[data.rows[index.numpy()]]))[:, None]
    batch = Batch(pixels, torch.from_numpy(data.labels)[index], index)
    table = epoch_parameters(len(data.labels), config.system.seed, 1, config.augment, 32)
    inputs = training_inputs(
        batch, table, resolve(config.system), config.system.seed, config.augment, channels=1
    )
    expected = (inputs[:, 0] * GREY_STD + GREY_MEAN) * 255
    for picture, grey in zip(shown, expected, strict=True):
        found = _pixels(picture.url)
        assert np.abs(found - grey.numpy()).mean() < 12  # JPEG of noise


def _pixels(url: str) -> np.ndarray:
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)), np.float64)


def test_the_overview_counts_every_image_once(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    data = prepare(make_dataset(tmp_path / "set"), config)
    found = overview(data)
    for column in found["columns"]:
        groups = column["groups"]
        assert sum(group["images"] for group in groups) == len(data.labels)
        assert sum(group["positive"] for group in groups) == data.labels.sum()
        for part in ("train", "val", "test"):
            assert sum(group[part] for group in groups) == len(getattr(data.split, part))
    assert found["images_per_patient"] == {"2": PEOPLE}
    for label, of in enumerate(found["intensity"].values()):
        images = np.asarray(data.images[data.rows[data.labels == label]])
        assert of["mean"] == pytest.approx(images.mean())
        assert of["black"] == pytest.approx((images == 0).mean())
        assert sum(of["grey"]) == pytest.approx(1)
        assert sum(of["means"]) == of["sampled"] == len(images)
    identical, nearly = alike(data)
    assert [row.title for row in identical] == ["two labels"]
    assert {picture.label for picture in identical[0].pictures} == {"NORMAL", "PNEUMONIA"}
    assert not nearly


def test_a_rehearsal_measures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    data = prepare(make_dataset(tmp_path / "set"), config)
    found = rehearse(data, config)
    assert found["epoch_seconds"] > 0
    assert found["run_seconds"] == found["epoch_seconds"] * config.experiment.epochs
    assert found["snapshot_bytes"] > 3 * 11_000_000 * 4  # weights and two moments of a ResNet-18
    assert found["cache_bytes"] == len(data.labels) * 32 * 32
    assert list((tmp_path / "checkpoints").iterdir()) == []


@given(limit=st.integers(0, 5000), start=st.integers(1, 300))
def test_the_largest_batch_fits_and_its_double_does_not(limit: int, start: int) -> None:
    found = largest_batch(lambda size: size <= limit, start)
    if limit < 1:
        assert found is None
    else:
        assert found is not None
        assert found <= limit
        # Halves are rounded down: twice what was found, or one more, did not fit.
        assert found * 2 + 1 > min(limit, 4096) or found == start


def test_bars_are_as_tall_as_their_counts_and_names_are_escaped() -> None:
    chart = bar_chart("<age>", ["<20", "20+"], {"ill": [10, 5], "well": [0, 20]})
    assert "<age>" not in chart
    assert "&lt;20" in chart
    heights = [float(height) for height in re.findall(r'<rect x=.*?height="([\d.]+)"', chart)]
    assert heights[0] == pytest.approx(heights[3] / 2, abs=0.1)
    assert heights[2] == pytest.approx(heights[3] / 4, abs=0.1)
    assert heights[1] == 0


def test_open_shows_the_page_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(shown.append(url)))
    run_check(tmp_path, "--open")
    assert shown == [(tmp_path / "out" / "set.html").as_uri()]
    assert "no browser was found" in capsys.readouterr().err
