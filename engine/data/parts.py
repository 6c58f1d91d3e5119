"""Files that the configuration names, each with the part of the split that it stands for."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from engine.data.columns import split_of
from engine.data.names import shown
from engine.data.problems import DatasetError


class Part(NamedTuple):
    """A file of the data set, and train, val or test where all of it belongs to one part."""

    name: str
    split: str | None


def named_files(text: str, files: Collection[str], key: str, hint: str = "") -> list[Part]:
    """`a.csv`, or `train=a.csv,val=b.csv`: the files meant, by path or by name.

    Raises DatasetError for one that is not there; `key` names the setting, `hint` ends the message.
    """
    if text in files:
        return [Part(text, None)]
    found = []
    for item in text.split(","):
        before, sign, after = item.partition("=")
        split = split_of(before) if sign else None
        wanted = (after if split else item).strip()
        names = [wanted] if wanted in files else []
        names = names or [name for name in files if name.rpartition("/")[2] == wanted]
        if len(names) != 1:
            there = f"could be {' or '.join(names)}" if names else f"is not there{hint}"
            raise DatasetError(f"the file {shown(wanted)} ({key}) {there}")
        found.append(Part(names[0], split))
    return found
