"""A run whose every epoch is scored on the test part, and what is computed of its epochs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from config.schema import Experiment
from engine import metrics
from engine.data.dataset import Batch
from engine.data.loading import evaluation_loader
from engine.metrics.calibration import (
    apply_scaling,
    expected_calibration_error,
    fit_scaling,
)
from engine.metrics.operating import RuleNotMet, choose_threshold, parse_rule
from engine.run import Run
from engine.training.loop import EvalFigures
from engine.training.selection import COMPARED, BestEpoch, Criterion, EpochFigures

# Student's t, 0.975, by the number of runs.
T_QUANTILES = {
    **{2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
}
MOST_SEEDS = max(T_QUANTILES)
RULES = ("specificity>=0.90", "specificity>=0.95", "sensitivity>=0.95", "youden", "default_0.5")
LUCKY = 0.01  # a regret in AUROC above it is a lucky or collapsed epoch that was kept
SMOOTHED = 3  # epochs in the running mean of the smoothed rule
FIGURES = ("auroc", "recall", "specificity", "ece")


@dataclass(frozen=True)
class Epoch:
    """One epoch's scores and labels of both parts, each [N], and the validation loss."""

    val_scores: np.ndarray
    val_labels: np.ndarray
    val_loss: float
    test_scores: np.ndarray
    test_labels: np.ndarray


