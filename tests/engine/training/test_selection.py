"""Which epoch is kept and when training ends, against brute force over the whole history."""

from __future__ import annotations

import json
import math
from functools import cmp_to_key
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.training.selection import BestEpoch, Criterion, EarlyStopping, EpochFigures

MINIMUM = 0.5
BY_RECALL = Criterion("recall", MINIMUM, 0.9)
BY_SPECIFICITY = Criterion("recall_at_specificity", MINIMUM, 0.9)
NAN = math.nan

# Few distinct values make ties common; nan and inf are figures like any other.
figure = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, NAN]), st.floats(0, 1))
loss = st.one_of(st.sampled_from([0.1, 0.2, 0.7, NAN, math.inf]), st.floats(0, 5))
histories = st.lists(st.tuples(figure, figure, figure, loss), max_size=30).map(
    lambda rows: [EpochFigures(epoch, *row) for epoch, row in enumerate(rows, start=1)]
)


def at(
    epoch: int,
    recall: float = 0.9,
    specificity: float = 0.9,
    auroc: float = 0.9,
    val_loss: float = 0.5,
) -> EpochFigures:
    return EpochFigures(epoch, recall, specificity, auroc, val_loss)


def kept_of(history: list[EpochFigures], minimum: float = MINIMUM) -> EpochFigures | None:
    best = BestEpoch(Criterion("recall", minimum, 0.9))
    for figures in history:
        best.update(figures)
    return best.best


# --- the kept epoch ------------------------------------------------------------------------


def compare(a: EpochFigures, b: EpochFigures) -> int:
    """The issue's words, step by step: positive where `a` is the better."""

    def more(x: float, y: float) -> int:
        if math.isfinite(x) and math.isfinite(y):
            return (x > y) - (x < y)
        return int(math.isfinite(x)) - int(math.isfinite(y))

    fit = [not math.isnan(e.recall) and e.specificity >= MINIMUM for e in (a, b)]
    by_recall = more(a.recall, b.recall) if all(fit) else 0
    return (
        (fit[0] - fit[1])
        or by_recall
        or more(a.auroc, b.auroc)
        or more(-a.val_loss, -b.val_loss)
        or b.epoch - a.epoch  # the earlier stays
    )


@given(histories)
def test_the_kept_epoch_is_the_best_of_the_whole_history(history: list[EpochFigures]) -> None:
    expected = max(history, key=cmp_to_key(compare)) if history else None
    assert kept_of(history) == expected or kept_of(history) is expected


@given(histories)
def test_update_is_true_exactly_when_the_kept_epoch_changes(history: list[EpochFigures]) -> None:
    best = BestEpoch(BY_RECALL)
    for figures in history:
        before = best.best
        assert best.update(figures) == (best.best is not before)


@given(histories)
def test_an_eligible_epoch_is_kept_as_soon_as_there_is_one(history: list[EpochFigures]) -> None:
    kept = kept_of(history)
    if any(BY_RECALL.eligible(figures) for figures in history):
        assert kept is not None
        assert BY_RECALL.eligible(kept)


def test_calling_everyone_ill_does_not_win() -> None:
    gamed = at(1, recall=1.0, specificity=0.0, auroc=0.99)
    honest = at(2, recall=0.8, specificity=0.5, auroc=0.7)
    for history in ([gamed, honest], [honest, gamed]):
        assert kept_of(history) == honest


def test_a_specificity_just_at_the_minimum_is_enough() -> None:
    assert BY_RECALL.eligible(at(1, specificity=0.5))
    assert not BY_RECALL.eligible(at(1, specificity=math.nextafter(0.5, 0)))
    assert not Criterion("recall", 0.0, 0.9).eligible(at(1, specificity=NAN))


def test_ties_in_recall_go_to_auroc_then_to_the_lower_loss_then_to_the_earlier() -> None:
    assert kept_of([at(1, auroc=0.8), at(2, auroc=0.9)]) == at(2, auroc=0.9)
    assert kept_of([at(1, val_loss=0.4), at(2, val_loss=0.3)]) == at(2, val_loss=0.3)
    assert kept_of([at(1), at(2)]) == at(1)


