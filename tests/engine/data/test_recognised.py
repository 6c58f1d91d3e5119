"""Public data sets as they come, in tiny copies true to their layout, read with no other key."""

from __future__ import annotations

import gzip
import itertools
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from config import ConfigManager
from engine.data.names import is_image
from engine.data.problems import DatasetError
from engine.data.source import Source, open_source
from tests.engine.data.test_layouts import data_of, labels, patients, refused
from tests.engine.data.test_source import make_zip

Files = dict[str, bytes | str]
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
MIMIC_FINDINGS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
    "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,"
    "Support Devices"
)


class Expected(NamedTuple):
    """What a reader of the set must find, image by image, in the order of the records."""

    labels: list[int]
    patients: list[str | None]
    splits: list[str | None]
    flow: dict[str, int]
    warnings: set[str] = frozenset()  # type: ignore[assignment]  # codes that must be among them


def images(names: list[str]) -> Files:
    return dict.fromkeys(names, "image")


def rsna() -> tuple[Files, Expected]:
    files = images([f"stage_2_train_images/{n:08}.dcm" for n in range(6)])
    files |= images(["stage_2_test_images/00000099.dcm"])
    boxes = "".join(
        f"{n:08},{x},152.0,213.0,379.0,1\n" if n % 2 else f"{n:08},,,,,0\n"
        for n in range(6)
        for x in (["264.0", "562.0"] if n % 2 else [""])
    )
    files["stage_2_train_labels.csv"] = f"patientId,x,y,width,height,Target\n{boxes}"
    classes = ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal", "Lung Opacity")
    rows = "".join(f"{n:08},{classes[n % 4]}\n" for n in range(6))
    files["stage_2_detailed_class_info.csv"] = f"patientId,class\n{rows}"
    codes = {"patient_ids_number_images"}
    return files, Expected([0, 1] * 3, [None] * 6, [None] * 6, {"unlisted": 1}, codes)


