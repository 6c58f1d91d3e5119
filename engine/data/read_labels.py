"""The label column of a table: what each of its values means, or which key decides it."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from config.schema import AUTO, Data
from engine.data.labels import (
    LabelRules,
    UndecidedLabel,
    UnknownLabel,
    guess_separator,
    label_of,
    split_cell,
)
from engine.data.names import is_safe, shown
from engine.data.problems import LISTED, Problems

LONGEST_LABEL = 100  # characters
VALUES_SHOWN = 20  # of a label column in an error
DECIMAL_COMMA = re.compile(r"-?\d+,\d+")

Decided = tuple[int | None, str]  # 0, 1 or None to leave the image out; what decided


@dataclass(frozen=True)
class Labels:
    """What the values of a label column mean."""

    of: dict[str, Decided]  # without those that no rule understands
    names: tuple[str, str]  # negative, positive
    warnings: list[tuple[str, str]]
    found: list[str]  # the most frequent values with their counts and what they mean


def read_labels(cells: Iterable[tuple[str, str, int]], data: Data, problems: Problems) -> Labels:
    """`cells` holds (label as written, prefix of line); a strange value is one problem."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for cell, prefix, line in cells:
        counts[cell] += 1
        if cell not in first:
            first[cell] = f"{prefix}line {line}"
    rules = label_rules(data, counts)
    known: dict[str, Decided] = {}
    strange: dict[str, UnknownLabel] = {}
    for cell, _ in counts.most_common():
        written = cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell) else cell
        try:
            known[cell] = rules.read(written)
        except UnknownLabel as unknown:
            strange[cell] = unknown
    labels = {label for label, _ in known.values()}
    if len(strange) == 1 and labels == {1} and not data.label_map:
        (cell, error), *_ = strange.items()
        if not isinstance(error, UndecidedLabel):  # two classes, one of them the positive one
            known[cell] = (0, "value")
            strange.clear()
    for number, (cell, error) in enumerate(strange.items()):
        rows = f" in {counts[cell]:,} rows" if counts[cell] > 1 else ""
        undecided = isinstance(error, UndecidedLabel) or number >= LISTED
        meant = "" if undecided else _meant(cell, data.positive_label)
        problems.add("label", f"{first[cell]}: {error}{meant}{rows}")
    negative = _negative_name(known, rules, data)
    if len(negative) > LONGEST_LABEL or not is_safe(negative):
        why = f"has more than {LONGEST_LABEL} characters or control characters"
        problems.add("label", f"the class name {shown(negative)} {why}")
    warnings = _nearly_positive(known, counts, rules)
    if rules.separator is not None and data.label_separator == AUTO:
        message = (
            f"labels are read as lists of findings (data.label_separator={rules.separator}): one "
            f"with {data.positive_label} is positive, others are {negative}"
        )
        warnings.append(("label_lists", message))
    names = (negative, data.positive_label)
    found = [
        f"{shown(cell)} in {count:,} rows is {'left out' if label is None else names[label]}"
        for cell, count in counts.most_common(VALUES_SHOWN)
        for label in (known[cell][:1] if cell in known else ())
    ]
    return Labels(known, names, warnings, found)


def _nearly_positive(
    known: dict[str, Decided], counts: Counter[str], rules: LabelRules
) -> list[tuple[str, str]]:
    """A warning of findings in lists that hold the positive class's name and count as others."""
    near: Counter[str] = Counter()
    for cell, (label, reason) in known.items():
        if label == 0 and reason == "value" and rules.separator is not None:
            for part in split_cell(cell, rules.separator):
                is_near = rules.positive.casefold() in part.casefold()
                if is_near and label_of(part, rules.positive) is None:
                    near[part] += counts[cell]
    if not near:
        return []
    parts = ", ".join(f"{shown(part)} ({count:,})" for part, count in near.most_common(10))
    message = f"findings that are not {rules.positive} but hold its name count as negative: {parts}"
    return [
        ("labels_nearly_positive", f"{message}; data.label_map makes them positive (1) or drop")
    ]


def label_rules(data: Data, cells: Iterable[str] = ()) -> LabelRules:
    """The rules that the configuration sets; `cells` are the values to find a separator in."""
    separator: str | None = data.label_separator
    if separator == AUTO:
        mapped = {name.strip().casefold() for name in data.label_map}
        unmapped = [cell for cell in cells if cell.strip().casefold() not in mapped]
        separator = guess_separator(unmapped, data.positive_label)
    elif separator == "none":
        separator = None
    return LabelRules(
        data.positive_label, data.label_map, separator, data.uncertain, data.unmentioned
    )


def _negative_name(known: dict[str, Decided], rules: LabelRules, data: Data) -> str:
    """The class name of 0: the table's where it has one, else NORMAL, or NO and the positive."""
    names = [
        cell
        for cell, (label, reason) in known.items()
        if label == 0 and reason in ("value", "map") and not cell[:1].isdigit()
    ]
    if len(names) > 1 and (rules.separator or rules.label_map):
        return f"NO {data.positive_label}"
    return names[0] if names else "NORMAL"


def _meant(cell: str, positive: str) -> str:
    near = difflib.get_close_matches(cell[:LONGEST_LABEL].upper(), [positive.upper(), "NORMAL"], 1)
    also = f"; did you mean {near[0]}?" if near else ""
    return f" (known: {positive}, NORMAL, 1, 0; data.label_map adds others{also})"
