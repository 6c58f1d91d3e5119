"""`data.split_lists`: text files that name the images of each part, one a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from config.schema import Data
from engine.data.finder import Finder
from engine.data.names import shown
from engine.data.parts import named_files
from engine.data.problems import DatasetError, Problems
from engine.data.table import Record


def split_by_lists(
    records: list[Record],
    path: Path,
    files: dict[str, str],
    read: Callable[[str], bytes],
    finder: Finder,
    data: Data,
    problems: Problems,
) -> tuple[list[Record], list[tuple[str, str]]]:
    """The records with the part that a list names them in, and warnings.

    Raises DatasetError for a list that is not there or not UTF-8.
    """
    part_of: dict[str, str] = {}
    absent = 0
    for name, split in named_files(data.split_lists, files, "data.split_lists"):
        if split is None:
            raise DatasetError(
                f"{path}: data.split_lists={data.split_lists}: say which part each list is, as in "
                "train=train_list.txt,test=test_list.txt"
            )
        try:
            lines = read(name).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise DatasetError(f"{path}: {name} is not UTF-8; save the list as UTF-8") from None
        for number, line in enumerate(lines, 1):
            if not (wanted := line.strip()):
                continue
            found = finder.find(wanted)
            if len(found) > 1:
                could = " or ".join(map(shown, found[:4]))
                problems.add("list", f"{name} line {number}: {shown(wanted)} could be {could}")
            for image in found[:1]:
                if part_of.setdefault(image, split) != split:
                    both = f"{shown(wanted)} is in the lists of {part_of[image]} and {split}"
                    problems.add("list", f"{name} line {number}: {both}")
            absent += not found
    placed = [dataclasses.replace(one, split=part_of.get(one.name)) for one in records]
    warnings = []
    if absent:
        message = f"{absent:,} names in the lists of the split are not among the files"
        warnings.append(("split_lists_absent", message))
    if outside := sum(record.split is None for record in placed):
        message = f"{outside:,} of {len(placed):,} images are in no list of data.split_lists"
        warnings.append(("split_lists_incomplete", f"{message}: they are in the training part"))
    return placed, warnings
