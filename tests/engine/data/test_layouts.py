"""The keys of `data.*` on layouts as public data sets have them, without their recognisers."""

from __future__ import annotations

import gzip
import itertools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Config, ConfigManager
from config.schema import Data
from engine.data.finder import Finder
from engine.data.names import is_image
from engine.data.phantoms import write_demo_dataset
from engine.data.prepare import prepare
from engine.data.source import DatasetError, Source, open_source
from tests.engine.data.test_source import make_zip


def data_of(**keys: Any) -> Data:
    overrides = {f"data.{key}": value for key, value in keys.items()}
    return ConfigManager.load(overrides=overrides, environ={}).data


def opened(tmp_path: Path, files: Mapping[str, bytes | str], **keys: Any) -> Source:
    data = data_of(**{"layout": "none", **keys})
    source = open_source(make_zip(tmp_path / "set.zip", files), data)
    images = sum(map(is_image, source.files))
    assert images == len(source.records) + source.flow.total()
    return source


def refused(tmp_path: Path, files: Mapping[str, bytes | str], **keys: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        opened(tmp_path, files, **keys)
    return str(caught.value)


def labels(source: Source) -> list[int]:
    return [record.label for record in source.records]


def patients(source: Source) -> list[str | None]:
    return [record.patient for record in source.records]


def test_rsna_is_read_from_the_table_that_is_named(tmp_path: Path) -> None:
    files = {f"stage_2_train_images/{n}.dcm": "image" for n in range(8)}
    files["stage_2_test_images/100.dcm"] = "image"
    boxes = "".join(f"{n},,,,,{n % 2}\n" * (1 + n % 2) for n in range(8))
    files["stage_2_train_labels.csv"] = f"patientId,x,y,width,height,Target\n{boxes}"
    classes = ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal", "Lung Opacity")
    rows = "".join(f"{n},{classes[n % 4]}\n" for n in range(8))
    files["stage_2_detailed_class_info.csv"] = f"patientId,class\n{rows}"
    message = refused(tmp_path, files)
    assert "data.table=stage_2_train_labels.csv" in message
    source = opened(tmp_path, files, table="stage_2_train_labels.csv")
    assert labels(source) == [0, 1] * 4
    assert source.flow == {"unlisted": 1}
    assert "patient_ids_number_images" in dict(source.warnings)
    source = opened(
        tmp_path,
        files,
        table="stage_2_detailed_class_info.csv",
        label_map='{Lung Opacity: 1, Normal: 0, "*": drop}',
    )
    assert labels(source) == [0, 1, 1, 0, 1, 1]
    assert source.flow == {"dropped": 2, "unlisted": 1}
    assert source.decided == {"map": 8}
    assert source.label_names == ("Normal", "PNEUMONIA")


def test_nih_with_findings_in_one_cell_and_a_filter(tmp_path: Path) -> None:
    found = ["No Finding", "Effusion|Pneumonia", "Cardiomegaly", "Pneumonia"] * 3
    rows = "".join(
        f"0000{n}_000.png,{cell},0,{n // 2},06{n % 10}Y,M,{'PA' if n < 10 else 'LL'},2682,2749\n"
        for n, cell in enumerate(found)
    )
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender"
    files = {f"images_001/images/0000{n}_000.png": "image" for n in range(12)}
    files["Data_Entry_2017.csv"] = f"{header},View Position,OriginalImage[Width,Height]\n{rows}"
    files["BBox_List_2017.csv"] = "Image Index,Finding Label,Bbox [x,y,w,h]\n1.png,Mass,1,2,3,4\n"
    source = opened(tmp_path, files, where="View Position in PA,AP")
    assert labels(source) == [0, 1, 0, 1] * 2 + [0, 1]
    assert patients(source)[:4] == ["0", "0", "1", "1"]
    assert source.flow == {"filtered": 2}
    assert source.label_names == ("NO PNEUMONIA", "PNEUMONIA")
    assert {"label_lists", "images_filtered", "table_chosen"} <= dict(source.warnings).keys()
    message = refused(tmp_path, files, where="View Position = Lateral")
    assert "View Position is 'PA' (10), 'LL' (2)" in message


def test_chexpert_with_paths_from_above_and_policies(tmp_path: Path) -> None:
    cells = ["1.0", "0.0", "-1.0", ""] * 4
    paths = [f"train/patient0000{n}/study1/view1_frontal.jpg" for n in range(16)]
    rows = "".join(
        f"CheXpert-v1.0-small/{path},Female,{60 + n},Frontal,AP,,{cell}\n"
        for n, (path, cell) in enumerate(zip(paths, cells, strict=True))
    )
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia"
    files = dict.fromkeys(paths, "image") | {"train.csv": f"{header}\n{rows}"}
    message = refused(tmp_path, files)
    assert "line 4: uncertain label '-1.0'; set data.uncertain in 4 rows" in message
    assert "line 5: unmentioned label ''; set data.unmentioned in 4 rows" in message
    source = opened(
        tmp_path, files, uncertain="drop", unmentioned="negative", patient_pattern=r"patient\d+"
    )
    assert labels(source) == [1, 0, 0] * 4
    assert patients(source)[0] == "patient00000"
    assert source.flow == {"uncertain": 4}
    assert source.decided == {"value": 8, "uncertain": 4, "unmentioned": 4}
    assert "4 unmentioned labels count as negative" in dict(source.warnings).values()


def test_padchest_with_list_text_in_a_gzipped_table(tmp_path: Path) -> None:
    cells = ["['pneumonia', 'pleural effusion']", "['normal']", "['atypical pneumonia']"] * 3
    rows = "".join(f'{n}.png,0,{n},{n},PA,"{cell}"\n' for n, cell in enumerate(cells))
    table = f"ImageID,ImageDir,StudyID,PatientID,Projection,Labels\n{rows}".encode()
    files: dict[str, bytes | str] = {f"{n % 2}/{n}.png": "image" for n in range(9)}
    files["PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"] = gzip.compress(table)
    assert labels(opened(tmp_path, files)) == [1, 0, 0] * 3
    source = opened(tmp_path, files, label_map={"atypical pneumonia": 1})
    assert labels(source) == [1, 0, 1] * 3
    files["PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"] = gzip.compress(table)[:-20]
    assert "csv.gz" in refused(tmp_path, files, table=list(files)[-1])


@pytest.mark.parametrize(("rule", "expected"), [("any", 1), ("majority", 0), ("all", 0)])
def test_vindr_with_three_readers(tmp_path: Path, rule: str, expected: int) -> None:
    said = {0: "000", 1: "111", 2: "100", 3: "111", 4: "000"}
    rows = "".join(f"{n},R{r},0,{v}\n" for n, votes in said.items() for r, v in enumerate(votes))
    files = {f"train/{n}.dicom": "image" for n in range(5)}
    files["annotations/image_labels_train.csv"] = f"image_id,rad_id,No finding,Pneumonia\n{rows}"
    assert "data.votes decides" in refused(tmp_path, files)
    source = opened(tmp_path, files, votes=rule)
    assert labels(source) == [0, 1, expected, 1, 0]
    assert source.votes == (5, 4)
    assert "1 of 5 images" in dict(source.warnings)["votes_differ"]


def test_a_hospitals_export_with_semicolons_decimal_commas_and_no_patients(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png;{n % 2},0;{17 + n},5;P{n}\r\n" for n in range(8))
    table = f"\ufeffDatei;Befund;Alter;Patient\r\n{rows}"
    files = {"export/Liste.txt": table} | {f"images/{n}.png": "image" for n in range(8)}
    keys = {"table": "Liste.txt", "filename_column": "Datei", "label_column": "Befund"}
    source = opened(tmp_path, files, **keys, patient_column="none", where="Alter >= 18,5")
    assert labels(source) == [1, 0, 1, 0, 1, 0, 1]
    assert set(patients(source)) == {None}
    assert source.flow == {"filtered": 1}


def test_class_folders_of_more_kinds_with_patients_in_the_path(tmp_path: Path) -> None:
    kinds = ("COVID", "Normal", "Lung_Opacity", "Viral Pneumonia")
    files = {f"{kind}/images/p{n}_{kind}.png": "image" for kind in kinds for n in range(3)}
    files |= {f"{kind}/masks/p{n}_{kind}.png": "mask" for kind in kinds for n in range(3)}
    message = refused(tmp_path, files)
    assert "the folder 'COVID' names no known class" in message
    assert "data.label_map" in message
    mapped = {"Viral Pneumonia": 1, "*": "drop", "Normal": 0}
    source = opened(tmp_path, files, label_map=mapped, patient_pattern=r"/(p\d+)_")
    assert labels(source) == [0, 0, 0, 1, 1, 1]
    assert patients(source) == ["p0", "p1", "p2"] * 2
    assert source.flow == {"dropped": 6, "outside": 12}


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,{n % 2},P{n}\n" for n in range(8))
    files = {"metadata.csv": f"filename,label,patient\n{rows}"}
    files |= {f"{n}.png": "image" for n in range(8)}
    for keys, words in (
        ({"table": "nowhere.csv"}, "'metadata.csv'"),
        ({"patient_pattern": "("}, "data.patient_pattern=( is not a regular expression"),
        ({"where": "age > 3"}, "no column 'age'"),
    ):
        assert words in refused(tmp_path, files, **keys)
    source = opened(tmp_path, files, patient_pattern="[0-3]")
    assert "in 4 of 8 paths" in dict(source.warnings)["patient_ids_missing"]


def test_paths_are_matched_by_their_longest_common_end() -> None:
    files = ["a/1/x.png", "a/2/x.png", "b/1/x.png", "b/only.dcm", "v1.0/plain"]
    finder = Finder(files)
    assert finder.find("root/sub/a/2/x.png") == ["a/2/x.png"]
    assert finder.find("2\\x.png") == ["a/2/x.png"]
    assert finder.find("1/x.png") == ["a/1/x.png", "b/1/x.png"]
    assert finder.find("b/1/x") == ["b/1/x.png"]
    assert finder.find("elsewhere/only") == ["b/only.dcm"]
    assert finder.find("plain") == ["v1.0/plain"]
    assert finder.find("v1") == []


CELLS = st.sampled_from(["PNEUMONIA", "NORMAL", "-1", "", "other", "Mass|PNEUMONIA"])
ROWS = st.tuples(st.integers(0, 11), CELLS, st.sampled_from(["PA", "LL"]))
POLICY = st.sampled_from(["drop", "positive", "negative"])


@given(st.lists(ROWS, max_size=20), POLICY, POLICY, st.sampled_from(["any", "majority", "all"]))
@settings(max_examples=60, deadline=None)
def test_every_image_found_is_used_or_counted_with_its_reason(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, str, str]],
    uncertain: str,
    unmentioned: str,
    votes: str,
) -> None:
    sure = [(n, "PNEUMONIA" if n % 2 else "NORMAL", "PA") for n in (6, 7, 8, 9)]
    lines = "".join(f"{n}.png,{cell},{view}\n" for n, cell, view in itertools.chain(sure, rows))
    files = {"metadata.csv": f"filename,label,view\n{lines}"}
    files |= {f"images/{n}.png": "image" for n in range(10)}  # 10 and 11 are missing
    keys = {"uncertain": uncertain, "unmentioned": unmentioned, "votes": votes}
    keys |= {"where": "view = PA", "unreadable": "skip", "label_map": "{other: drop}"}
    try:
        opened(tmp_path_factory.mktemp("set"), files, **keys)
    except DatasetError as error:  # votes may leave one class; anything else is a fault
        assert "patient" in str(error) or "no image has the label" in str(error)  # noqa: PT017


def test_the_report_accounts_for_every_image(tmp_path: Path) -> None:
    path = write_demo_dataset(tmp_path / "set.zip", 30, 20, size=40)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("images/unlisted.png", b"nobody names it")
        table = archive.read("metadata.csv").decode()
        broken = next(name for name in archive.namelist() if name.endswith((".png", ".jpeg")))
        files = {name: archive.read(name) for name in archive.namelist()}
    files[broken] = b"broken"
    header, *rows = table.splitlines()
    rows[-1] = rows[-1].replace(rows[-1].split(",")[header.split(",").index("label")], "-1")
    files["metadata.csv"] = "\n".join([header, *rows]).encode()
    overrides: dict[str, Any] = {"data.uncertain": "drop", "data.unreadable": "skip"}
    overrides |= {"data.image_size": 32, "output.cache_dir": str(tmp_path / "cache")}
    config: Config = ConfigManager.load(overrides=overrides, environ={})
    report = prepare(make_zip(tmp_path / "other.zip", files), config).report
    flow = report["flow"]
    assert flow == {
        "found": 31, "used": 28, "unreadable": 1, "unlisted": 1, "uncertain": 1
    }  # fmt: skip
    assert report["labels_decided_by"] == {"value": 29, "uncertain": 1}
