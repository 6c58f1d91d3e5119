"""Which rule keeps the best epoch? `python -m benchmarks.selection`, without training

Simulated runs: in each epoch the classes' logits are normal, as far apart as the true AUROC says,
which rises and swings as in the development runs (0.94 to 0.99); between epochs all scores drift,
as batch statistics make them do. Each rule sees a validation part of the development set's size.
Its regret is the true AUROC of the run's best epoch less that of the epoch it keeps. Then the same
for the recorded epochs of `benchmarks.accuracy`, whose test part stands for the truth.
"""

from __future__ import annotations

import argparse
import json
import math
from statistics import NormalDist, mean
from typing import Any

import numpy as np

from benchmarks.lib import record
from benchmarks.lib.ablation import LUCKY, SELECTIONS, kept_by
from config.schema import Experiment
from engine import metrics
from engine.training.selection import COMPARED

NEGATIVES, POSITIVES = 190, 513  # images of the validation part
FIRST, LAST, PACE = 0.94, 0.99, 5.0  # AUROC of the first and the late epochs; epochs to get there
SWING = 0.35  # standard deviation of the classes' distance, in deviations of a class
DRIFT = 0.9  # standard deviation of what all logits of an epoch are shifted by


def main() -> int:
    """Simulate, read what was recorded, print, write the JSON; 0 always."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=300)
    options.add_argument("--epochs", type=int, default=18)
    given = options.parse_args()
    rng = np.random.default_rng(0)
    simulated = [regrets_of(simulate(given.epochs, rng)) for _ in range(given.runs)]
    figures = {"simulated": compare(simulated), "recorded": compare(recorded())}
    for kind, rules in figures.items():
        print(f"{kind}: mean regret, worst, runs with more than {LUCKY}")
        for rule, of in rules.items():
            print(
                f"  {rule:42s} {of['mean']:.5f}  {of['worst']:.4f}  {of['lucky']} of {of['runs']}"
            )
    print("written to", record.write_result("selection", vars(given), figures))
    return 0


def simulate(epochs: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One run's epochs: what the rules compare, and the true AUROC as `test_auroc`."""
    labels = np.array([0] * NEGATIVES + [1] * POSITIVES)
    start, end = (distance(area) for area in (FIRST, LAST))
    rows = []
    for epoch in range(1, epochs + 1):
        trend = end - (end - start) * math.exp(-(epoch - 1) / PACE)
        apart = max(0.1, trend + rng.normal(0, SWING))
        logits = apart * (labels - 0.5) + rng.normal(0, DRIFT) + rng.normal(size=len(labels))
        scores = 1 / (1 + np.exp(-logits))
        summary = metrics.summary(scores, labels)
        loss = float(np.mean(np.logaddexp(0, np.where(labels == 1, -logits, logits))))
        summary |= {"val_loss": loss}
        true = NormalDist().cdf(apart / math.sqrt(2))
        rows.append({"epoch": epoch, "test_auroc": true, **{k: summary[k] for k in COMPARED}})
    return rows


def distance(area: float) -> float:
    """How far apart two normal classes of deviation 1 are that have this AUROC."""
    return NormalDist().inv_cdf(area) * math.sqrt(2)


def recorded() -> list[dict[str, float]]:
    """Rule -> regret, for every run that the ablation has recorded on this kind of machine."""
    found = []
    for path in sorted(record.RESULTS.glob("accuracy_*px*.json")):
        runs = json.loads(path.read_text(encoding="utf-8"))["figures"]["runs"]
        found += [regrets_of(run["epochs"]) for run in runs if "error" not in run]
    return found


def regrets_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Rule -> AUROC that it loses against the run's best epoch."""
    areas = {row["epoch"]: row["test_auroc"] for row in rows}
    best = max(areas.values())
    return {rule: best - areas[kept_by(rule, rows, Experiment())] for rule in SELECTIONS}


def compare(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Each rule's regrets over the runs."""
    if not runs:
        return {}
    return {
        rule: {
            "runs": len(runs),
            "mean": mean(run[rule] for run in runs),
            "worst": max(run[rule] for run in runs),
            "lucky": sum(run[rule] > LUCKY for run in runs),
        }
        for rule in SELECTIONS
    }


if __name__ == "__main__":
    raise SystemExit(main())