class RecordedRun(Run):
    """Scores the test part after each validation, without any effect on the training.

    Where the data set has no test part, the validation part stands for it.
    """

    epochs: list[Epoch]
    seconds_of_test = 0.0

    def evaluate(
        self,
        loader: Iterable[Batch],
        steps: int,
        epoch: int,
        phase: str = "validate",
        model: nn.Module | None = None,
    ) -> EvalFigures:
        """As in a run."""
        found = super().evaluate(loader, steps, epoch, phase, model)
        if loader is self.loaders.val and not found.stopped:
            began = time.perf_counter()
            self.score_test(found, epoch, model)
            self.seconds_of_test += time.perf_counter() - began
        return found

    def score_test(self, validated: EvalFigures, epoch: int, model: nn.Module | None) -> None:
        """Add to `epochs`."""
        tested, test = validated, self.data.split.test
        if len(test):
            batches, sizes = evaluation_loader(self.config, self.data, self.runtime, test)
            tested = super().evaluate(batches, len(sizes), epoch, "test", model)
        self.epochs = [
            *getattr(self, "epochs", []),
            Epoch(
                validated.scores,
                validated.labels,
                validated.loss,
                tested.scores,
                tested.labels,
            ),
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every epoch's scores, [epochs, N] float32, and the labels [N] of both parts."""
        last = self.epochs[-1]
        return {
            "val_scores": np.stack([e.val_scores for e in self.epochs]).astype(np.float32),
            "test_scores": np.stack([e.test_scores for e in self.epochs]).astype(np.float32),
            "val_labels": last.val_labels,
            "test_labels": last.test_labels,
        }


def assess(epochs: list[Epoch], experiment: Experiment) -> dict[str, Any]:
    """The kept epoch's figures on the test part, each rule's choice of epoch, and every epoch."""
    rows = [figures_of(number, e, experiment) for number, e in enumerate(epochs, start=1)]
    chosen = {rule: kept_by(rule, rows, experiment) for rule in SELECTIONS}
    kept = kept_by(experiment.selection, rows, experiment)
    epoch = epochs[kept - 1]
    points = {rule: at_rule(epoch, rule) for rule in RULES}
    best = max(row["test_auroc"] for row in rows)
    return {
        "kept_epoch": kept,
        "kept": {"auroc": rows[kept - 1]["test_auroc"], **points[RULES[0]]},
        "operating_points": points,
        "best_test_auroc": best,
        "regret": {rule: best - rows[e - 1]["test_auroc"] for rule, e in chosen.items()},
        "chosen": chosen,
        "epochs": rows,
    }


def figures_of(number: int, epoch: Epoch, experiment: Experiment) -> dict[str, Any]:
    """What the rules look at, on the validation part, and the epoch's AUROC on the test part."""
    summary = metrics.summary(
        epoch.val_scores, epoch.val_labels, target_specificity=experiment.target_specificity
    )
    summary["val_loss"] = epoch.val_loss
    return {
        "epoch": number,
        **{name: summary[name] for name in COMPARED},
        "test_auroc": metrics.auroc(epoch.test_scores, epoch.test_labels),
    }


def at_rule(epoch: Epoch, rule: str) -> dict[str, float]:
    """Test figures where calibration and threshold are those of the validation part."""
    temperature, shift = fit_scaling(epoch.val_scores, epoch.val_labels)
    val = apply_scaling(epoch.val_scores, temperature, shift)
    test = apply_scaling(epoch.test_scores, temperature, shift)
    try:
        threshold = choose_threshold(parse_rule(rule), val, epoch.val_labels)
    except RuleNotMet:
        return {"recall": math.nan, "specificity": math.nan, "ece": math.nan}
    figures = metrics.summary(test, epoch.test_labels, threshold)
    return {
        "recall": figures["recall"],
        "specificity": figures["specificity"],
        "ece": expected_calibration_error(test, epoch.test_labels),
        "ece_before": expected_calibration_error(epoch.test_scores, epoch.test_labels),
        "temperature": temperature,
        "shift": shift,
        "threshold": threshold,
    }


def kept_by(rule: str, rows: list[dict[str, Any]], experiment: Experiment) -> int:
    """The epoch (1-based) that a rule keeps."""
    name, floor, smoothed = SELECTIONS.get(rule, (rule, experiment.min_specificity, False))
    best = BestEpoch(Criterion(name, floor, experiment.target_specificity))
    for at, row in enumerate(rows):
        values = {key: row[key] for key in COMPARED}
        if smoothed:
            recent = rows[max(0, at + 1 - SMOOTHED) : at + 1]
            values[name] = statistics.mean(r[name] for r in recent)
        best.update(EpochFigures(row["epoch"], **values))
    assert best.best is not None
    return best.best.epoch


# Rule -> criterion, least specificity at 0.5, and whether the running mean is compared.
SELECTIONS: dict[str, tuple[str, float, bool]] = {
    "raw recall": ("recall", 0.0, False),
    "recall, specificity >= 0.5": ("recall", 0.5, False),
    "recall, specificity >= 0.85": ("recall", 0.85, False),
    "recall at specificity": ("recall_at_specificity", 0.0, False),
    "recall at specificity, mean of 3 epochs": ("recall_at_specificity", 0.0, True),
    "AUROC": ("auroc", 0.0, False),
    "AUROC, mean of 3 epochs": ("auroc", 0.0, True),
}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Each row's means with intervals, its difference to `plain`, and each rule's regret."""
    done = [run for run in runs if "error" not in run]
    rows: dict[str, Any] = {}
    for row in dict.fromkeys(run["row"] for run in runs):
        own = [run for run in done if run["row"] == row]
        rows[row] = {"runs": len(own), "failed": sum(r["row"] == row for r in runs) - len(own)}
        if own:
            rows[row] |= {key: spread([r["kept"][key] for r in own]) for key in FIGURES}
            rows[row]["minutes"] = spread([r["minutes"] for r in own])
        pairs = [
            run["kept"]["auroc"] - other["kept"]["auroc"]
            for run in own
            for other in done
            if other["row"] == "plain" and other["seed"] == run["seed"]
        ]
        if row != "plain" and pairs:
            rows[row]["against_plain"] = spread(pairs)
    rules = {}
    for rule in SELECTIONS if done else ():
        regrets = [run["regret"][rule] for run in done]
        rules[rule] = {
            "runs": len(regrets),
            "mean_regret": statistics.mean(regrets),
            "worst_regret": max(regrets),
            "lucky": sum(regret > LUCKY for regret in regrets),
        }
    return {"rows": rows, "rules": rules}


def spread(found: list[float | None]) -> dict[str, float]:
    """The mean with Student's 95 % interval; nan for the interval of one value, and for None."""
    values = [math.nan if value is None else value for value in found]
    mean, half = statistics.mean(values), math.nan
    if len(values) > 1:
        half = T_QUANTILES[min(len(values), MOST_SEEDS)] * statistics.stdev(values)
        half /= math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}