def test_a_figure_that_is_not_a_number_never_wins() -> None:
    good = at(1, recall=0.1, auroc=0.1, val_loss=9.0)
    for bad in (
        at(2, recall=NAN),
        at(2, recall=0.1, auroc=NAN),
        at(2, recall=0.1, auroc=0.1, val_loss=NAN),
        at(2, recall=0.1, auroc=0.1, val_loss=math.inf),
    ):
        assert kept_of([good, bad]) == good
        assert kept_of([bad, good]) == good


def test_the_first_epoch_is_kept_even_when_nothing_of_it_is_a_number() -> None:
    kept = kept_of([at(1, NAN, NAN, NAN, NAN), at(2, NAN, NAN, NAN, NAN)])
    assert kept is not None
    assert kept.epoch == 1


def test_eligible_seen_says_whether_any_epoch_so_far_was_eligible() -> None:
    best, seen = BestEpoch(BY_RECALL), []
    for figures in (at(1, specificity=0.1), at(2), at(3, specificity=0.1)):
        best.update(figures)
        seen.append(best.eligible_seen)
    assert seen == [False, True, True]


@pytest.mark.parametrize("name", ["recall_at_specificity", "auroc"])
@given(st.lists(st.tuples(figure, figure, loss), min_size=1, max_size=20))
def test_the_other_criteria_keep_their_highest_epoch_whatever_the_recall_at_half(
    name: str, rows: list[tuple[float, float, float]]
) -> None:
    history = [
        EpochFigures(epoch, 1.0 - epoch % 2, epoch % 2, auroc, val_loss, at_target)
        for epoch, (at_target, auroc, val_loss) in enumerate(rows, start=1)
    ]

    def worth(e: EpochFigures) -> tuple[float, ...]:
        first = e.auroc if name == "auroc" else e.recall_at_specificity
        finite = [x if math.isfinite(x) else -1e9 for x in (first, e.auroc, -e.val_loss)]
        return (*finite, -e.epoch)

    best = BestEpoch(Criterion(name, 0.5, 0.9))
    for figures in history:
        best.update(figures)
    assert best.best is max(history, key=worth)
    assert "nan" not in best.explain()


def test_a_collapsed_epoch_loses_by_recall_at_specificity_and_early_stopping_follows() -> None:
    collapsed = EpochFigures(1, 0.998, 0.595, 0.982, 0.3, 0.90)
    better = EpochFigures(2, 0.93, 0.98, 0.991, 0.2, 0.97)
    best, early = (
        BestEpoch(BY_SPECIFICITY),
        EarlyStopping(1, 0.001, 1, BY_SPECIFICITY),
    )
    for figures in (collapsed, better):
        best.update(figures)
        assert not early.update(figures)
    assert best.best is better
    assert "specificity of at least 0.9 on the validation part" in best.explain()
    assert kept_of([collapsed, better]) is collapsed


# --- the words -----------------------------------------------------------------------------


def words(*history: EpochFigures) -> str:
    best = BestEpoch(BY_RECALL)
    for figures in history:
        best.update(figures)
    return best.explain()


def test_the_explanation_names_the_epoch_and_the_rule() -> None:
    text = words(at(1, recall=0.7), at(2, recall=0.95, specificity=0.88))
    assert "Epoch 2" in text
    assert "recall (0.9500)" in text
    assert "0.8800" in text


def test_the_explanation_says_that_no_epoch_was_eligible() -> None:
    text = words(at(1, recall=1.0, specificity=0.1, auroc=0.6), at(2, 1.0, 0.2, 0.7))
    assert "No epoch reached a specificity of 0.5" in text
    assert "experiment.min_specificity" in text
    assert "Epoch 2 is kept for its AUROC (0.7000)" in text


