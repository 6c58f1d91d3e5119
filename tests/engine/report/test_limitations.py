"""Limitations follow from the facts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from config import Config
from engine.metrics.assessment import assess
from engine.report.facts import Facts, Part
from engine.report.limitations import limitations


def facts(part: str = "test", count: int = 400, swapped: bool = False, **more: Any) -> Facts:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    scores = np.clip(0.25 + 0.5 * labels + rng.normal(0, 0.15, count), 0, 1)
    scores = 1 - scores if swapped else scores
    columns = more.pop("columns", {})
    found = Part(part, [f"{i}.png" for i in range(count)], labels, scores, columns)
    values: dict[str, Any] = {
        "row": {},
        "config": Config(),
        "validation": {"split": {"patient_ids": "shared"}},
        "manifest": {},
        "result": {},
        "epochs": [],
        "warnings": [],
        "parts": {part: found, "val": found},
        "bundle": {"default_operating_point": "default_0.5"},
        "assessments": {part: assess(scores, labels, 0.5, columns=columns)},
    }
    return Facts(**{**values, **more})


def said(found: Facts) -> str:
    return "\n".join(limitations(found))


def test_a_large_clean_test_part_has_only_the_general_ones() -> None:
    columns = {"Age": ["40", "61"] * 200, "gender": ["F", "F", "M", "M"] * 100, "site": ["a"] * 400}
    text = said(facts(columns=columns))
    assert "All patients are adults (from 40 years)" in text
    assert "All images come from one site (a)" in text
    assert "The column Age alone predicts the label" in text
    assert "no test part" not in text
    assert "swapped" not in text
    assert "do not say" not in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"part": "val"}, "There is no test part"),
        ({"count": 60}, "Only 30 images are with the disease"),
        ({"swapped": True}, "are the two classes swapped"),
        ({"validation": {"split": {"patient_ids": "none"}}}, "name no patients"),
        ({"validation": {"split": {"patient_ids": "distinct"}}}, "the ids may number images"),
        ({"validation": {"split": {"shared_pixels": 3}}}, "3 identical images are in more"),
        ({"validation": {"split": {"near_duplicates": 2}}}, "2 pairs of nearly identical"),
        ({"columns": {"image_path": ["x"] * 400}}, "do not say the patients' age and sex"),
        ({"columns": {"age": ["1", "5"] * 200}}, "All patients are children (up to 5 years)"),
    ],
)
def test_each_fact_has_its_sentence(change: dict[str, Any], sentence: str) -> None:
    assert sentence in said(facts(**change))
