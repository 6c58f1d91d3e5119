"""Every image found is used or counted with its reason; what a split cannot prove is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from config import ConfigManager
from engine.data.names import is_image
from engine.data.prepare import Prepared, prepare
from engine.data.problems import DatasetError
from engine.data.source import open_source
from engine.inference import bundle
from tests.engine.data.test_layouts import data_of
from tests.engine.data.test_source import make_zip

Files = dict[str, bytes | str]
FOLDERS = ("NORMAL", "PNEUMONIA", "train/NORMAL", "val/PNEUMONIA", "COVID", "train", "", "extra")
BELOW = ("", "/masks", "/images", "/NORMAL")
PLACES = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(BELOW), st.integers(0, 3))
TABLE_ROWS = st.tuples(
    st.integers(0, 13), st.sampled_from(["S1", "S2", "S3", "S4"]), st.sampled_from(["PA", "LL"])
)
STUDY_LABELS = st.sampled_from(["PNEUMONIA", "NORMAL", "-1", "", "Mass|Nodule"])


def accounted(folder: Path, files: Files, **keys: Any) -> None:
    """Every image is used or counted once with its reason, or the set is refused."""
    path = make_zip(folder / "set.zip", files)
    try:
        source = open_source(path, data_of(**keys))
    except DatasetError as error:
        refusals = ("patient", "no image has the label", "problems", "leaves no row")
        assert any(words in str(error) for words in refusals), str(error)  # noqa: PT017
        return
    names = [record.name for record in source.records]
    assert len(set(names)) == len(names)
    assert len(names) + source.flow.total() == sum(map(is_image, source.files))
    assert all(count > 0 for count in source.flow.values())


@given(st.lists(PLACES, max_size=15))
@settings(max_examples=40, deadline=None)
def test_every_image_in_and_beside_class_folders(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, str, int]]
) -> None:
    files: Files = {f"{kind}/sure{n}.png": "x" for kind in ("NORMAL", "PNEUMONIA") for n in (1, 2)}
    files |= {f"{folder}{below}/{n}.png".lstrip("/"): "x" for folder, below, n in places}
    keys = {"label_map": '{"*": drop}'} if any(where[0] == "COVID" for where in places) else {}
    accounted(tmp_path_factory.mktemp("set"), files, **keys)


@given(
    st.lists(st.lists(TABLE_ROWS, min_size=1, max_size=8), min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(["S1", "S2", "S3"]), STUDY_LABELS),
    st.sampled_from(["view = PA", "none"]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_image_of_several_tables_with_joined_labels(
    tmp_path_factory: pytest.TempPathFactory,
    tables: list[list[tuple[int, str, str]]],
    studies: dict[str, str],
    where: str,
    with_lists: bool,
) -> None:
    files: Files = {f"images/{n}.png": "x" for n in range(12)}  # 12 and 13 are missing
    for number, rows in enumerate(tables):
        sure = (
            [(8, "P", "PA"), (9, "P", "PA"), (10, "N", "PA"), (11, "N", "PA")] if not number else []
        )
        lines = "".join(f"{n}.png,{study},{view}\n" for n, study, view in [*sure, *rows])
        files[f"t{number}.csv"] = f"filename,study,view\n{lines}"
    known = {"P": "PNEUMONIA", "N": "NORMAL", **studies}
    files["studies.csv"] = "study,label\n" + "".join(f"{s},{cell}\n" for s, cell in known.items())
    keys = {"table": ",".join(f"t{number}.csv" for number in range(len(tables)))}
    keys |= {"join": "studies.csv", "where": where, "unreadable": "skip", "votes": "majority"}
    keys |= {"uncertain": "drop", "unmentioned": "negative"}
    if with_lists:
        files["train.txt"], files["test.txt"] = "8.png\n10.png\n1.png\n", "9.png\n11.png\n"
        keys["split_lists"] = "train=train.txt,test=test.txt"
    accounted(tmp_path_factory.mktemp("set"), files, **keys)


def png(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prepared_rsna(tmp_path: Path, **keys: Any) -> tuple[Any, Prepared]:
    """RSNA's layout with 24 images of 8 people, and its mapping beside."""
    files: Files = {f"stage_2_train_images/{n:04}.png": png(n) for n in range(24)}
    rows = "".join(f"{n:04},,,,,{n // 3 % 2}\n" for n in range(24))
    files["stage_2_train_labels.csv"] = f"patientId,x,y,width,height,Target\n{rows}"
    mapping = "".join(f"{n:04},{n // 3:08}_{n % 3:03}.png\n" for n in range(24))
    files["mapping.csv"] = f"subset_img_id,img_id\n{mapping}"
    settings = {"data.image_size": 32, "output.cache_dir": str(tmp_path / "cache")}
    settings |= {f"data.{key}": value for key, value in keys.items()}
    config = ConfigManager.load(overrides=settings, environ={})
    return config, prepare(make_zip(tmp_path / "rsna.zip", files), config)


