"""From a path to images, split and report."""

from __future__ import annotations

import io
import itertools
import json
import random
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from config import Config, ConfigManager, UserError
from engine.data.audit import NEAR, near_duplicates
from engine.data.cache import Scan
from engine.data.phantoms import write_demo_dataset
from engine.data.prepare import prepare


def settings(tmp_path: Path, **changes: Any) -> Config:
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    overrides |= {"output.cache_dir": str(tmp_path / "cache"), "data.image_size": 32}
    return ConfigManager.load(overrides=overrides, environ={})


def make_set(path: Path, images: dict[str, np.ndarray | bytes], rows: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in images.items():
            if isinstance(image, np.ndarray):
                file = io.BytesIO()
                Image.fromarray(image).save(file, "PNG")
                image = file.getvalue()
            archive.writestr(f"images/{name}", image)
        archive.writestr("metadata.csv", rows)
    return path


def some_images(count: int) -> dict[str, np.ndarray | bytes]:
    rng = np.random.default_rng(0)
    return {
        f"{n}.png": np.asarray(
            Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).resize((50, 40))
        )
        for n in range(count)
    }


def table(count: int, extra: str = "") -> str:
    rows = "".join(f"P{n},{n}.png,{'PNEUMONIA' if n % 2 else 'NORMAL'}\n" for n in range(count))
    return f"patient_id,filename,label\n{rows}{extra}"


def test_the_report_says_what_is_there(tmp_path: Path) -> None:
    path = write_demo_dataset(tmp_path / "images.zip", 60, 30, size=40)
    prepared = prepare(path, settings(tmp_path))
    report = prepared.report
    assert json.loads(json.dumps(report)) == report
    assert report["images"] == 60
    assert sum(sum(part.values()) for part in report["counts"].values()) == 60
    assert report["counts"]["val"]["PNEUMONIA"] == int(prepared.labels[prepared.split.val].sum())
    assert report["sizes"] == {"width": [40, 40, 40], "height": [40, 40, 40]}
    assert report["modes"] == {"L": 60}
    assert report["missing"] == []
    assert report["unreadable"] == {}


def test_all_unreadable_images_are_named_at_once_or_left_out(tmp_path: Path) -> None:
    images = {**some_images(40), "3.png": b"", "8.png": b"<html>not here</html>"}
    path = make_set(tmp_path / "set.zip", images, table(40))
    with pytest.raises(UserError) as caught:
        prepare(path, settings(tmp_path))
    for words in ("3.png': the file is empty", "8.png': it is an HTML", "data.unreadable=skip"):
        assert words in str(caught.value)
    prepared = prepare(path, settings(tmp_path, data__unreadable="skip"))
    assert len(prepared.labels) == 38
    assert set(prepared.report["unreadable"]) == {"images/3.png", "images/8.png"}
    assert "unreadable_images" in [code for code, _ in prepared.warnings]
    for place, name in enumerate(prepared.names):  # the rows still fit after two have gone
        image = Image.fromarray(images[name.removeprefix("images/")])
        expected = image.resize((32, 32), Image.Resampling.BILINEAR)
        found = prepared.images[prepared.rows[place]]
        assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_wrong_labels_missing_and_unreadable_images_are_all_named_at_once(tmp_path: Path) -> None:
    images = {**some_images(40), "3.png": b"", "8.png": b"<html>not here</html>"}
    rows = table(40, "P50,gone.png,NORMAL\n").replace("4.png,NORMAL", "4.png,perhaps", 1)
    with pytest.raises(UserError) as caught:
        prepare(make_set(tmp_path / "set.zip", images, rows), settings(tmp_path))
    for words in ("4 problems", "perhaps", "gone.png", "3.png': the file is empty", "HTML page"):
        assert words in str(caught.value)


def test_many_unreadable_images_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    images = {**some_images(20), **{f"x{n}.png": b"rubbish" for n in range(300)}}
    rows = table(20, "".join(f"X{n},x{n}.png,NORMAL\n" for n in range(300)))
    path = make_set(tmp_path / "set.zip", images, rows)
    with pytest.raises(UserError, match="300 problems") as caught:
        prepare(path, settings(tmp_path))
    assert str(caught.value).count("\n") == 51
    report = prepare(path, settings(tmp_path, data__unreadable="skip")).report
    assert report["unreadable_images"] == 300
    assert len(report["unreadable"]) == 200


