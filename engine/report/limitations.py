"""What a reader must know before believing a run's figures: generated from facts alone."""

from __future__ import annotations

import re
from typing import Any

from engine.metrics.intervals import normal_quantile
from engine.report.facts import Facts

FEWEST_OF_A_CLASS = 100  # images: below it, a share has an interval about 0.1 wide or wider
WIDE = 0.1  # of an interval
TELLING = 0.7  # AUROC of a column alone
CHANCE = 0.5
ADULT = 18  # years
NAMES = {"recall": "sensitivity", "specificity": "specificity", "auroc": "AUROC"}


def limitations(facts: Facts) -> list[str]:
    """One sentence each; never empty."""
    return [
        *_of_the_part(facts),
        *_of_the_figures(facts.assessments[facts.main.name]),
        *_of_the_patients(facts.validation.get("split", {})),
        *_of_the_population(facts),
        *_of_other_places(facts),
        "One training with one seed: another seed gives somewhat other figures.",
    ]


def _of_the_part(facts: Facts) -> list[str]:
    if facts.main.name == "test":
        return []
    rule = facts.bundle["default_operating_point"]
    chosen = "" if rule == "default_0.5" else " and the threshold"
    return [
        f"There is no test part: these figures are of the validation images, which also chose the "
        f"kept epoch{chosen}. They flatter the model. Train with system.test_split=0.15 for "
        "figures from images that chose nothing."
    ]


def _of_other_places(facts: Facts) -> list[str]:
    if not facts.external:
        return [
            "There is no external testing in this report: on images of another hospital, device "
            "or age group the model may do much worse."
        ]
    sentences = []
    inside = facts.assessments[facts.main.name]["figures"]["auroc"]["interval"]
    for document in facts.external:
        area = document["assessment"]["figures"]["auroc"]
        value, (low, high) = area["value"], area["interval"]
        if value is None or low is None:
            continue
        if low <= CHANCE:
            sentences.append(
                f"The model fails on {document['dataset']}: its AUROC there is {value:.3f} "
                f"({low:.3f} to {high:.3f}), no better than chance."
            )
        elif high < inside[0]:
            sentences.append(
                f"The model does worse on {document['dataset']}: its AUROC there is {value:.3f} "
                f"({low:.3f} to {high:.3f})."
            )
    return sentences


def _of_the_figures(found: dict[str, Any]) -> list[str]:
    sentences = []
    positives, negatives = found["positives"], found["count"] - found["positives"]
    for count, kind in ((positives, "with"), (negatives, "without")):
        if count < FEWEST_OF_A_CLASS:
            sentences.append(f"Only {count} images are {kind} the disease: the figures are rough.")
    figures = found["figures"]
    if figures["auroc"]["value"] < CHANCE:
        sentences.append(
            f"The AUROC is {figures['auroc']['value']:.3f}, below chance: are the two classes "
            "swapped?"
        )
    for name, title in NAMES.items():
        low, high = figures[name]["interval"]
        if high - low > WIDE:
            more = ""
            if name != "auroc":
                kind = "with" if name == "recall" else "without"
                wanted = images_needed(figures[name]["value"], WIDE)
                more = f"; about {wanted} images {kind} the disease would make it {WIDE} wide"
            sentences.append(
                f"The 95 % interval of the {title} is {high - low:.2f} wide "
                f"({low:.2f} to {high:.2f}){more}."
            )
    for column in found["columns"]:
        if column["alone"] >= TELLING:
            sentences.append(
                f"The column {column['column']} alone predicts the label with an AUROC of "
                f"{column['alone']:.2f}: the model may have learned it instead of the disease."
            )
    return sentences


def images_needed(share: float, width: float) -> int:
    """Images that make the 95 % interval of a share so wide (normal approximation)."""
    kept = min(max(share, 0.01), 0.99)
    return int((2 * normal_quantile(0.95) / width) ** 2 * kept * (1 - kept)) + 1


def _of_the_patients(split: dict[str, Any]) -> list[str]:
    sentences = []
    kind = split.get("patient_ids")
    if kind == "none":
        sentences.append(
            "The data name no patients: images of one person may be in training and in testing, "
            "which makes figures too good."
        )
    elif kind == "some":
        sentences.append("Some images have no patient id: each counts as a patient of its own.")
    elif kind == "distinct":
        sentences.append(
            "No two images share a patient id: the ids may number images, and images of one "
            "person may be in two parts of the split."
        )
    for key, what in (("shared_patients", "patients"), ("shared_pixels", "identical images")):
        if split.get(key):
            sentences.append(f"{split[key]} {what} are in more than one part of the split.")
    if split.get("near_duplicates"):
        sentences.append(
            f"{split['near_duplicates']} pairs of nearly identical images are in two parts of the "
            "split."
        )
    return sentences


def _of_the_population(facts: Facts) -> list[str]:
    columns = {name.lower(): values for name, values in facts.main.columns.items()}
    sentences = []
    words = {name: re.split(r"[^a-z]+", name) for name in columns}
    ages = _numbers(next((columns[name] for name, parts in words.items() if "age" in parts), []))
    if ages and max(ages) < ADULT:
        sentences.append(f"All patients are children (up to {max(ages):g} years).")
    elif ages and min(ages) >= ADULT:
        sentences.append(f"All patients are adults (from {min(ages):g} years).")
    kinds = {"age": {"age"}, "sex": {"sex", "gender"}}
    unknown = [
        what for what, known in kinds.items() if not any(known & set(p) for p in words.values())
    ]
    if unknown:
        sentences.append(
            f"The data do not say the patients' {' and '.join(unknown)}: whether the model does "
            "equally well in all groups is not known."
        )
    places = {"site", "hospital", "institution", "center", "centre"}
    sites = [name for name, parts in words.items() if places & set(parts)]
    if not sites:
        sentences.append("The data name no sites: they may all come from one hospital.")
    elif len(set(columns[sites[0]])) == 1:
        sentences.append(f"All images come from one site ({columns[sites[0]][0]}).")
    return sentences


def _numbers(values: list[str]) -> list[float]:
    found = []
    for value in values:
        try:
            found.append(float(value))
        except ValueError:
            continue
    return found
