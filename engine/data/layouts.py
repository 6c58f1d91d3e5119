"""Public data sets as they come: each is known by its files, and fills the keys of `data.*`.

A recogniser reads no image and no row. What it chose is said as options that could be typed; a key
that the configuration sets is left as it is, and `data.layout=none` turns all of them off.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from config.rules import show
from config.schema import AUTO, Data
from engine.data.names import is_image
from engine.data.problems import DatasetError
from engine.data.table_file import choose_tables, table_headers, table_names

Warnings = list[tuple[str, str]]
Keys = dict[str, Any]

RSNA = {"patientId", "x", "y", "width", "height", "Target"}
NIH = {"Image Index", "Finding Labels", "Patient ID"}
CHEXPERT = {"Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding"}
MIMIC_SPLIT = {"dicom_id", "study_id", "subject_id", "split"}
MIMIC_LABELS = {"subject_id", "study_id", "No Finding"}
MIMIC_VIEWS = {"dicom_id", "ViewPosition"}
PADCHEST = {"ImageID", "ImageDir", "PatientID", "Labels"}
VINDR = {"image_id", "No finding", "Pneumonia"}
VINBIGDATA = {"image_id", "class_name", "class_id", "rad_id", "x_min"}
COVID_CHESTXRAY = {"patientid", "finding", "modality", "folder", "filename"}
COVIDX_CLASSES = {"normal", "pneumonia", "COVID-19", "positive", "negative"}
COVIDX_SOURCES = {"cohen", "fig1", "actmed", "sirm", "rsna", "ricord", "bimcv", "stonybrook",
                  "rnsa"}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What a recogniser sees of a data set."""

    files: list[str]
    headers: dict[str, list[str]]  # of its tables; of those that data.table names, if any
    data: Data
    has_table: bool  # named by data.table, or metadata.csv

    def tables(self, columns: set[str]) -> list[str]:
        """The tables that have these columns."""
        return [name for name, header in self.headers.items() if columns <= set(header)]

    def named(self, name: str) -> str | None:
        """The path of the one file with this name."""
        found = [
            one for one in self.files if one.endswith(name) and PurePosixPath(one).name == name
        ]
        return found[0] if len(found) == 1 else None

    def positive_column(self, table: str) -> str:
        """The column of the positive class, or auto."""
        wanted = self.data.positive_label.casefold()
        return next((one for one in self.headers[table] if one.casefold() == wanted), AUTO)


def recognise(path: Path, files: dict[str, str], data: Data) -> tuple[Data, Warnings]:
    """The configuration with the keys of the layout that the data set has, and what to say of it.

    Raises DatasetError for a set that has no class of pneumonia.
    """
    if data.layout == "none":
        return data, []
    named = [part.name for part in choose_tables(path, files, data)]
    tables = {name: files[name] for name in named or table_names(files)}
    look = Look(list(files), table_headers(path, tables, data), data, bool(named))
    for name, layout in LAYOUTS.items():
        keys = layout(look)
        if keys is None:
            continue
        unset = Data()
        keys = {k: v for k, v in keys.items() if getattr(data, k) == getattr(unset, k) != v}
        typed = " ".join(
            f"--set {shlex.quote(f'data.{key}={show(value)}')}" for key, value in keys.items()
        )
        message = f"this is {name}, read with {typed or 'the keys that are set'}"
        return dataclasses.replace(data, **keys), [("recognised", message), *_notes(name)]
    return data, []


def _notes(name: str) -> Warnings:
    return [("layout_note", NOTES[name])] if name in NOTES else []


def rsna(look: Look) -> Keys | None:
    """RSNA Pneumonia Detection Challenge 2018: a row for each box, patientId numbers the image."""
    found = look.tables(RSNA)
    if len(found) != 1:
        return None
    keys = {"table": found[0], "filename_column": "patientId", "label_column": "Target"}
    return {**keys, "patient_column": "patientId"}


def nih(look: Look) -> Keys | None:
    """NIH ChestX-ray14: findings joined by |; the newest table where there are several."""
    found = look.tables(NIH)
    if not found:
        return None
    keys: Keys = {
        "table": sorted(found)[-1],
        "filename_column": "Image Index",
        "label_column": "Finding Labels",
        "label_separator": "|",
        "patient_column": "Patient ID",
    }
    train, test = look.named("train_val_list.txt"), look.named("test_list.txt")
    return {**keys, "split_lists": f"train={train},test={test}"} if train and test else keys


def chexpert(look: Look) -> Keys | None:
    """CheXpert-v1.0(-small): patients in the path, uncertain labels -1, not mentioned empty."""
    found = look.tables(CHEXPERT)
    splits = {"train.csv": "train", "valid.csv": "val", "test.csv": "test"}
    parts = {splits.get(PurePosixPath(name).name): name for name in found}
    if not found or len(parts) != len(found) or None in parts:
        return None
    table = ",".join(f"{part}={parts[part]}" for part in ("train", "val", "test") if part in parts)
    return {
        "table": found[0] if len(found) == 1 else table,
        "filename_column": "Path",
        "label_column": look.positive_column(found[0]),
        "patient_pattern": r"patient\d+",
        "uncertain": "drop",
        "unmentioned": "negative",
    }


def mimic(look: Look) -> Keys | None:
    """MIMIC-CXR-JPG: the split's rows name images, and studies have the labels."""
    images, labels = look.tables(MIMIC_SPLIT), look.tables(MIMIC_LABELS)
    labels = [name for name in labels if "chexpert" in name] or labels
    if len(images) != 1 or len(labels) != 1:
        return None
    views = [name for name in look.tables(MIMIC_VIEWS) if name != images[0]]
    return {
        "table": images[0],
        "join": ",".join([labels[0], *views[:1]]),
        "filename_column": "dicom_id",
        "label_column": look.positive_column(labels[0]),
        "patient_column": "subject_id",
        "split_column": "split",
        "uncertain": "drop",
        "unmentioned": "negative",
    }