def test_patient_ids_that_no_two_images_share_are_a_warning(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set.zip", some_images(201), table(201))
    prepared = prepare(path, settings(tmp_path))
    assert prepared.report["split"]["patient_ids"] == "distinct"
    assert "patient_ids_distinct" in [code for code, _ in prepared.warnings]
    shared = table(201).replace("P200,", "P0,")
    prepared = prepare(
        make_set(tmp_path / "other.zip", some_images(201), shared), settings(tmp_path)
    )
    assert prepared.report["split"]["patient_ids"] == "shared"
    assert "patient_ids_distinct" not in [code for code, _ in prepared.warnings]


def test_the_report_says_what_a_given_split_shares(tmp_path: Path) -> None:
    images = some_images(40)
    images["39.png"] = images["37.png"]
    header, *lines = table(40).replace("P38,", "P36,").splitlines()
    parts = ["val" if n % 4 in (0, 1) else "train" for n in range(40)]
    rows = [f"{header},split", *map(",".join, zip(lines, parts, strict=True))]
    report = prepare(
        make_set(tmp_path / "s.zip", images, "\n".join(rows)), settings(tmp_path)
    ).report
    assert report["split"]["shared_patients"] == 1  # P36 in val, as P38's image in train
    assert report["split"]["shared_pixels"] == 1


def test_a_batch_that_batchnorm_cannot_train_on_is_refused_in_words(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set.zip", some_images(40), table(40))
    with pytest.raises(UserError, match=r"system\.batch_size=1 cannot be trained on"):
        prepare(path, settings(tmp_path, system__batch_size=1))
    config = ConfigManager.load(
        overrides={
            "output.cache_dir": str(tmp_path / "cache"),
            "data.image_size": 33,
            "system.batch_size": 1,
        },
        environ={},
    )
    prepare(path, config)  # two by two values in the last stage: enough


def test_a_link_to_nothing_is_an_unreadable_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(make_set(tmp_path / "set.zip", some_images(40), table(40))) as archive:
        archive.extractall(tmp_path / "set")
    image = next((tmp_path / "set").rglob("3.png"))
    image.unlink()
    image.symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"3\.png': it cannot be read: .*No such file"):
        prepare(tmp_path / "set", settings(tmp_path))


def test_identical_images_are_in_one_part_and_are_counted(tmp_path: Path) -> None:
    images = some_images(40)
    images |= {f"copy{n}.png": images[f"{n}.png"] for n in range(10)}
    extra = "".join(f"Q{n},copy{n}.png,{'PNEUMONIA' if n % 2 else 'NORMAL'}\n" for n in range(10))
    prepared = prepare(make_set(tmp_path / "s.zip", images, table(40, extra)), settings(tmp_path))
    duplicates = prepared.report["exact_duplicates"]
    assert duplicates["groups"] == duplicates["surplus_images"] == 10
    assert duplicates["across_splits"] == 0
    on_val = {prepared.names[i] for i in prepared.split.val}
    for n in range(10):
        assert (f"images/{n}.png" in on_val) == (f"images/copy{n}.png" in on_val)


def test_near_duplicates_across_the_split_are_reported_and_not_moved(tmp_path: Path) -> None:
    images = some_images(40)
    changed = np.asarray(images["0.png"]).copy()
    changed[0, 0] ^= 255
    images["near.png"] = changed
    header, *lines = table(40, "Q,near.png,NORMAL\n").splitlines()
    parts = ["val" if n < 10 else "train" for n in range(41)]
    rows = [f"{header},split", *map(",".join, zip(lines, parts, strict=True))]
    path = make_set(tmp_path / "set.zip", images, "\n".join(rows))
    prepared = prepare(path, settings(tmp_path))
    near = prepared.report["near_duplicates_across_splits"]
    assert near["listed"] == [["images/0.png", "images/near.png"]]
    assert "near_duplicates" in [code for code, _ in prepared.warnings]


def scans_of(hashes: list[int]) -> list[Scan]:
    return [Scan("", str(i), value, 1, 1, "L", None) for i, value in enumerate(hashes)]


def test_near_duplicates_are_those_that_comparing_all_pairs_finds() -> None:
    rng = random.Random(3)
    hashes = [rng.getrandbits(256) for _ in range(60)]
    for number in range(60):  # copies of which up to 20 bits differ
        changed = sum(1 << bit for bit in rng.sample(range(256), number % 21))
        hashes.append(hashes[number] ^ changed)
    parts = {i: rng.choice(("train", "val")) for i in range(len(hashes))}
    expected = [
        (i, j)
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if (hashes[i] ^ hashes[j]).bit_count() <= NEAR and parts[i] != parts[j]
    ]
    assert len(expected) > 10
    assert near_duplicates(scans_of(hashes), parts) == expected


def test_a_set_of_nothing_but_near_duplicates_is_checked_in_bounded_time() -> None:
    count = 10_000
    parts = {i: "val" if i % 5 == 0 else "train" for i in range(count)}
    began = time.perf_counter()
    found = near_duplicates(scans_of([7] * count), parts)
    assert time.perf_counter() - began < 60
    assert len({i for pair in found for i in pair}) == count


def test_one_image_with_two_labels_under_two_names_is_a_warning(tmp_path: Path) -> None:
    images = some_images(40)
    images["copy.png"] = images["0.png"]
    prepared = prepare(
        make_set(tmp_path / "s.zip", images, table(40, "Q,copy.png,PNEUMONIA\n")),
        settings(tmp_path),
    )
    assert "contradicting_labels" in [code for code, _ in prepared.warnings]


def test_the_fingerprint_changes_with_images_labels_and_split_alone(tmp_path: Path) -> None:
    def mark(name: str, images: dict[str, Any], rows: str, **changes: Any) -> str:
        path = make_set(tmp_path / name, images, rows)
        return prepare(path, settings(tmp_path, **changes)).fingerprint

    images = some_images(40)
    first = mark("a.zip", images, table(40))
    assert mark("b.zip", images, table(40)) == first
    assert mark("c.zip", images, table(40), system__seed=7) != first
    other = {**images, "4.png": images["5.png"] ^ 255}
    assert mark("d.zip", other, table(40)) != first
    assert mark("e.zip", images, table(40).replace("4.png,NORMAL", "4.png,PNEUMONIA")) != first


def test_the_development_data_split_by_patient(dev_data: Path, tmp_path: Path) -> None:
    prepared = prepare(dev_data / "chest_xray_dev.zip", settings(tmp_path))
    report = prepared.report
    assert report["images"] == 3516
    assert report["exact_duplicates"]["surplus_images"] == 19
    assert report["exact_duplicates"]["across_splits"] == 0
    assert report["near_duplicates_across_splits"]["pairs"] < 20
    split = prepared.split
    train, val = ({prepared.patients[i] for i in part} for part in (split.train, split.val))
    assert not train & val
    assert report["split"]["patient_ids"] == "shared"
    assert report["split"]["shared_patients"] == report["split"]["shared_pixels"] == 0
    assert report["split"]["near_duplicates"] < 20
    for label in ("NORMAL", "PNEUMONIA"):
        total = sum(part[label] for part in report["counts"].values())
        assert abs(report["counts"]["val"][label] / total - 0.2) < 0.005


def test_the_messy_folder_as_a_data_set(dev_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare(dev_data / "messy", settings(tmp_path))
    for name in ("truncated.jpeg", "truncated.png", "empty.jpeg", "html.jpeg"):
        assert name in str(caught.value)
    prepared = prepare(dev_data / "messy", settings(tmp_path, data__unreadable="skip"))
    assert len(prepared.names) == 20
    assert len(prepared.report["unreadable"]) == 4
    assert {"RGB", "CMYK", "P", "I;16", "LA", "RGBA", "1", "F"} <= set(prepared.report["modes"])
