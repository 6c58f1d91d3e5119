"""Subgroups and the shortcut audit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.metrics import auroc
from engine.metrics.subgroups import MISSING, OTHER, audit_column, column_auroc, group_names


def test_a_column_that_decides_the_label_is_found_and_an_id_is_not() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    view = np.where(rng.random(400) < 0.8, labels, 1 - labels)
    assert column_auroc([("AP", "PA")[v] for v in view], labels) == pytest.approx(0.8, abs=0.06)
    assert column_auroc([f"P{n}" for n in range(400)], labels) == 0.5
    assert column_auroc(["same"] * 400, labels) == pytest.approx(0.5, abs=0.02)
    assert column_auroc(rng.choice(["a", "b", "c"], 400).tolist(), labels) < 0.6


def test_a_model_that_knows_only_the_column_is_worth_nothing_within_it() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 600)
    view = np.where(rng.random(600) < 0.85, labels, 1 - labels)
    scores = np.clip(0.2 + 0.6 * view + rng.normal(0, 0.05, 600), 0, 1)
    found = audit_column("view", [("AP", "PA")[v] for v in view], scores, labels, 0.5)
    assert auroc(scores, labels) > 0.8
    assert found.alone > 0.8
    assert found.within == pytest.approx(0.5, abs=0.1)


def test_every_image_is_in_one_subgroup_and_small_ones_have_no_figures() -> None:
    labels = np.array([0, 1] * 30)
    values = ["F"] * 28 + ["M"] * 27 + [""] * 5
    found = audit_column("sex", values, np.linspace(0, 1, 60), labels, 0.5)
    assert [(one.value, one.count) for one in found.subgroups] == [
        ("F", 28),
        ("M", 27),
        (MISSING, 5),
    ]
    assert math.isnan(found.subgroups[2].recall)
    assert not math.isnan(found.subgroups[0].recall)


def test_numbers_are_cut_into_quarters_in_order() -> None:
    names = group_names([str(n) for n in range(1, 101)] + [""])
    assert names[-1] == MISSING
    assert list(dict.fromkeys(names[:-1])) == [
        "1 to 25.75",
        "25.75 to 50.5",
        "50.5 to 75.25",
        "75.25 to 100",
    ]
    assert set(group_names(["1", "2", "1", "2"])) == {"1", "2"}


def test_many_words_are_joined() -> None:
    names = group_names([f"site {n}" for n in range(30) for _ in range(30 - n)])
    assert len(set(names)) == 13
    assert OTHER in names