def nih() -> tuple[Files, Expected]:
    names = [f"{n // 2:08}_{n % 2:03}.png" for n in range(12)]
    files = images([f"images_{1 + n // 6:03}/images/{name}" for n, name in enumerate(names)])
    found = ["No Finding", "Effusion|Pneumonia", "Cardiomegaly", "Pneumonia"] * 3
    rows = "".join(
        f"{name},{cell},{n % 2},{n // 2},{50 + n},M,PA,2682,2749,0.143,0.143,\n"
        for n, (name, cell) in enumerate(zip(names, found, strict=True))
    )
    files["Data_Entry_2017.csv"] = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        f"View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n{rows}"
    )
    files["BBox_List_2017.csv"] = "Image Index,Finding Label,Bbox [x,y,w,h]\n1.png,Mass,1,2,3,4\n"
    files["train_val_list.txt"] = "\n".join(names[:8])
    files["test_list.txt"] = "\n".join(names[8:])
    who: list[str | None] = [str(n // 2) for n in range(12)]
    return files, Expected([0, 1] * 6, who, ["train"] * 8 + ["test"] * 4, {})


def chexpert() -> tuple[Files, Expected]:
    """With the laterals that it has, and its small part for validation."""
    files: Files = {}
    rows: dict[str, list[str]] = {"train": [], "valid": []}
    for n, cell in enumerate(["1.0", "0.0", "-1.0", ""] * 3):
        part = "valid" if n >= 8 else "train"
        name = f"{part}/patient{n // 2:05}/study1/view{1 + n % 2}_frontal.jpg"
        files[name] = "image"
        blank = "," * 8
        rows[part].append(
            f"CheXpert-v1.0-small/{name},Female,{60 + n},Frontal,AP{blank}{cell},,,,,,\n"
        )
    for part, lines in rows.items():
        assert all(line.count(",") == CHEXPERT_HEADER.count(",") for line in lines)
        files[f"{part}.csv"] = f"{CHEXPERT_HEADER}\n{''.join(lines)}"
    who: list[str | None] = [f"patient{n // 2:05}" for n in range(12) if n % 4 != 2]
    splits: list[str | None] = ["train"] * 6 + ["val"] * 3
    return files, Expected([1, 0, 0] * 3, who, splits, {"uncertain": 3}, {"labels_unmentioned"})


def mimic() -> tuple[Files, Expected]:
    """One image of a study that has no row of labels."""
    names = [f"{n:08x}-0c9d-a5b1" for n in range(9)]
    people, studies = [f"1000000{n // 2}" for n in range(9)], [f"5000000{n}" for n in range(9)]
    rows = list(zip(names, people, studies, strict=True))
    files = images([f"files/p10/p{who}/s{study}/{name}.jpg" for name, who, study in rows])
    cells = ["1.0", "0.0", "-1.0", ""] * 2
    findings = "".join(
        f"{who},{study}{',' * 12}{cell},,\n"
        for (_, who, study), cell in zip(rows[:8], cells, strict=True)
    )
    parts = ["train"] * 4 + ["validate"] * 2 + ["test"] * 3
    split = "".join(
        f"{name},{study},{who},{part}\n"
        for (name, who, study), part in zip(rows, parts, strict=True)
    )
    views = "".join(
        f"{name},{who},{study},CHEST (PA AND LAT),PA,3056,2544,21800506\n"
        for name, who, study in rows
    )
    header = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows"
    for kind, text in {
        "chexpert": f"subject_id,study_id,{MIMIC_FINDINGS}\n{findings}",
        "negbio": f"subject_id,study_id,{MIMIC_FINDINGS}\n{findings}",
        "split": f"dicom_id,study_id,subject_id,split\n{split}",
        "metadata": f"{header},Columns,StudyDate\n{views}",
    }.items():
        files[f"mimic-cxr-2.0.0-{kind}.csv.gz"] = gzip.compress(text.encode())
    who: list[str | None] = [people[n] for n in range(8) if n % 4 != 2]
    splits: list[str | None] = ["train"] * 3 + ["val"] * 2 + ["test"]
    flow = {"uncertain": 2, "unlisted": 1}
    return files, Expected([1, 0, 0] * 2, who, splits, flow, {"labels_unmentioned"})


def padchest() -> tuple[Files, Expected]:
    cells = ["['pneumonia', 'pleural effusion']", "['normal']", "['atypical pneumonia']", ""] * 2
    rows = "".join(
        f'{n},{n}.png,{n % 2},20140915,{n},P{n // 2},1940.0,F,POSTEROANTERIOR,PA,"{cell}"\n'
        for n, cell in enumerate(cells)
    )
    header = (
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
        "ViewPosition_DICOM,Projection,Labels"
    )
    files = images([f"{n % 2}/{n}.png" for n in range(8)])
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    files[name] = gzip.compress(f"{header}\n{rows}".encode())
    who: list[str | None] = ["P0", "P2", "P0", "P2", "P1", "P3"]  # of 0/0, 0/4, 1/1, 1/5, 0/2, 0/6
    by_row = {n: (1, 0, 1, None)[n % 4] for n in range(8)}
    order = [n for n in range(8) if by_row[n] is not None]
    who = [f"P{n // 2}" for n in order]
    found = [value for n in order if (value := by_row[n]) is not None]
    return files, Expected(found, who, [None] * 6, {"unmentioned": 2})


def vindr() -> tuple[Files, Expected]:
    said = {0: "000", 1: "111", 2: "100", 3: "110", 4: "000"}
    rows = "".join(f"{n},R{r},0,{v},0\n" for n, votes in said.items() for r, v in enumerate(votes))
    files = images([f"train/{n}.dicom" for n in said] + [f"test/{n}.dicom" for n in range(5, 9)])
    files["annotations/image_labels_train.csv"] = (
        f"image_id,rad_id,Consolidation,Pneumonia,No finding\n{rows}"
    )
    tested = "".join(f"{n},0,{n % 2},0\n" for n in range(5, 9))
    files["annotations/image_labels_test.csv"] = (
        f"image_id,Consolidation,Pneumonia,No finding\n{tested}"
    )
    files["annotations/annotations_train.csv"] = "image_id,rad_id,class_name,x_min\n0,R1,Nodule,1\n"
    splits: list[str | None] = ["train"] * 5 + ["test"] * 4
    found = [0, 1, 0, 1, 0, 1, 0, 1, 0]
    return files, Expected(found, [None] * 9, splits, {}, {"votes_differ", "no_patient_ids"})


def covidx() -> tuple[Files, Expected]:
    kinds = ["normal", "pneumonia", "COVID-19"]
    files = images([f"train/{n}.png" for n in range(9)] + [f"test/{n}.png" for n in range(9, 15)])
    lines = [f"p{n // 3} {n}.png {kinds[n % 3]} {'rsna' if n % 2 else 'cohen'}" for n in range(15)]
    files["train.txt"], files["test.txt"] = "\n".join(lines[:9]), "\n".join(lines[9:]) + "\n"
    who: list[str | None] = [f"p{n // 3}" for n in range(15) if n % 3 != 2]
    splits: list[str | None] = ["train"] * 6 + ["test"] * 4
    return files, Expected([0, 1] * 5, who, splits, {"dropped": 5}, {"layout_note"})


def radiography() -> tuple[Files, Expected]:
    kinds = {"COVID": "COVID", "Normal": "Normal", "Lung_Opacity": "Lung_Opacity"}
    kinds["Viral Pneumonia"] = "Viral Pneumonia"
    top, files = "COVID-19_Radiography_Dataset", Files()
    for kind, below in itertools.product(kinds, ("images", "masks")):
        files |= images([f"{top}/{kind}/{below}/{kind}-{n}.png" for n in (1, 2, 3)])
    files[f"{top}/COVID.metadata.xlsx"] = "a spreadsheet"
    flow = {"dropped": 6, "outside": 12}
    return files, Expected([0] * 3 + [1] * 3, [None] * 6, [None] * 6, flow, {"layout_note"})


def covid_chestxray() -> tuple[Files, Expected]:
    rows = [
        ("2", "Pneumonia/Viral/COVID-19", "X-ray"),
        ("2", "Pneumonia/Viral/COVID-19", "X-ray"),
        ("3", "Pneumonia/Bacterial/Streptococcus", "X-ray"),
        ("4", "No Finding", "X-ray"),
        ("5", "Tuberculosis", "X-ray"),
        ("6", "Pneumonia/Viral/COVID-19", "CT"),
        ("7", "todo", "X-ray"),
        ("8", "Unknown", "X-ray"),
    ]
    lines = "".join(
        f'{who},0,M,65,{finding},PA,{kind},images,{n}.jpg,"a note, of\ntwo lines"\n'
        for n, (who, finding, kind) in enumerate(rows)
    )
    files = images([f"images/{n}.jpg" for n in range(8)])
    header = "patientid,offset,sex,age,finding,view,modality,folder,filename,clinical_notes"
    files["metadata.csv"] = f"{header}\n{lines}"
    who: list[str | None] = ["2", "2", "3", "4", "5"]
    return files, Expected([1, 1, 1, 0, 0], who, [None] * 5, {"filtered": 1, "dropped": 2})


def kermany() -> tuple[Files, Expected]:
    names = ["NORMAL/NORMAL-1003233-0001.jpeg", "NORMAL/NORMAL-1003233-0002.jpeg"]
    names += ["NORMAL/NORMAL-28501-0001.jpeg", "PNEUMONIA/BACTERIA-1008087-0001.jpeg"]
    names += ["PNEUMONIA/VIRUS-1020431-0001.jpeg", "PNEUMONIA/VIRUS-1020431-0002.jpeg"]
    files = images([f"chest_xray/{part}/{name}" for part in ("test", "train") for name in names])
    who: list[str | None] = ["1003233", "1003233", "28501", "1008087", "1020431", "1020431"] * 2
    splits: list[str | None] = ["test"] * 6 + ["train"] * 6
    return files, Expected([0, 0, 0, 1, 1, 1] * 2, who, splits, {}, {"patient_leakage"})


SETS: dict[str, Callable[[], tuple[Files, Expected]]] = {
    "RSNA 2018": rsna,
    "NIH ChestX-ray14": nih,
    "CheXpert": chexpert,
    "MIMIC-CXR-JPG": mimic,
    "PadChest": padchest,
    "VinDr-CXR": vindr,
    "COVIDx": covidx,
    "COVID-19 Radiography": radiography,
    "covid-chestxray": covid_chestxray,
    "Kermany": kermany,
}


def read(tmp_path: Path, files: Mapping[str, bytes | str], **keys: Any) -> Source:
    return open_source(make_zip(tmp_path / "set.zip", files), data_of(**keys))


@pytest.mark.parametrize("name", SETS)
def test_a_public_set_is_read_as_it_comes(tmp_path: Path, name: str) -> None:
    files, expected = SETS[name]()
    source = read(tmp_path, files)
    assert labels(source) == expected.labels
    assert patients(source) == expected.patients
    assert [record.split for record in source.records] == expected.splits
    assert source.flow == expected.flow
    assert len(source.records) + source.flow.total() == sum(map(is_image, source.files))
    assert expected.warnings <= dict(source.warnings).keys()


@pytest.mark.parametrize("name", [name for name in SETS if name != "Kermany"])
def test_what_was_recognised_can_be_typed(tmp_path: Path, name: str) -> None:
    files, _ = SETS[name]()
    source = read(tmp_path, files)
    said = dict(source.warnings)["recognised"]
    assert said.startswith(f"this is {name}, read with --set ")
    options = shlex.split(said.partition(" read with ")[2])
    typed = dict(option.split("=", 1) for option in options if option != "--set")
    data = ConfigManager.load(overrides={**typed, "data.layout": "none"}, environ={}).data
    again = open_source(tmp_path / "set.zip", data)
    assert again.records == source.records
    assert again.flow == source.flow


def test_a_key_that_is_set_is_left_as_it_is(tmp_path: Path) -> None:
    files, _ = chexpert()
    source = read(tmp_path, files, uncertain="positive", where="Age > 66")
    assert labels(source) == [0, 1, 0, 1, 0]  # rows 7 to 11
    assert source.flow == {"filtered": 7}
    source = read(tmp_path, files, table="train.csv")
    assert {record.split for record in source.records} == {None}


def test_a_column_of_a_joined_table_is_kept_and_filters(tmp_path: Path) -> None:
    files, _ = mimic()
    source = read(tmp_path, files)
    assert set(source.cells()["ViewPosition"]) == {"PA"}
    assert "data.where=ViewPosition = AP leaves no row" in refused(
        tmp_path, files, layout="auto", where="ViewPosition = AP"
    )


def test_labels_that_disagree_in_a_joined_table_are_named(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,S{n}\n" for n in range(4))
    studies = "S0,1\nS1,0\nS2,1\nS3,0\nS3,1\n"
    files = images([f"{n}.png" for n in range(4)])
    files |= {"images.csv": f"filename,study\n{rows}", "studies.csv": f"Study,label\n{studies}"}
    keys = {"table": "images.csv", "join": "studies.csv"}
    assert "studies.csv line 6: another row with Study='S3'" in refused(tmp_path, files, **keys)
    files["studies.csv"] = f"number,label\n{studies}"
    assert "no column of the same name" in refused(tmp_path, files, **keys)


def test_padchest_names_the_findings_that_are_nearly_pneumonia(tmp_path: Path) -> None:
    files, _ = padchest()
    source = read(tmp_path, files, label_map={"normal": 0})
    said = dict(source.warnings)["labels_nearly_positive"]
    assert "'atypical pneumonia' (2)" in said
    assert "data.label_map" in said


def test_a_set_without_a_pneumonia_class_is_told_so(tmp_path: Path) -> None:
    rows = "".join(f"{n},{'No finding' if n % 2 else 'Consolidation'},14,R1,,\n" for n in range(8))
    files = images([f"train/{n}.dicom" for n in range(8)])
    files["train.csv"] = f"image_id,class_name,class_id,rad_id,x_min,y_min\n{rows}"
    assert "none of its 14 findings is pneumonia" in refused(tmp_path, files, layout="auto")
    keys = {"label_column": "class_name", "label_map": "{Consolidation: 1, No finding: 0}"}
    assert labels(read(tmp_path, files, **keys)) == [1, 0] * 4
    files = images([f"train/{n}.png" for n in range(8)])
    kinds = ("positive", "negative")
    files["train.txt"] = "".join(f"p{n} {n}.png {kinds[n % 2]} cohen\n" for n in range(8))
    assert "they mean COVID-19" in refused(tmp_path, files, layout="auto")
    assert labels(read(tmp_path, files, positive_label="COVID-19")) == [1, 0] * 4


def test_a_column_without_pneumonia_lists_what_it_holds(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,{'Mass|Nodule' if n % 2 else 'No Finding'}\n" for n in range(8))
    files = images([f"{n}.png" for n in range(8)]) | {"metadata.csv": f"filename,label\n{rows}"}
    message = refused(tmp_path, files)
    assert "no image has the label PNEUMONIA" in message
    assert "'Mass|Nodule' in 4 rows is NO PNEUMONIA" in message or "in 4 rows" in message


MAPPING = [(f"{n:08}", f"{n // 3:08}_{n % 3:03}.png") for n in range(6)]


@pytest.mark.parametrize("kind", ["rsna.json", "mapping.csv", "plain.json", "outside.csv"])
def test_rsna_with_a_mapping_has_people(tmp_path: Path, kind: str) -> None:
    files, _ = rsna()
    if kind == "rsna.json":
        found = [{"subset_img_id": a, "img_id": b, "orig_labels": ["Mass"]} for a, b in MAPPING]
        text = json.dumps(found)
    elif kind == "plain.json":
        text = json.dumps({a: b[:8] for a, b in MAPPING})
    else:
        text = "patientId,img_id\n" + "".join(f"{a},{b}\n" for a, b in MAPPING)
    where = tmp_path / kind
    if kind == "outside.csv":
        where.write_text(text)
    else:
        files[f"tables/{kind}"] = text
    source = read(tmp_path, files, patients=str(where) if kind == "outside.csv" else kind)
    assert patients(source) == ["00000000"] * 3 + ["00000001"] * 3
    codes = dict(source.warnings).keys()
    assert not {"patient_ids_number_images", "patient_ids_missing", "no_patient_ids"} & codes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,c\n1,2,3\n", "which is the image"),
        ("image,patient_id\n00000000,P1\n00000000,P2\n", "of two patients"),
        ("image,patient_id\n", "names no image"),
    ],
)
def test_a_mapping_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    files, _ = rsna()
    assert words in refused(tmp_path, files | {"m.csv": text}, layout="auto", patients="m.csv")
    assert "no such file" in refused(tmp_path, files, layout="auto", patients="nowhere.csv")


def test_images_that_a_mapping_does_not_name_are_counted(tmp_path: Path) -> None:
    files, _ = radiography()
    files["COVID-19_Radiography_Dataset/owners.csv"] = "image,patient_id\n" + "".join(
        f"{kind}-{n},{kind}{n % 2}\n" for kind in ("Normal", "Viral Pneumonia") for n in (1, 2)
    )
    source = read(tmp_path, files, patients="owners.csv")
    assert patients(source)[:2] == ["Normal1", "Normal0"]
    assert "2 of 6 images" in dict(source.warnings)["patient_ids_missing"]


def test_lists_that_contradict_each_other_or_are_incomplete(tmp_path: Path) -> None:
    files, _ = nih()
    names = str(files["train_val_list.txt"]).split()
    files["train_val_list.txt"] = "\n".join([*names[1:], "00000099_000.png"])
    said = dict(read(tmp_path, files).warnings)
    assert said["split_lists_absent"].startswith("1 names")
    assert said["split_lists_incomplete"].startswith("1 of 12 images")
    files["train_val_list.txt"] = "\n".join([*names, str(files["test_list.txt"]).split()[0]])
    assert "is in the lists of train and test" in refused(tmp_path, files, layout="auto")


def test_a_file_that_is_named_and_not_there_or_ambiguous(tmp_path: Path) -> None:
    files, _ = chexpert()
    with pytest.raises(DatasetError, match=r"'elsewhere\.csv' \(data\.table\) is not there"):
        read(tmp_path, files, table="train=train.csv,val=elsewhere.csv")
    files["a/train.csv"] = files["b/train.csv"] = files.pop("train.csv")
    with pytest.raises(DatasetError, match=r"could be a/train\.csv or b/train\.csv"):
        read(tmp_path, files, table="val=valid.csv,train=train.csv")
