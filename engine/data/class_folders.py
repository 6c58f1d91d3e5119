"""Images in folders named for their class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from config.schema import AUTO, Data
from engine.data.columns import split_of
from engine.data.labels import DROP, LabelRules, UnknownLabel, label_of
from engine.data.listed import patient_finder
from engine.data.names import is_image, shown
from engine.data.notices import Warnings, left_out, no_patients, without_match
from engine.data.table import Record

MASKS = ("mask", "masks")  # folders of what is no image
# The file names of Kermany's set hold the patient: Kaggle's person12_virus_3.jpeg and
# IM-0115-0001.jpeg, and the original BACTERIA-1008087-0001.jpeg.
KERMANY_PATIENT = re.compile(
    r"(person\d+)_(?:bacteria|virus)_\d+|.*?(IM-\d+)-\d+.*"
    r"|(?:BACTERIA|VIRUS|NORMAL)-(\d+)-\d+"
)


@dataclass
class Folders:
    """The images of class folders; `flow` counts those that are not used, by reason."""

    records: list[Record]
    label_names: tuple[str, str]  # negative, positive
    warnings: Warnings
    flow: Counter[str]
    unknown: list[str]  # what is wrong: folders that name no known class
    sure: bool  # all folders name a class in words, and both classes are there


def find_in_folders(files: dict[str, str], data: Data) -> Folders | None:
    """`NORMAL/**` and `PNEUMONIA/**`, alone or below `train`, `val` and `test`; None without."""
    records: list[Record] = []
    unknown: Counter[str] = Counter()
    outside: list[str] = []
    flow: Counter[str] = Counter()
    negatives: set[str] = set()
    numbered = False  # PadChest's folders 0 to 54 are no classes
    class_of, patient_of = _class_finder(data), _patient_of_file(data)
    for name in sorted(filter(is_image, files)):
        *folders, file = name.split("/")
        split = split_of(folders[0]) if len(folders) > 1 else None
        below = folders[1:] if split else folders  # the class, and folders within it
        label = class_of(below[0]) if below else None
        if not below or any(folder.casefold() in MASKS for folder in below):
            outside.append(name)
        elif label == DROP:
            flow["dropped"] += 1
        elif isinstance(label, int):
            numbered |= below[0].isdigit()
            if label == 0:
                negatives.add(below[0])
            records.append(Record(name, label, patient_of(name, file), split, None))
        elif any(label_of(folder, data.positive_label) is not None for folder in below):
            outside.append(name)  # of a data set within the data set
        else:
            unknown["/".join(folders[: 2 if split else 1])] += 1
    if not records:
        return None
    known = f"{data.positive_label} (data.positive_label) or NORMAL; data.label_map adds others"
    problems = [
        f"the folder {shown(folder)} names no known class: {known} ({count:,} images)"
        for folder, count in sorted(unknown.items())
    ]
    sure = not unknown and len({record.label for record in records}) == 2 and not numbered
    warnings = left_out(flow)
    if outside:
        flow["outside"] = len(outside)
        message = f"{len(outside)} images are outside the class folders or masks, and are not used"
        warnings.append(("unused_images", f"{message} ({outside[0]}, ...)"))
    if data.patient_pattern != AUTO:
        warnings += without_match(records, data)
    elif not any(record.patient for record in records):
        warnings.append(no_patients("folders by class hold no patient ids"))
    spelled = {name.casefold() for name in negatives}
    negative = max(negatives, default="NORMAL") if len(spelled) < 2 else f"NO {data.positive_label}"
    label_names = (negative, data.positive_label)
    return Folders(records, label_names, warnings, flow, problems, sure)


def _class_finder(data: Data) -> Callable[[str], int | str | None]:
    """What a folder's name means: 0, 1, drop, or None."""
    rules = LabelRules(data.positive_label, data.label_map)

    def find(folder: str) -> int | str | None:
        try:
            label, _ = rules.read(folder)
        except UnknownLabel:
            return None
        return DROP if label is None else label

    return find


def _patient_of_file(data: Data) -> Callable[[str, str], str | None]:
    """The patient id of (path, file name)."""
    if data.patient_pattern != AUTO:
        find = patient_finder(data)
        return lambda name, file: find(name)

    def kermany(name: str, file: str) -> str | None:
        match = KERMANY_PATIENT.fullmatch(file.rsplit(".", 1)[0])
        return next(filter(None, match.groups()), None) if match else None

    return kermany if data.patient_column != "none" else lambda name, file: None
