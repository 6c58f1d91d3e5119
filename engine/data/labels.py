"""From the cell of a table to a label: maps, lists in one cell, uncertain and unmentioned findings.

A cell is read in this order: `label_map` decides where it names the cell; an empty cell is
unmentioned; -1 is uncertain (CheXpert, MIMIC); then the usual words for both classes. A cell that
holds a list (`Effusion|Pneumonia`, `Pneumonia/Viral`, `['pneumonia', 'nodule']`) is positive if
any of its parts is, else negative if every part is known to be another finding.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NEGATIVES = frozenset({"normal", "negative", "0", "0.0", "false", "no", "healthy", "no finding",
                       "no findings", "no pneumonia", "no_pneumonia"})  # fmt: skip
POSITIVES = frozenset({"positive", "1", "1.0", "true", "yes"})
UNCERTAIN = frozenset({"-1", "-1.0", "uncertain"})
UNMENTIONED = frozenset({"", "nan", "none", "null"})
SEPARATORS = ("|", "/", ";")  # of auto, the first that a column holds
DROP = "drop"
POLICIES = ("error", DROP, "positive", "negative")
WILDCARD = "*"


class UnknownLabel(ValueError):
    """A cell that no rule understands; the message says why."""


@dataclass(frozen=True)
class LabelRules:
    """How cells become labels; what the keys `data.label_map` and its neighbours say."""

    positive: str  # the positive class, compared without case
    label_map: Mapping[str, int | str] = field(default_factory=dict)  # cell -> 0, 1 or drop
    separator: str | None = None  # of lists in a cell; "list" for Python's text of a list
    uncertain: str = "error"  # one of POLICIES
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
        labels = [self._part(part) for part in parts]
        if 1 in labels:
            return 1, "value"
        if len(parts) > 1 or labels == [0]:
            return 0, "value"  # every part is another finding than the positive one
        if WILDCARD in self.label_map:
            return self._decided(self.label_map[WILDCARD]), "map"
        if self.separator is not None:
            return 0, "value"  # one finding, and not the positive one
        raise UnknownLabel(f"unknown label {cell!r}")

    def _mapped(self, value: str) -> int | str | None:
        for name, label in self.label_map.items():
            if name != WILDCARD and name.strip().casefold() == value:
                return label
        return None

    def _part(self, part: str) -> int | None:
        value = part.strip().casefold()
        mapped = self._mapped(value)
        if mapped is not None:
            return self._decided(mapped)
        if value == self.positive.casefold() or value in POSITIVES:
            return 1
        return 0 if value in NEGATIVES else None

    def _policy(self, name: str, cell: str) -> int | None:
        policy = getattr(self, name)
        if policy == "error":
            raise UnknownLabel(f"the finding is {name} ({cell!r}); set data.{name}")
        return {DROP: None, "positive": 1, "negative": 0}[policy]

    @staticmethod
    def _decided(label: int | str) -> int | None:
        return None if label == DROP else int(label)


def split_cell(cell: str, separator: str | None) -> list[str]:
    """The parts of a cell; the cell itself where it holds no list. Raises UnknownLabel."""
    if separator is None:
        return [cell]
    if separator != "list":
        return [part.strip() for part in cell.split(separator) if part.strip()] or [cell]
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UnknownLabel(f"{cell[:80]!r} is not a list") from None
    if not isinstance(found, list | tuple | set):
        raise UnknownLabel(f"{cell[:80]!r} is not a list")
    return [str(part).strip() for part in found]


def guess_separator(cells: Sequence[str]) -> str | None:
    """What separates findings in a column: list text, one of SEPARATORS, or None."""
    filled = [cell for cell in cells[:2000] if cell.strip()]
    if filled and all(cell.startswith("[") and cell.endswith("]") for cell in filled):
        return "list"
    return next((sign for sign in SEPARATORS if any(sign in cell for cell in filled)), None)


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


def count_cells(cells: Sequence[str], most: int = 50) -> list[tuple[str, int]]:
    """The distinct cells with their counts, the most frequent first, at most `most`."""
    return Counter(cell.strip() for cell in cells).most_common(most)