def test_the_explanation_speaks_of_undefined_figures_without_nan() -> None:
    for history in (
        [at(1, NAN, NAN, NAN, 0.3)],
        [at(1, NAN, NAN, NAN, NAN)],
        [at(1, NAN, 0.9, 0.6)],
        [],
    ):
        assert "nan" not in words(*history)
    assert "its loss alone" in words(at(1, NAN, NAN, NAN, 0.3))
    assert "the first" in words(at(1, NAN, NAN, NAN, NAN))


def test_the_explanation_warns_of_a_kept_epoch_that_finds_nothing() -> None:
    assert "finds no positive image" in words(at(1, recall=0.0, specificity=1.0))


# --- early stopping ------------------------------------------------------------------------


def stops_at(
    history: list[EpochFigures], patience: int = 2, min_delta: float = 0.01, min_epochs: int = 1
) -> int | None:
    early = EarlyStopping(patience, min_delta, min_epochs, BY_RECALL)
    for figures in history:
        if early.update(figures):
            return figures.epoch
    return None


def test_it_stops_after_patience_epochs_without_an_improvement() -> None:
    assert stops_at([at(epoch) for epoch in range(1, 9)], patience=3) == 4


def test_it_never_stops_before_min_epochs() -> None:
    history = [at(epoch) for epoch in range(1, 12)]
    assert stops_at(history, patience=2, min_epochs=7) == 7


def test_a_recall_gain_below_min_delta_is_no_improvement_and_one_at_it_is() -> None:
    small = [at(1, recall=0.5), at(2, recall=0.509), at(3, recall=0.5095)]
    assert stops_at(small) == 3
    exact = [at(e, recall=e / 100) for e in range(20, 40)]
    assert min(b.recall - a.recall for a, b in pairwise(exact)) < 0.01  # by the last bit
    assert stops_at(exact, patience=1) is None


def test_with_recall_tied_a_gain_in_auroc_or_then_in_loss_is_an_improvement() -> None:
    assert stops_at([at(e, auroc=0.5 + e / 50) for e in range(1, 9)]) is None
    assert stops_at([at(e, val_loss=1 - e / 50) for e in range(1, 9)]) is None
    # A loss that falls while recall or AUROC is lost is none.
    assert stops_at([at(e, recall=1 - e / 20, val_loss=1 - e / 50) for e in range(1, 9)]) == 3
    assert stops_at([at(e, auroc=1 - e / 20, val_loss=1 - e / 50) for e in range(1, 9)]) == 3


def test_a_recall_lost_by_min_delta_outweighs_any_gain_in_auroc_and_less_does_not() -> None:
    assert stops_at([at(1, auroc=0.6), at(2, recall=0.885, auroc=0.9)], patience=1) == 2
    assert stops_at([at(1, auroc=0.6), at(2, recall=0.895, auroc=0.9)], patience=1) is None


def test_of_a_tied_figure_the_reference_keeps_the_better_value() -> None:
    start = [at(1, recall=0.900, auroc=0.6), at(2, recall=0.905, auroc=0.7)]
    assert stops_at([*start, at(3, recall=0.911, auroc=0.7)], patience=1) == 3
    assert stops_at([*start, at(3, recall=0.916, auroc=0.7)], patience=1) is None


def test_the_first_eligible_epoch_is_an_improvement_whatever_its_auroc() -> None:
    gamed = [at(e, recall=1.0, specificity=0.1, auroc=0.9) for e in (1, 2)]
    assert stops_at([*gamed, at(3, recall=0.2, auroc=0.6), at(4, recall=0.2, auroc=0.6)]) is None


def test_while_no_epoch_is_eligible_recall_does_not_count_but_auroc_does() -> None:
    rising_recall = [at(e, recall=e / 10, specificity=0.1) for e in range(1, 9)]
    assert stops_at(rising_recall) == 3
    rising_auroc = [at(e, specificity=0.1, auroc=e / 10) for e in range(1, 9)]
    assert stops_at(rising_auroc) is None


def test_an_ineligible_epoch_is_no_improvement_on_an_eligible_one() -> None:
    history = [at(1, recall=0.5), *(at(e, 1.0, 0.1, 0.9 + e / 100) for e in (2, 3))]
    assert stops_at(history) == 3


