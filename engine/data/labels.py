"""From the cell of a table to a label: maps, lists in one cell, uncertain and unmentioned findings.

A cell is read in this order: `label_map` decides where it names the cell; an empty cell is
unmentioned; -1 is uncertain (CheXpert, MIMIC); then the usual words for both classes. A cell that
holds a list (`Effusion|Pneumonia`, `Pneumonia/Viral`, `['pneumonia', 'nodule']`) is positive if
any of its parts is, else negative: its parts are other findings, unless `*` maps those.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from engine.data.names import shown

NEGATIVES = frozenset({"normal", "negative", "0", "0.0", "false", "no", "healthy", "no finding",
                       "no findings", "no pneumonia", "no_pneumonia"})  # fmt: skip
POSITIVES = frozenset({"positive", "1", "1.0", "true", "yes"})
UNCERTAIN = frozenset({"-1", "-1.0", "uncertain"})
UNMENTIONED = frozenset({"", "nan", "none", "null"})
SEPARATORS = ("|", "/", ";")  # of auto, the first that a column holds
DROP = "drop"
WILDCARD = "*"


class UnknownLabel(ValueError):
    """A cell that no rule understands; the message says why."""


class UndecidedLabel(UnknownLabel):
    """An uncertain or empty cell, and no policy for it."""


@dataclass(frozen=True)
class LabelRules:
    """How cells become labels; what the keys `data.label_map` and its neighbours say."""

    positive: str  # the positive class, compared without case
    label_map: Mapping[str, int | str] = field(default_factory=dict)  # cell -> 0, 1 or drop
    separator: str | None = None  # of lists in a cell; "list" for Python's text of a list
    uncertain: str = "error"  # error, drop, positive or negative
    unmentioned: str = "error"

    def read(self, cell: str) -> tuple[int | None, str]:
        """(0, 1 or None to leave the image out, what decided it). Raises UnknownLabel.

        The second is `map`, `uncertain`, `unmentioned` or `value`.
        """
        value = cell.strip().casefold()
        mapped = self._mapped(value)
        if mapped is not None:
            return self._decided(mapped), "map"
        if value in UNMENTIONED:
            return self._policy("unmentioned", cell), "unmentioned"
        if value in UNCERTAIN:
            return self._policy("uncertain", cell), "uncertain"
        parts = split_cell(cell, self.separator)
        if not parts:
            return self._policy("unmentioned", cell), "unmentioned"
        labels = [self._part(part) for part in parts]
        if 1 in labels:
            return 1, "value"
        if labels == [0] * len(labels):
            return 0, "value"
        if WILDCARD in self.label_map:
            return self._decided(self.label_map[WILDCARD]), "map"
        if self.separator is not None:
            return 0, "value"  # other findings than the positive one
        raise UnknownLabel(f"unknown label {shown(cell)}")

    def _mapped(self, value: str) -> int | str | None:
        for name, label in self.label_map.items():
            if name != WILDCARD and name.strip().casefold() == value:
                return label
        return None

    def _part(self, part: str) -> int | None:
        mapped = self._mapped(part.strip().casefold())
        return label_of(part, self.positive) if mapped is None else self._decided(mapped)

    def _policy(self, name: str, cell: str) -> int | None:
        policy = getattr(self, name)
        if policy == "error":
            raise UndecidedLabel(f"{name} label {shown(cell)}; set data.{name}")
        return {DROP: None, "positive": 1, "negative": 0}[policy]

    @staticmethod
    def _decided(label: int | str) -> int | None:
        return None if label == DROP else int(label)


def label_of(text: str, positive: str) -> int | None:
    """0 or 1 for a class name, None for an unknown one."""
    value = text.strip().casefold()
    if value == positive.casefold() or value in POSITIVES:
        return 1
    return 0 if value in NEGATIVES else None


def split_cell(cell: str, separator: str | None) -> list[str]:
    """The parts of a cell; the cell itself where it holds no list. Raises UnknownLabel."""
    if separator is None:
        return [cell]
    if separator != "list":
        return [part.strip() for part in cell.split(separator) if part.strip()] or [cell]
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UnknownLabel(f"{shown(cell)} is not a list") from None
    if not isinstance(found, list | tuple | set):
        raise UnknownLabel(f"{shown(cell)} is not a list")
    return [str(part).strip() for part in found]


def guess_separator(cells: Collection[str], positive: str) -> str | None:
    """What separates findings in a column: list text, one of SEPARATORS, or None.

    A sign other than | may be part of a word: it counts only where it sets the positive class
    apart from another finding.
    """
    filled = [cell for cell in cells if cell.strip().casefold() not in UNMENTIONED]
    if filled and all(cell.startswith("[") and cell.endswith("]") for cell in filled):
        return "list"
    if any("|" in cell for cell in filled):
        return "|"
    return next((sign for sign in SEPARATORS if _sets_apart(positive, filled, sign)), None)


def _sets_apart(positive: str, cells: Collection[str], sign: str) -> bool:
    lists = (cell.casefold().split(sign) for cell in cells if sign in cell)
    return any(positive.casefold() in map(str.strip, parts) for parts in lists)


@dataclass(frozen=True, slots=True)
class Vote:
    """What the readers of one image say together."""

    label: int
    agreed: bool  # all of them said the same


def vote(labels: Sequence[int], rule: str) -> Vote:
    """One label from several readers': `any`, `majority` (a tie is positive) or `all`."""
    positives = sum(labels)
    chosen = {
        "any": positives > 0,
        "majority": 2 * positives >= len(labels),
        "all": positives == len(labels),
    }[rule]
    return Vote(int(chosen), positives in (0, len(labels)))
