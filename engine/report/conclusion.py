"""What a run's figures mean, in a paragraph for a clinician."""

from __future__ import annotations

import math
from typing import Any

RULES = {
    "specificity": "the highest sensitivity with a specificity of at least {bound}",
    "sensitivity": "the highest specificity with a sensitivity of at least {bound}",
    "youden": "the highest sum of sensitivity and specificity",
}


def conclude(
    part: str,
    figures: dict[str, Any],
    label_names: tuple[str, str],
    model_path: str,
    run_id: int,
    unmet: str | None,
) -> str:
    """Lines of text on `figures` of the test or val part (`at_operating_point`), and what is next.

    `unmet` is why the wanted rule did not choose the threshold, where it did not.
    """
    healthy, ill = label_names
    cells, point = figures["confusion"], figures["operating_point"]
    positives, negatives = cells["tp"] + cells["fn"], cells["fp"] + cells["tn"]
    of_patients = f" of {figures['patients']} patients" if figures["patients"] else ""
    where = "test part, which chose nothing" if part == "test" else "validation part"
    found = _share(figures["recall"], figures["intervals"]["recall"])
    spared = figures["intervals"]["specificity"]
    called = _share(1 - figures["specificity"], [1 - spared[1], 1 - spared[0]])
    lines = [
        f"On the {figures['count']} images{of_patients} of the {where}, at the threshold "
        f"{point['threshold']:.4g}:",
        f"  of {positives} {ill} images, {cells['tp']} are found ({found});",
        f"  of {negatives} {healthy} images, {cells['fp']} are called {ill} ({called}).",
        f"{_why(point['rule'])}{f' ({unmet})' if unmet else ''}",
    ]
    if part != "test":
        lines.append(
            "These images also chose the epoch, the threshold and the calibration: the figures "
            "flatter the model. Keep images back with --set system.test_split=0.15, or evaluate "
            "it on other images."
        )
    return "\n".join(
        [
            *lines,
            "Next:",
            f"  python -m engine.evaluate {model_path} --dataset OTHER.zip",
            f"  python -m engine.predict {model_path} IMAGES/ --out scores.csv",
            f"  python -m engine.report {run_id}",
        ]
    )


def _why(rule: str) -> str:
    kind, _, bound = rule.partition(">=")
    if kind not in RULES:
        return "No rule chose the threshold: it is 0.5."
    return f"The threshold was chosen on the validation part: {RULES[kind].format(bound=bound)}."


def _share(value: float, interval: list[float]) -> str:
    if math.isnan(value):
        return "undefined"
    low, high = (100 * bound for bound in interval)
    return f"{100 * value:.1f} %, 95 % interval {low:.1f} to {high:.1f} %"
