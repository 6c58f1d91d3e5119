"""Data sets as people hand them over: good ones, odd ones, broken ones, hostile ones."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from config.schema import Data
from engine.data.problems import Problems
from engine.data.source import DatasetError, Source, open_source

GOOD = "patient_id,filename,label\n" + "".join(
    f"P{n},{n}.png,{'PNEUMONIA' if n % 2 else 'NORMAL'}\n" for n in range(8)
)
IMAGES = {f"images/{n}.png": f"image {n}".encode() for n in range(8)}


def make_zip(path: Path, files: Mapping[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_folder(path: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def opened(tmp_path: Path, table: str, images: Mapping[str, bytes] = IMAGES, **data: str) -> Source:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": table, **images})
    return open_source(path, dataclasses.replace(Data(), **data))


def problems(tmp_path: Path, table: str, images: Mapping[str, bytes] = IMAGES, **data: str) -> str:
    with pytest.raises(DatasetError) as caught:
        opened(tmp_path, table, images, **data)
    return str(caught.value)


@pytest.mark.parametrize("wrapping", ["", "chest_xray/", "a/b/"])
@pytest.mark.parametrize("make", [make_zip, make_folder])
def test_zip_and_folder_wrapped_or_not_are_the_same(
    tmp_path: Path, wrapping: str, make: Callable[[Path, Mapping[str, bytes | str]], Path]
) -> None:
    files = {wrapping + name: content for name, content in {"metadata.csv": GOOD, **IMAGES}.items()}
    source = open_source(make(tmp_path / "set", files), Data())
    assert [(r.name, r.label, r.patient) for r in source.records] == [
        (f"images/{n}.png", n % 2, f"P{n}") for n in range(8)
    ]
    assert source.label_names == ("NORMAL", "PNEUMONIA")
    assert source.read("images/3.png") == b"image 3"
    assert not source.warnings
    reader = pickle.loads(pickle.dumps(source.reader()))
    with reader:
        assert reader.read("images/5.png") == b"image 5"


def test_the_rsna_table_with_a_row_for_each_box_is_one_record_per_image(tmp_path: Path) -> None:
    table = "patientId,x,y,width,height,Target\n" + "".join(
        f"{n},,,,,{n % 2}\n" * (1 + n % 3) for n in range(8)
    )
    images = {f"stage_2_train_images/{n}.dcm": b"image" for n in range(8)}
    source = opened(tmp_path, table, images)
    assert len(source.records) == 8
    assert [record.label for record in source.records] == [n % 2 for n in range(8)]
    assert source.records[2].name == "stage_2_train_images/2.dcm"


def test_patient_ids_that_number_the_images_are_not_used_and_warned_of(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n % 2}\n" for n in range(8))
    images = {f"stage_2_train_images/{n}.dcm": b"image" for n in range(8)}
    source = opened(tmp_path, f"patientId,Target\n{rows}", images)
    assert {record.patient for record in source.records} == {None}
    [(code, message)] = source.warnings
    assert code == "patient_ids_number_images"
    assert "column patientId" in message
    assert "several parts" in message
    table = "filename,patient,label\n" + "".join(f"{n},{n // 2},{n % 2}\n" for n in range(8))
    source = opened(tmp_path, table, images)
    assert [record.patient for record in source.records] == [str(n // 2) for n in range(8)]


def test_class_folders_as_kaggle_has_them(tmp_path: Path) -> None:
    files = {
        f"chest_xray/{split}/{name}": b"image"
        for split in ("train", "val", "test")
        for name in (
            *("NORMAL/IM-0115-0001.jpeg", "NORMAL/NORMAL2-IM-0222-0001.jpeg"),
            *("PNEUMONIA/person1_bacteria_1.jpeg", "PNEUMONIA/person1_virus_2.jpeg"),
            "PNEUMONIA/person3_virus_15.jpeg",
        )
    }
    files["__MACOSX/chest_xray/train/NORMAL/._IM-0115-0001.jpeg"] = b"rubbish"
    files["chest_xray/train/NORMAL/.DS_Store"] = b"rubbish"
    source = open_source(make_zip(tmp_path / "kaggle.zip", files), Data())
    assert len(source.records) == 15
    assert {record.split for record in source.records} == {"train", "val", "test"}
    of_train = [record for record in source.records if record.split == "train"]
    patients = ["IM-0115", "IM-0222", "person1", "person1", "person3"]
    assert [record.patient for record in of_train] == patients
    assert [record.label for record in of_train] == [0, 0, 1, 1, 1]
    assert {code for code, _ in source.warnings} == {"patient_leakage", "small_validation"}


def test_class_folders_without_splits(tmp_path: Path) -> None:
    files = {f"{label}/{n}.jpg": b"x" for label in ("Normal", "pneumonia") for n in range(3)}
    source = open_source(make_folder(tmp_path / "set", files), Data())
    assert source.label_names == ("Normal", "PNEUMONIA")
    assert [code for code, _ in source.warnings] == ["no_patient_ids"]
    assert {record.split for record in source.records} == {None}


def test_images_deeper_in_a_class_folder_are_used_and_masks_and_loose_ones_counted(
    tmp_path: Path,
) -> None:
    files = {f"NORMAL/images/{n}.png": b"x" for n in range(3)}
    files |= {f"PNEUMONIA/hospital/{n}/a.png": b"x" for n in range(3)}
    files |= {f"NORMAL/masks/{n}.png": b"x" for n in range(3)}
    files |= {"loose.png": b"x", "again/NORMAL/0.png": b"x"}
    source = open_source(make_folder(tmp_path / "set", files), Data())
    assert len(source.records) == 6
    assert [record.label for record in source.records] == [0, 0, 0, 1, 1, 1]
    message = dict(source.warnings)["unused_images"]
    assert "5 images" in message
    assert "NORMAL/masks/0.png" in message


def test_a_folder_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    files = {f"{label}/{n}.jpg": b"x" for label in ("NORMAL", "PNEUMONIA") for n in range(3)}
    files["COVID/images/1.jpg"] = b"x"
    with pytest.raises(DatasetError, match="the folder 'COVID' names no known class"):
        open_source(make_folder(tmp_path / "set", files), Data())


@pytest.mark.parametrize(
    "header", ["Image_Path;Class;Subject ID", "FILE\tdiagnosis\tpatient", "image,Target,patientId"]
)
def test_columns_go_by_many_names_and_separators(tmp_path: Path, header: str) -> None:
    sign = next(sign for sign in ";\t," if sign in header)
    rows = "".join(
        sign.join((f"{n}.png", "PNEUMONIA" if n % 2 else "NORMAL", f"P{n}")) + "\n"
        for n in range(8)
    )
    source = opened(tmp_path, f"\ufeff{header}\r\n{rows}")
    assert [record.patient for record in source.records] == [f"P{n}" for n in range(8)]


def test_columns_can_be_named(tmp_path: Path) -> None:
    table = GOOD.replace("filename", "bild").replace("label", "befund")
    source = opened(tmp_path, table, filename_column="bild", label_column="befund")
    assert len(source.records) == 8
    message = problems(tmp_path, table, filename_column="bidl", label_column="befund")
    assert "data.filename_column" in message
    assert "'bild'" in message


def test_a_split_column_is_obeyed(tmp_path: Path) -> None:
    lines = GOOD.splitlines()
    words = ["Training", "train", "train", "train", "valid", "VAL", "test", "Testing"]
    table = "\n".join(
        [lines[0] + ",split", *(f"{a},{b}" for a, b in zip(lines[1:], words, strict=True))]
    )
    source = opened(tmp_path, table)
    expected = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert [record.split for record in source.records] == expected
    assert "line 3: split 'tarin' is not train" in problems(
        tmp_path, table.replace("NORMAL,train", "NORMAL,train").replace("P1,1.png,PNEUMONIA,train",
                                                                        "P1,1.png,PNEUMONIA,tarin")
    )  # fmt: skip


def test_a_table_without_patient_ids_is_warned_of_once(tmp_path: Path) -> None:
    table = "\n".join(line.partition(",")[2] for line in GOOD.splitlines())
    source = opened(tmp_path, table)
    assert [code for code, _ in source.warnings] == ["no_patient_ids"]


def test_any_other_positive_class_with_exactly_two(tmp_path: Path) -> None:
    table = GOOD.replace("PNEUMONIA", "COVID").replace("NORMAL", "Other")
    source = opened(tmp_path, table, positive_label="COVID")
    assert source.label_names == ("Other", "COVID")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("patient_id,filename", "fnord,x"), ["metadata.csv line 1", "data.filename_column"]),
        (("label", "fnord"), ["metadata.csv line 1", "data.label_column"]),
        (("4.png,NORMAL", "4.png,NORMALE"), ["line 6", "'NORMALE'", "NORMAL"]),
        (("4.png,NORMAL", "4.png,"), ["line 6", "unmentioned label ''", "data.unmentioned"]),
        (("4.png,NORMAL", "4.png"), ["line 6", "2 of 3 cells"]),
        (("P4,4.png", "P4,"), ["line 6", "file name is empty"]),
        (("P4,4.png", "P4,../4.png"), ["line 6", "leads out"]),
        (
            ("P4,4.png,NORMAL", "P2,2.png,PNEUMONIA"),
            ["line 6", "line 4", "two labels; data.votes"],
        ),
        (("P4,4.png,NORMAL", "P9,2.png,NORMAL"), ["line 6", "line 4", "two patients"]),
        (("P4,4.png", "P4,nowhere.png"), ["line 6", "'nowhere.png'", "data.unreadable=skip"]),
        (("PNEUMONIA", "NORMAL"), ["no image has the label PNEUMONIA"]),
    ],
)
def test_a_wrong_table_names_file_line_and_way_out(
    tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    message = problems(tmp_path, GOOD.replace(*change))
    for word in words:
        assert word in message


def test_everything_missing_is_listed_at_once_or_left_out(tmp_path: Path) -> None:
    present = {name: data for name, data in IMAGES.items() if name not in
               ("images/2.png", "images/5.png")}  # fmt: skip
    message = problems(tmp_path, GOOD, present)
    assert "'2.png'" in message
    assert "'5.png'" in message
    source = opened(tmp_path, GOOD, present, unreadable="skip")
    assert source.missing == ["2.png", "5.png"]
    assert len(source.records) == 6
    assert source.warnings[0][0] == "missing_images"


def test_wrong_labels_splits_and_missing_images_are_listed_in_one_message(tmp_path: Path) -> None:
    table = GOOD.replace("4.png,NORMAL", "4.png,NORMALE").replace("P2,2.png", "P2,nowhere.png")
    table = table.replace("P6,6.png,NORMAL", "P6,6.png")
    message = problems(tmp_path, table)
    for words in ("line 6: unknown label 'NORMALE'", "line 4: 'nowhere.png'", "line 8: the row"):
        assert words in message
    assert "3 problems" in message


def test_of_very_many_problems_fifty_are_kept_of_every_kind_and_all_are_counted(
    tmp_path: Path,
) -> None:
    table = GOOD + "".join(f"Q,{n}.png,WRONG{n}\n" for n in range(300)) + "Q,nowhere.png,NORMAL\n"
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": table, **IMAGES})
    with pytest.raises(DatasetError) as caught:
        open_source(path, Data())
    assert caught.value.count == 301
    assert len(caught.value.problems) == 51
    assert "nowhere.png" in str(caught.value)
    assert str(caught.value).endswith("and 250 more (label 250)")


def test_problems_of_single_rows_can_be_collected_with_others(tmp_path: Path) -> None:
    table = GOOD.replace("4.png,NORMAL", "4.png,NORMALE")
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": table, **IMAGES})
    found = Problems()
    source = open_source(path, Data(), found)
    assert len(source.records) == 7
    assert found.listed() == [
        "line 6: unknown label 'NORMALE' (known: PNEUMONIA, NORMAL, 1, 0; data.label_map adds "
        "others; did you mean NORMAL?)"
    ]


def test_too_few_patients(tmp_path: Path) -> None:
    table = GOOD
    for n in (1, 3, 5, 7):
        table = table.replace(f"P{n},", "P1,")
    assert "at least 2 patients" in problems(tmp_path, table)


def test_a_table_that_is_not_utf8_or_empty(tmp_path: Path) -> None:
    for content, words in (
        (b"a,b\n\xff\xfe", "line 2"),
        (b"", "empty"),
        (b"filename,label\n", "no rows"),
    ):
        path = make_zip(tmp_path / "set.zip", {"metadata.csv": content, **IMAGES})
        with pytest.raises(DatasetError, match=words):
            open_source(path, Data())


def test_the_only_table_with_known_columns_is_taken_whatever_its_name(tmp_path: Path) -> None:
    files = {"labels.csv": GOOD, "notes.csv": "a,b\n1,2\n", **IMAGES}
    source = open_source(make_zip(tmp_path / "set.zip", files), Data())
    assert len(source.records) == 8
    assert source.warnings == [("table_chosen", "the table is labels.csv (data.table=labels.csv)")]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (
            {"a.csv": GOOD, "b.csv": GOOD},
            ["several", "data.table=a.csv", "data.table=b.csv"],
        ),
        ({"notes.csv": "a,b\n1,2\n"}, ["no metadata.csv", "'notes.csv'", "data.table"]),
        ({}, ["no metadata.csv", "no folders NORMAL"]),
    ],
)
def test_no_table_or_several_are_listed_with_the_key(
    tmp_path: Path, tables: dict[str, str], words: list[str]
) -> None:
    path = make_zip(tmp_path / "set.zip", {**tables, **IMAGES})
    with pytest.raises(DatasetError) as caught:
        open_source(path, Data())
    assert all(word in str(caught.value) for word in words)


def test_names_in_umlauts_with_and_without_the_flag(tmp_path: Path) -> None:
    table = GOOD.replace("4.png", "Übersicht & 4.png")
    images = {name.replace("4.png", "Übersicht & 4.png"): data for name, data in IMAGES.items()}
    assert len(opened(tmp_path, table, images).records) == 8
    path = tmp_path / "set.zip"
    raw = path.read_bytes()  # the flag bit off: as many tools write it
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(signature)
        while at >= 0:
            flags = int.from_bytes(raw[at + offset : at + offset + 2], "little") & ~0x800
            raw = raw[: at + offset] + flags.to_bytes(2, "little") + raw[at + offset + 2 :]
            at = raw.find(signature, at + 4)
    path.write_bytes(raw)
    assert len(open_source(path, Data()).records) == 8


def test_links_in_a_folder_are_followed_once(tmp_path: Path) -> None:
    make_folder(
        tmp_path / "images", {name.partition("/")[2]: data for name, data in IMAGES.items()}
    )
    folder = make_folder(tmp_path / "set", {"metadata.csv": GOOD})
    (folder / "images").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "circle").symlink_to(folder)
    assert len(open_source(folder, Data()).records) == 8


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.zip: there is no such"):
        open_source(tmp_path / "nowhere.zip", Data())
