"""Which epoch is kept, and when to stop: two small objects that follow one comparison.

`experiment.selection` names the figure that counts first, the criterion:

- `recall_at_specificity`: the recall at the threshold where the specificity is the target. It
  compares models; the recall at 0.5 also compares where their scores happen to lie.
- `recall`: at 0.5. It can be gamed: a model that calls every image PNEUMONIA has a recall of 1. So
  an epoch is eligible only where its specificity reaches `min_specificity`.
- `auroc`

An epoch whose criterion is no number is not eligible.

- an eligible epoch beats every ineligible one
- among eligible epochs: the higher criterion, then the higher AUROC, then the lower validation loss
- among ineligible epochs: the higher AUROC, then the lower validation loss
- a figure that is not finite loses against any number; on a full tie the earlier epoch stays
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from config.schema import Experiment

COMPARED = ("recall", "specificity", "auroc", "val_loss", "recall_at_specificity")
ROUNDING = 1e-12  # a gain of exactly min_delta must not fail by the last bit of a float


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """What an epoch is judged by: its figures on the validation set; nan where undefined."""

    epoch: int
    recall: float
    specificity: float
    auroc: float
    val_loss: float
    recall_at_specificity: float = math.nan

    def to_dict(self) -> dict[str, float | None]:
        """Plain values for JSON; what is not finite is None."""
        return {key: _or_none(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpochFigures:
        """The inverse of `to_dict`; None becomes nan, which ranks as any non-finite figure."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Criterion:
    """What epochs are compared by."""

    name: str  # recall_at_specificity, recall or auroc
    min_specificity: float  # of `recall` alone
    target_specificity: float  # of `recall_at_specificity` alone

    @classmethod
    def of(cls, experiment: Experiment) -> Criterion:
        """The one that the configuration names."""
        return cls(experiment.selection, experiment.min_specificity, experiment.target_specificity)

    def value(self, figures: EpochFigures) -> float:
        """The figure that counts first."""
        return float(getattr(figures, self.name))

    def eligible(self, figures: EpochFigures) -> bool:
        """Whether that figure counts: it is a number, and of `recall` the specificity suffices."""
        if not math.isfinite(self.value(figures)):
            return False
        return self.name != "recall" or figures.specificity >= self.min_specificity

    def ranking(self, figures: EpochFigures) -> tuple[float, ...]:
        """The module's comparison as a key: of two epochs the greater is the better."""
        eligible = self.eligible(figures)
        return (
            float(eligible),
            self.value(figures) if eligible else 0.0,
            _or_worst(figures.auroc),
            _or_worst(-figures.val_loss),
        )