def test_patients_that_cannot_be_told_apart_are_said_in_report_and_bundle(tmp_path: Path) -> None:
    config, prepared = prepared_rsna(tmp_path)
    message = dict(prepared.warnings)["patient_ids_number_images"]
    assert "data.patients=FILE" in message
    assert message in prepared.report["warnings"]
    population = bundle.describe(config, prepared, "uid")["training_population"]
    assert f"patient_ids_number_images: {message}" in population["warnings"]
    assert population["split"]["patient_ids"] == "none"


def test_with_the_mapping_the_report_proves_that_no_person_is_in_two_parts(tmp_path: Path) -> None:
    config, prepared = prepared_rsna(tmp_path, patients="mapping.csv")
    assert not any("patient_ids" in code for code, _ in prepared.warnings)
    proof = prepared.report["split"]
    assert (proof["patient_ids"], proof["shared_patients"], proof["shared_pixels"]) == (
        "shared",
        0,
        0,
    )
    parts: dict[str | None, set[str]] = {}
    for part in ("train", "val"):
        for i in getattr(prepared.split, part).tolist():
            parts.setdefault(prepared.patients[i], set()).add(part)
    assert len(parts) == 8
    assert all(len(of) == 1 for of in parts.values())
    assert bundle.describe(config, prepared, "uid")["training_population"]["split"] == proof


def test_problems_of_all_kinds_are_listed_together_and_the_rest_counted(tmp_path: Path) -> None:
    """Labels, missing, unreadable and ambiguous images of one data set, in one error."""
    rows = [(f"{n}.png", f"strange {n}") for n in range(60)]
    rows += [(f"nowhere{n}.png", "NORMAL") for n in range(70)]
    rows += [("twice.png", "PNEUMONIA"), ("broken.png", "PNEUMONIA")]
    rows += [(f"good{n}.png", "PNEUMONIA" if n % 2 else "NORMAL") for n in range(6)]
    files: Files = {f"{n}.png": "never read" for n in range(60)}
    files |= {f"good{n}.png": png(n) for n in range(6)} | {"broken.png": "no image"}
    files |= {"a/twice.png": png(7), "b/twice.png": png(8)}
    lines = "".join(f"{name},{label}\n" for name, label in rows)
    files["metadata.csv"] = f"filename,label\n{lines}"
    settings = {"data.image_size": 32, "output.cache_dir": str(tmp_path / "cache")}
    config = ConfigManager.load(overrides=settings, environ={})
    with pytest.raises(DatasetError) as caught:
        prepare(make_zip(tmp_path / "set.zip", files), config)
    message = str(caught.value)
    assert caught.value.count == 60 + 70 + 1 + 1
    assert message.count("unknown label") == 50
    assert message.count("is not among the files") == 50
    assert "'twice.png' could be 'a/twice.png' or 'b/twice.png'" in message
    assert "'broken.png': " in message
    assert "data.unreadable=skip" in message
    assert message.endswith("and 30 more (label 10, missing 20)")