def test_figures_that_are_never_numbers_run_out_of_patience() -> None:
    assert stops_at([at(e, NAN, NAN, NAN, NAN) for e in range(1, 9)]) == 3


def test_recall_that_sinks_in_small_steps_and_recovers_does_not_go_on_for_ever() -> None:
    cycle = [(0.900, 0.50), (0.895, 0.52), (0.889, 0.54)]  # each a gain on the one before it
    history = [at(e, *(cycle[e % 3][0], 0.9, cycle[e % 3][1])) for e in range(1, 40)]
    assert stops_at(history, patience=4) is not None


@given(histories, st.integers(1, 5))
def test_without_a_min_delta_it_counts_the_epochs_since_the_kept_one(
    history: list[EpochFigures], patience: int
) -> None:
    best, early = BestEpoch(BY_RECALL), EarlyStopping(patience, 0.0, 1, BY_RECALL)
    for figures in history:
        best.update(figures)
        stop = early.update(figures)
        assert best.best is not None
        since = figures.epoch - best.best.epoch
        assert early.waited == since
        assert stop == (since >= patience)


@given(histories, st.integers(1, 5), st.sampled_from([0.0, 0.01, 0.2]), st.integers(1, 10))
def test_it_stops_only_with_patience_spent_and_min_epochs_reached(
    history: list[EpochFigures], patience: int, min_delta: float, min_epochs: int
) -> None:
    early = EarlyStopping(patience, min_delta, min_epochs, BY_RECALL)
    for figures in history:
        assert early.update(figures) == (early.waited >= patience and figures.epoch >= min_epochs)
        assert early.waited < figures.epoch


# --- saving and going on -------------------------------------------------------------------


@given(histories, st.data())
def test_a_state_saved_midway_has_the_same_future(
    history: list[EpochFigures], data: st.DataObject
) -> None:
    middle = data.draw(st.integers(0, len(history)))
    best, early = BestEpoch(BY_RECALL), EarlyStopping(2, 0.05, 3, BY_RECALL)
    for figures in history[:middle]:
        best.update(figures)
        early.update(figures)
    # Through JSON that has no NaN, as a checkpoint's readable companion is.
    saved = json.loads(json.dumps([best.state_dict(), early.state_dict()], allow_nan=False))
    best_again, early_again = BestEpoch(BY_RECALL), EarlyStopping(2, 0.05, 3, BY_RECALL)
    best_again.load_state_dict(saved[0])
    early_again.load_state_dict(saved[1])
    assert best_again.explain() == best.explain()
    for figures in history[middle:]:
        assert best_again.update(figures) == best.update(figures)
        assert early_again.update(figures) == early.update(figures)
    assert best_again.explain() == best.explain()
    assert best_again.eligible_seen == best.eligible_seen
    assert best_again.state_dict() == best.state_dict()
    assert early_again.state_dict() == early.state_dict()


def test_a_figure_that_was_undefined_is_so_after_loading_too() -> None:
    early, again = (EarlyStopping(1, 0.01, 1, BY_RECALL) for _ in range(2))
    early.update(at(1, val_loss=NAN))
    again.load_state_dict(early.state_dict())
    assert not again.update(at(2, val_loss=5.0))  # any loss is a gain on none


def test_a_state_does_not_change_with_the_object_it_came_from() -> None:
    best, early = BestEpoch(BY_RECALL), EarlyStopping(2, 0.0, 1, BY_RECALL)
    best.update(at(1))
    early.update(at(1))
    saved = [best.state_dict(), early.state_dict()]
    before = json.dumps(saved)
    best.update(at(2, recall=1.0))
    early.update(at(2, recall=1.0))
    assert json.dumps(saved) == before


@pytest.mark.parametrize("patience", [0, 1])
def test_a_patience_of_nought_is_as_one_and_does_not_stop_at_an_improvement(patience: int) -> None:
    assert stops_at([at(e, recall=e / 10) for e in range(1, 9)], patience=patience) is None
    assert stops_at([at(1), at(2)], patience=patience) == 2