class BestEpoch:
    """Keeps the best epoch so far. `best` is None before the first; `eligible_seen` says whether
    any epoch was eligible."""

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.best: EpochFigures | None = None
        self.eligible_seen = False

    def update(self, figures: EpochFigures) -> bool:
        """Take in one epoch; True where its weights are now the ones to keep.

        The first epoch is always kept, however bad: there is nothing to compare with.
        """
        self.eligible_seen |= self.criterion.eligible(figures)
        if self.best is not None and self._rank(figures) <= self._rank(self.best):
            return False
        self.best = figures
        return True

    def explain(self) -> str:
        """Why the kept epoch is the kept one, in words for a person."""
        if self.best is None:
            return "No epoch was finished, so none is kept."
        best, criterion = self.best, self.criterion
        if criterion.eligible(best):
            text = f"Epoch {best.epoch} is kept: {self._reason(best)}"
            if criterion.value(best) == 0:
                text += " It finds no positive image: do not use it."
            return text
        if criterion.name == "recall":
            reason = (
                f"No epoch reached a specificity of {criterion.min_specificity:g} with a defined "
                "recall (experiment.min_specificity), so recall did not choose."
            )
        else:
            reason = f"No epoch has a defined {criterion.name}, so it did not choose."
        if math.isfinite(best.auroc):
            return (
                f"{reason} Epoch {best.epoch} is kept for its AUROC ({_text(best.auroc)}); beware: "
                f"its recall is {_text(best.recall)} at a specificity of {_text(best.specificity)}."
            )
        what = "its loss alone" if math.isfinite(best.val_loss) else "being the first"
        return f"{reason} AUROC is undefined too: epoch {best.epoch} is kept for {what}."

    def _reason(self, best: EpochFigures) -> str:
        criterion = self.criterion
        if criterion.name == "recall_at_specificity":
            return (
                f"the highest recall ({_text(best.recall_at_specificity)}) where the threshold "
                f"gives a specificity of at least {criterion.target_specificity:g} on the "
                "validation part (ties go to AUROC, then to the lower loss)."
            )
        if criterion.name == "auroc":
            return f"the highest AUROC ({_text(best.auroc)}; ties go to the lower loss)."
        return (
            f"the highest recall ({_text(best.recall)}) of the epochs with a specificity of at "
            f"least {criterion.min_specificity:g} (its own is {_text(best.specificity)}; ties go "
            "to AUROC, then to the lower loss)."
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON-able values from which `load_state_dict` continues exactly."""
        return {
            "best": self.best.to_dict() if self.best else None,
            "eligible_seen": self.eligible_seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the criterion stays this object's own."""
        self.best = EpochFigures.from_dict(state["best"]) if state["best"] else None
        self.eligible_seen = bool(state["eligible_seen"])

    def _rank(self, figures: EpochFigures) -> tuple[float, ...]:
        return self.criterion.ranking(figures)


class EarlyStopping:
    """Stops after `patience` epochs without an improvement, and never before `min_epochs`.

    An epoch improves on the reference where it is the first eligible one, or gains at least
    `min_delta` in the first of the criterion (eligible epochs only), AUROC and loss that differs by
    `min_delta` or more. Of a figure that ties, the reference keeps the better value: otherwise
    it could sink by less than `min_delta` again and again, "recover", and never stop.
    """

    def __init__(
        self, patience: int, min_delta: float, min_epochs: int, criterion: Criterion
    ) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.min_epochs = min_epochs
        self.criterion = criterion
        self.waited = 0  # epochs since the last improvement
        self._reference: tuple[float, ...] | None = None

    def update(self, figures: EpochFigures) -> bool:
        """Take in one epoch; True where training should end after it."""
        key = self.criterion.ranking(figures)
        if self._reference is None:
            self._reference, self.waited = key, 0
        elif (improved := self._improved(self._reference, key)) is not None:
            self._reference, self.waited = improved, 0
        else:
            self.waited += 1
        return self.waited >= max(self.patience, 1) and figures.epoch >= self.min_epochs

    def _improved(
        self, reference: tuple[float, ...], key: tuple[float, ...]
    ) -> tuple[float, ...] | None:
        """The new reference where `key` improves on the present one, else None."""
        if key[0] != reference[0]:
            return key if key[0] > reference[0] else None
        tied = [key[0]]
        for position in range(1, len(key)):
            old, new = reference[position], key[position]
            gain = 0.0 if new == old else new - old  # both -inf: no gain, rather than nan
            if gain > 0 and gain >= self.min_delta - ROUNDING:
                return (*tied, *key[position:])
            if gain < 0 and -gain >= self.min_delta - ROUNDING:
                return None
            tied.append(max(old, new))
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON-able values from which `load_state_dict` continues exactly."""
        reference = self._reference
        return {
            "waited": self.waited,
            "reference": None if reference is None else [_or_none(value) for value in reference],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; patience and thresholds stay this object's own."""
        self.waited = int(state["waited"])
        reference = state["reference"]
        self._reference = (
            None
            if reference is None
            else tuple(-math.inf if value is None else float(value) for value in reference)
        )


class Selection:
    """Both decisions of an epoch, with what is known of the kept one; saved as a whole."""

    def __init__(self, experiment: Experiment) -> None:
        criterion = Criterion.of(experiment)
        self.keeper = BestEpoch(criterion)
        self._early = EarlyStopping(
            experiment.early_stopping_patience,
            experiment.early_stopping_min_delta,
            experiment.min_epochs,
            criterion,
        )
        self.best_summary: dict[str, Any] = {}  # figures of the kept epoch, as `metrics.summary`
        self.stopped_early = False

    @property
    def best_epoch(self) -> int | None:
        """The kept epoch; None before the first."""
        return self.keeper.best.epoch if self.keeper.best else None

    def update(self, epoch: int, summary: dict[str, Any], is_last: bool) -> bool:
        """Take in one epoch; True where its weights are now the ones to keep."""
        figures = EpochFigures(epoch, **{key: summary[key] for key in COMPARED})
        is_best = self.keeper.update(figures)
        self.stopped_early = self._early.update(figures) and not is_last
        if is_best:
            self.best_summary = summary
        return is_best

    def forget_best(self) -> None:
        """Choose anew from the next epoch on: the model of the kept one is lost."""
        self.keeper.best, self.best_summary = None, {}

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON-able values from which `load_state_dict` continues exactly."""
        return {
            "best": self.keeper.state_dict(),
            "early": self._early.state_dict(),
            "best_summary": self.best_summary,
            "stopped_early": self.stopped_early,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the settings stay this object's own."""
        self.keeper.load_state_dict(state["best"])
        self._early.load_state_dict(state["early"])
        self.best_summary = state["best_summary"]
        self.stopped_early = bool(state["stopped_early"])


def _or_worst(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "undefined"
