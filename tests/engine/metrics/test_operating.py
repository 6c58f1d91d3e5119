"""Rules for thresholds, against trying every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.metrics import confusion, recall, specificity
from engine.metrics.operating import DEFAULT_RULES, RuleNotMet, choose_threshold, parse_rule

SCORED = st.lists(
    st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.integers(0, 1)), min_size=2, max_size=50
)


def figures(scores: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[float, float]:
    cells = confusion(scores, labels, threshold)
    return recall(cells), specificity(cells)


@given(SCORED, st.sampled_from(["specificity>=0.90", "sensitivity>=0.95", "youden"]))
def test_no_threshold_does_better_under_the_rule(rows: list[tuple[float, int]], text: str) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < labels.sum() < len(labels))
    rule = parse_rule(text)
    tried = [figures(scores, labels, t) for t in np.append(np.unique(scores), [-1, 2])]
    try:
        found = figures(scores, labels, choose_threshold(rule, scores, labels))
    except RuleNotMet:
        useful = [(r, s) for r, s in tried if r > 0 and s > 0]
        bound = {"specificity": lambda r, s: s, "sensitivity": lambda r, s: r}[rule.kind]
        assert all(bound(r, s) < rule.bound for r, s in useful)
        return
    if rule.kind == "specificity":
        assert found[1] >= 0.9
        assert found[0] == max(r for r, s in tried if s >= 0.9)
        assert found[1] == max(s for r, s in tried if r == found[0])
    elif rule.kind == "sensitivity":
        assert found[0] >= 0.95
        assert found[1] == max(s for r, s in tried if r >= 0.95)
        assert found[0] == max(r for r, s in tried if s == found[1])
    else:
        assert sum(found) == pytest.approx(max(r + s for r, s in tried))


def test_a_threshold_lies_between_two_scores() -> None:
    found = choose_threshold(parse_rule("youden"), [0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1])
    assert found == pytest.approx(0.4)


def test_rules_are_read_as_people_write_them() -> None:
    assert parse_rule("recall >= 0.95") == parse_rule("sensitivity>=0.95")
    assert [parse_rule(text).text for text in DEFAULT_RULES] == list(DEFAULT_RULES)
    for wrong in ("accuracy>=0.9", "specificity>=1.5", "0.5", ""):
        with pytest.raises(ValueError, match="is no rule"):
            parse_rule(wrong)


def test_a_rule_that_cannot_be_met_says_what_can() -> None:
    scores, labels = [0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]
    with pytest.raises(RuleNotMet, match=r"found is 0\.000"):
        choose_threshold(parse_rule("specificity>=0.90"), scores, labels)
    with pytest.raises(RuleNotMet, match="both classes"):
        choose_threshold(parse_rule("youden"), [0.5], [1])
    assert choose_threshold(parse_rule("default_0.5"), [], []) == 0.5
