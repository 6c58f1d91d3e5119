"""Data sets as people hand them over: good ones, odd ones, broken ones, hostile ones."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import pickle
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from config.schema import Data
from engine.data.source import DatasetError, Source, UnreadableFile, open_source

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


def test_the_rsna_table_with_a_row_for_each_box_is_one_record_a_image(tmp_path: Path) -> None:
    table = "patientId,x,y,width,height,Target\n" + "".join(
        f"{n},,,,,{n % 2}\n" * (1 + n % 3) for n in range(8)
    )
    images = {f"stage_2_train_images/{n}.dcm": b"image" for n in range(8)}
    source = opened(tmp_path, table, images)
    assert len(source.records) == 8
    assert [record.label for record in source.records] == [n % 2 for n in range(8)]
    assert source.records[2].name == "stage_2_train_images/2.dcm"
    assert [record.patient for record in source.records] == [str(n) for n in range(8)]


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


def test_without_patient_ids_it_says_so_once(tmp_path: Path) -> None:
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
        (("4.png,NORMAL", "4.png,"), ["line 6", "unknown label ''"]),
        (("4.png,NORMAL", "4.png"), ["line 6", "2 of 3 cells"]),
        (("P4,4.png", "P4,"), ["line 6", "file name is empty"]),
        (("P4,4.png", "P4,../4.png"), ["line 6", "leads out"]),
        (("P4,4.png,NORMAL", "P2,2.png,PNEUMONIA"), ["line 6", "line 4", "two labels"]),
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


def test_everything_missing_is_told_at_once_or_left_out(tmp_path: Path) -> None:
    present = {name: data for name, data in IMAGES.items() if name not in
               ("images/2.png", "images/5.png")}  # fmt: skip
    message = problems(tmp_path, GOOD, present)
    assert "'2.png'" in message
    assert "'5.png'" in message
    source = opened(tmp_path, GOOD, present, unreadable="skip")
    assert source.missing == ["2.png", "5.png"]
    assert len(source.records) == 6
    assert source.warnings[0][0] == "missing_images"


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


def test_no_table_names_the_one_that_may_be_meant(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"labels.csv": GOOD, **IMAGES})
    with pytest.raises(DatasetError, match=r"no metadata\.csv.*labels\.csv"):
        open_source(path, Data())


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


# hostile archives


def hostile(tmp_path: Path, member: zipfile.ZipInfo | str, content: bytes = b"x") -> str:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, content)
    with pytest.raises(DatasetError) as caught:
        open_source(path, Data())
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "images/../../evil.png", "/etc/passwd", "C:/evil.png", "..\\evil.png",
     "images/con.png", "NUL"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    assert repr(name) in hostile(tmp_path, name)


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("images/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "symbolic link" in hostile(tmp_path, member, b"/etc/passwd")


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        assert "2 members have this name" in hostile(tmp_path, "images/1.png")


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"metadata.csv": GOOD.encode(), **IMAGES}.items():
            archive.writestr(name, content)
        for n in range(3):  # names in the directory alone, for the bytes of one image
            again = copy.copy(archive.filelist[-1])
            again.filename = f"images/again{n}.png"
            archive.filelist.append(again)
    with pytest.raises(DatasetError, match=r"'images/again2\.png': it shares its bytes"):
        open_source(path, Data())


def test_a_zip_in_a_zip_is_not_opened(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"images/deep.png": b"x" * 1000})
    files = {"metadata.csv": GOOD, **IMAGES, "images/inner.zip": inner.read_bytes()}
    source = open_source(make_zip(tmp_path / "set.zip", files), Data())
    assert not any("deep" in name for name in source.files)


def test_a_name_that_is_no_utf8_is_a_damaged_zip(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES, "images/\u00fc.png": b""}
    )
    path.write_bytes(path.read_bytes().replace("\u00fc".encode(), b"\xff\xfe"))
    with pytest.raises(DatasetError, match="damaged"):
        open_source(path, Data())


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match="encrypted"):
        open_source(path, Data())


def test_a_zip_that_would_unpack_past_the_limit_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.csv", GOOD)
        archive.writestr("images/bomb.png", bytes(30_000_000))
    path = tmp_path / "set.zip"
    path.write_bytes(buffer.getvalue())
    assert path.stat().st_size < 100_000
    with pytest.raises(DatasetError, match=r"data\.max_unpacked_gb"):
        open_source(path, dataclasses.replace(Data(), max_unpacked_gb=0.02))


def test_a_damaged_zip_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 rubbish", os.urandom(400)):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"set\.zip"):
            open_source(path, Data())


def test_a_wrong_checksum_is_an_unreadable_image_and_not_a_crash(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"metadata.csv": GOOD, **IMAGES})
    path.write_bytes(path.read_bytes().replace(b"image 3", b"image X", 1))
    source = open_source(path, Data())
    with pytest.raises(UnreadableFile, match="CRC"):
        source.read("images/3.png")


def test_a_hundred_thousand_tiny_members_open_in_time(tmp_path: Path) -> None:
    count = 100_000
    rows = "".join(f"P{n},{n}.png,{n % 2}\n" for n in range(count))
    files = {f"images/{n}.png": b"" for n in range(count)}
    path = make_zip(
        tmp_path / "set.zip", {"metadata.csv": f"patient_id,filename,label\n{rows}", **files}
    )
    assert len(open_source(path, Data()).records) == count


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