def padchest(look: Look) -> Keys | None:
    """PadChest: labels are Python's text of a list; two kinds of pneumonia have names of theirs."""
    found = look.tables(PADCHEST)
    if len(found) != 1:
        return None
    pneumonia = look.data.positive_label.casefold() == "pneumonia"
    kinds = {"atypical pneumonia": 1, "viral pneumonia": 1} if pneumonia else {}
    return {
        "table": found[0],
        "filename_column": "ImageID",
        "label_column": "Labels",
        "label_separator": "list",
        "label_map": kinds,
        "patient_column": "PatientID",
        "unmentioned": "drop",
    }


def vindr(look: Look) -> Keys | None:
    """VinDr-CXR of PhysioNet: three readers an image in training, one row in test; no patients."""
    found = look.tables(VINDR)
    splits = {name: s for name in found for s in ("train", "test") if s in PurePosixPath(name).name}
    if not found or len(set(splits.values())) != len(found):
        return None
    parts = [
        f"{split}={name}" for name, split in sorted(splits.items(), key=lambda one: -len(one[1]))
    ]
    return {
        "table": ",".join(parts) if len(found) > 1 else found[0],
        "filename_column": "image_id",
        "label_column": look.positive_column(found[0]),
        "votes": "majority",
        "patient_column": "none",
    }


def vinbigdata(look: Look) -> Keys | None:
    """VinBigData of Kaggle, which names no pneumonia. Raises DatasetError unless keys say more."""
    if (
        look.tables(VINBIGDATA)
        and look.data.label_map == {}
        and look.data.positive_label == "PNEUMONIA"
    ):
        raise DatasetError(
            "this is the VinBigData set of Kaggle: none of its 14 findings is pneumonia (VinDr-CXR "
            "of PhysioNet, with the same images, has that label). data.positive_label names "
            "another finding, such as Consolidation; data.label_map says what counts as pneumonia"
        )
    return None


def covidx(look: Look) -> Keys | None:
    """COVIDx: lists without a header, separated by blanks: patient, file, class, source."""
    lists = {
        split: name
        for name, cells in look.headers.items()
        for split in [PurePosixPath(name).stem.split("_")[0]]
        if split in ("train", "val", "test") and name.endswith(".txt") and len(cells) == 4
        and cells[2] in COVIDX_CLASSES and cells[3] in COVIDX_SOURCES
    }  # fmt: skip
    if "train" not in lists:
        return None
    keys: Keys = {
        "table": ",".join(f"{s}={lists[s]}" for s in ("train", "val", "test") if s in lists),
        "header": "patient_id,filename,class,source",
        "label_column": "class",
        "patient_column": "patient_id",
    }
    two = look.headers[lists["train"]][2] in ("positive", "negative")
    if look.data.positive_label.casefold() == "covid-19":
        return keys if two else {**keys, "label_map": {"normal": 0, "pneumonia": 0}}
    if two and not look.data.label_map:
        raise DatasetError(
            "this is COVIDx with the classes positive and negative: they mean COVID-19, not "
            "pneumonia. data.positive_label=COVID-19 trains on them"
        )
    return {**keys, "label_map": {"normal": 0, "pneumonia": 1, "COVID-19": "drop"}}


def covid_radiography(look: Look) -> Keys | None:
    """COVID-19 Radiography Database of Kaggle: class folders with images and masks in them."""
    if look.has_table:
        return None
    classes = {name.partition("/")[0] for name in look.files if "/" in name and is_image(name)}
    plain = {name.casefold(): name for name in classes}
    covid = [name for name in classes if name.casefold() in ("covid", "covid-19")]
    if not covid or not {"normal", "viral pneumonia"} <= set(plain):
        return None
    mapped: dict[str, int | str] = {plain["viral pneumonia"]: 1, plain["normal"]: 0}
    others = sorted(name for name in classes if name not in mapped)
    return {"label_map": mapped | dict.fromkeys(others, "drop")}


def covid_chestxray(look: Look) -> Keys | None:
    """IEEE8023 covid-chestxray: findings are paths; CT images are among the rows."""
    found = look.tables(COVID_CHESTXRAY)
    if len(found) != 1:
        return None
    return {
        "table": found[0],
        "filename_column": "filename",
        "label_column": "finding",
        "label_separator": "/",
        "label_map": {"todo": "drop", "Unknown": "drop"},
        "patient_column": "patientid",
        "unmentioned": "drop",
        "where": "modality = X-ray",
    }


LAYOUTS: dict[str, Callable[[Look], Keys | None]] = {
    "RSNA 2018": rsna,
    "NIH ChestX-ray14": nih,
    "CheXpert": chexpert,
    "MIMIC-CXR-JPG": mimic,
    "PadChest": padchest,
    "VinDr-CXR": vindr,
    "VinBigData": vinbigdata,
    "COVIDx": covidx,
    "COVID-19 Radiography": covid_radiography,
    "covid-chestxray": covid_chestxray,
}
NOTES = {
    "COVIDx": (
        "COVIDx holds images of RSNA, whose ids number images, not people: images of one patient "
        "may be in several parts. data.patients=FILE names a table of images and patients"
    ),
    "COVID-19 Radiography": (
        "the images of COVID-19 and of lung opacity are left out: the set does not say whether "
        "they show pneumonia; data.label_map uses them"
    ),
}
