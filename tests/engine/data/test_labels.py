"""From cells to labels, as the public sets write them."""

from __future__ import annotations

import pytest

from engine.data.labels import LabelRules, UnknownLabel, guess_separator, split_cell, vote
from engine.data.where import FilterError, parse_where

PNEUMONIA = LabelRules("Pneumonia")


@pytest.mark.parametrize(
    ("rules", "cell", "label"),
    [
        (PNEUMONIA, "pneumonia", 1),
        (PNEUMONIA, " NORMAL ", 0),
        (PNEUMONIA, "1.0", 1),
        (LabelRules("Pneumonia", separator="|"), "Effusion|Pneumonia", 1),  # NIH
        (LabelRules("Pneumonia", separator="|"), "Effusion|Mass", 0),
        (LabelRules("Pneumonia", separator="|"), "Mass", 0),
        (LabelRules("Pneumonia", separator="|"), "No Finding", 0),
        (LabelRules("Pneumonia", separator="/"), "Pneumonia/Viral/COVID-19", 1),  # covid-chestxray
        (LabelRules("pneumonia", separator="list"), "['pneumonia', 'pleural effusion']", 1),
        (LabelRules("pneumonia", separator="list"), "['atypical pneumonia']", 0),
        (LabelRules("pneumonia", {"atypical pneumonia": 1}, "list"), "['atypical pneumonia']", 1),
        (LabelRules("Pneumonia", {"Lung Opacity": 1, "*": "drop"}), "Lung Opacity", 1),
        (LabelRules("Pneumonia", {"Lung Opacity": 1, "*": "drop"}), "No Lung Opacity", None),
        (LabelRules("Pneumonia", {"*": "drop"}, "|"), "Mass|Nodule", None),
        (LabelRules("Pneumonia", unmentioned="drop", separator="list"), "[]", None),
        (LabelRules("Pneumonia", uncertain="positive"), "-1.0", 1),  # CheXpert
        (LabelRules("Pneumonia", unmentioned="drop"), "", None),
        (LabelRules("Pneumonia", unmentioned="negative"), "nan", 0),
    ],
)
def test_a_cell_is_read_as_its_set_means_it(rules: LabelRules, cell: str, label: int) -> None:
    assert rules.read(cell)[0] == label


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("Pneumonai", "unknown label"),
        ("-1", "set data.uncertain"),
        ("", "set data.unmentioned"),
    ],
)
def test_what_no_rule_covers_is_an_error_with_the_key_to_set(cell: str, words: str) -> None:
    with pytest.raises(UnknownLabel, match=words):
        PNEUMONIA.read(cell)


def test_what_decided_is_counted_apart() -> None:
    rules = LabelRules("Pneumonia", uncertain="drop", unmentioned="negative")
    assert [rules.read(cell)[1] for cell in ("1", "-1", "")] == [
        "value",
        "uncertain",
        "unmentioned",
    ]


def test_separators_are_guessed_and_hostile_lists_refused() -> None:
    for cells, sign in (
        (["Mass", "Effusion|Nodule"], "|"),
        (["['a', 'b']", "[]", ""], "list"),
        (["Pneumonia/Viral/COVID-19", "No Finding"], "/"),
        (["NORMAL", "PNEUMONIA", "n/a"], None),  # no finding is set apart by it
    ):
        assert guess_separator(cells, "PNEUMONIA") == sign
    for text in ("__import__('os')", "[" * 5000, "{'a': 1}", "['a'"):
        with pytest.raises(UnknownLabel, match="not a list"):
            split_cell(text, "list")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0, 0], {"any": 1, "majority": 0, "all": 0}),
        ([1, 1, 0], {"any": 1, "majority": 1, "all": 0}),
        ([1, 1, 1], {"any": 1, "majority": 1, "all": 1}),
        ([0, 0, 0], {"any": 0, "majority": 0, "all": 0}),
        ([1, 0], {"any": 1, "majority": 1, "all": 0}),
    ],
)
def test_readers_vote(labels: list[int], expected: dict[str, int]) -> None:
    assert {rule: vote(labels, rule).label for rule in expected} == expected
    assert vote(labels, "any").agreed == (len(set(labels)) == 1)


COLUMNS = ["View Position", "Patient Age", "sex"]


@pytest.mark.parametrize(
    ("text", "row", "matches"),
    [
        ("View Position in PA,AP", ["ap", "30", "F"], True),
        ("view_position in PA, AP", ["LATERAL", "30", "F"], False),
        ("View Position not in LATERAL", ["PA", "30", "F"], True),
        ("Patient Age >= 18 and sex = F", ["PA", "18", "f"], True),
        ("Patient Age >= 18 and sex = F", ["PA", "17.5", "F"], False),
        ("Patient Age > 18", ["PA", "", "F"], False),
        ("sex != M", ["PA", "1", "F"], True),
        ("Patient Age < 18", ["PA", "17,5", "F"], True),  # a decimal comma
    ],
)
def test_a_filter_chooses_rows(text: str, row: list[str], matches: bool) -> None:
    named = dict(zip(COLUMNS, row, strict=True))
    assert all(clause.matches(named) for clause in parse_where(text, COLUMNS)) is matches


@pytest.mark.parametrize(
    ("text", "words"),
    [("View Position", "no condition"), ("age > 3", "no column 'age'"), ("sex > F", "one number")],
)
def test_a_filter_that_cannot_be_read_says_why(text: str, words: str) -> None:
    with pytest.raises(FilterError, match=words):
        parse_where(text, COLUMNS)
