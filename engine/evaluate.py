"""`python -m engine.evaluate MODEL --dataset D`: a model on a labelled data set, with intervals."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Config, ConfigManager, UserError
from engine.cli import Parser, add_config_options, model_path, run_command, set_values

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor
    from engine.inference.scoring import ScoredDataset

TELLING = 0.6  # AUROC of a column alone
SWAPPED = 0.5  # an AUROC below it is worse than chance


def main(arguments: list[str] | None = None) -> int:
    """0 when the evaluation was written. Raises UserError."""
    return evaluate(parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="python -m engine.evaluate",
        description="Every figure of a model on a labelled data set with its 95 % interval, by "
        "patient where the data name them; written as JSON, CSV and one HTML page.",
    )
    command.add_argument("model", type=Path, help="a bundle, best_model.pt, or a run's number")
    command.add_argument("--dataset", type=Path, required=True, help="a ZIP or a folder")
    command.add_argument("--against", type=Path, metavar="MODEL", help="compare with this bundle")
    command.add_argument(
        "--prevalence", type=float, metavar="P", help="also give predictive values where this "
        "share of patients is ill",
    )  # fmt: skip
    point = command.add_mutually_exclusive_group()
    point.add_argument("--threshold", type=float, metavar="T", help="instead of the model's own")
    point.add_argument(
        "--operating-point", metavar="RULE", help="of the model's, such as 'specificity>=0.90'"
    )
    command.add_argument(
        "--no-robustness", action="store_true",
        help="leave out how scores change with JPEG, shifts, brightness and resolution",
    )  # fmt: skip
    command.add_argument(
        "--out", type=Path, default=Path("output/evaluations"), metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_config_options(command)
    return command


def evaluate(options: argparse.Namespace) -> int:
    """Score, assess, write and print. Raises UserError."""
    for name in ("prevalence", "threshold"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1:
            raise UserError(f"--{name} must lie between 0 and 1")
    config = ConfigManager.load(options.config, overrides=set_values(options.set))
    from engine.files import jsonable, write_text
    from engine.inference.predictor import load_model
    from engine.inference.scoring import score_dataset
    from engine.records.results import scores_table
    from engine.report.evaluation import evaluation_page
    from engine.report.sections import headline

    options.model = model_path(options.model, config)
    model = load_model(options.model, device=options.device)
    scored = score_dataset(model, options.dataset, config)
    if not len(scored.labels):
        raise UserError(f"{options.dataset}: no image could be read")
    document = document_of(model, options, scored)
    if options.against is not None:
        options.against = model_path(options.against, config)
        other = load_model(options.against, device=options.device)
        document["comparison"] = compare(document, scored, other, options, config)
    folder = options.out / f"{options.model.resolve().parent.name}_on_{options.dataset.stem}"
    try:
        text = json.dumps(jsonable(document), indent=2, ensure_ascii=False)
        write_text(folder / "evaluation.json", text + "\n")
        table = scores_table(scored.names, scored.labels, scored.scores, scored.columns)
        write_text(folder / "scores.csv", table)
        write_text(folder / "evaluation.html", evaluation_page(document))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error
    print(headline(document["assessment"]))
    area = document["assessment"]["figures"]["auroc"]
    low, high = area["interval"]
    print(f"AUROC {area['value']:.3f} (95 % interval {low:.3f} to {high:.3f})")
    if "comparison" in document:
        print(document["comparison"]["sentence"])
    for warning in document["warnings"]:
        print(f"warning: {warning}")
    print(f"written to {folder / 'evaluation.html'}, evaluation.json and scores.csv")
    return 0


def document_of(
    model: Predictor, options: argparse.Namespace, scored: ScoredDataset
) -> dict[str, Any]:
    """The assessment with its warnings and its provenance, JSON-able but for nan."""
    from engine.inference.robustness import robustness
    from engine.metrics.assessment import assess

    rule = options.operating_point or model.bundle["default_operating_point"]
    if options.threshold is None:
        threshold, chosen = model.threshold_of(rule), f" ({rule})"
    else:
        threshold, chosen = options.threshold, ""
    assessment = assess(
        scored.scores,
        scored.labels,
        threshold,
        patients=scored.patient_numbers,
        columns=scored.columns,
        prevalence=options.prevalence,
    )
    kept = model.bundle
    provenance = {
        "model": str(options.model),
        "model's SHA-256": _sha256(options.model),
        "run": kept["run_uid"] or "not known",
        "epoch": str(kept["epoch"]),
        "threshold": f"{threshold:.6g}{chosen}",
        "data set": str(options.dataset),
        "images that could not be read": str(len(scored.unreadable)),
    }
    internal = internal_assessment(kept["metrics"])
    changes = [] if options.no_robustness else robustness(model, scored, threshold)
    return {
        "model": options.model.resolve().parent.name,
        "dataset": options.dataset.name,
        "label_names": model.label_names,
        "warnings": [*scored.warnings, *warnings_of(assessment, scored, internal)],
        "assessment": assessment,
        "internal": internal,
        "robustness": changes,
        "unreadable": scored.unreadable,
        "provenance": provenance,
    }


def internal_assessment(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """The figures that a bundle keeps of its own test part, or else its validation part.

    In the form of `assess`, as far as they are known.
    """
    part = "test" if "test" in metrics else "val"
    kept = metrics.get(part) or {}
    if "count" not in kept:
        return None  # of an old bundle
    nothing = {"value": math.nan, "interval": [math.nan, math.nan]}
    intervals = kept.get("intervals", {})
    figures = {
        name: {"value": kept[name], "interval": intervals.get(name, nothing["interval"])}
        if name in kept
        else nothing
        for name in ("recall", "specificity", "precision", "npv", "accuracy", "auroc")
    }
    return {
        "part": part,
        "count": kept["count"],
        "positives": kept["positives"],
        "threshold": kept["threshold"],
        "figures": figures,
        "calibration": {"brier": kept.get("brier")},
    }


def warnings_of(
    assessment: dict[str, Any], scored: ScoredDataset, internal: dict[str, Any] | None
) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    if internal is not None:
        inside, outside = (one["figures"]["auroc"] for one in (internal, assessment))
        if outside["interval"][1] < inside["interval"][0]:
            found.append(
                f"the model does worse here than on its own {internal['part']} part: AUROC "
                f"{outside['value']:.3f} ({outside['interval'][0]:.3f} to "
                f"{outside['interval'][1]:.3f}) instead of {inside['value']:.3f}"
            )
    area = assessment["figures"]["auroc"]
    positives, count = assessment["positives"], assessment["count"]
    if positives in (0, count):
        found.append(
            "all images have one label: sensitivity or specificity and AUROC are undefined"
        )
    elif area["value"] < SWAPPED:
        found.append(
            f"the AUROC is {area['value']:.3f}, below chance: are the two classes swapped, or is "
            "this another population than the model was trained on?"
        )
    elif area["interval"][0] <= SWAPPED:
        found.append(
            f"the AUROC's interval ({area['interval'][0]:.3f} to {area['interval'][1]:.3f}) "
            "contains 0.5: the model fails on these images; are they of another population (age, "
            "hospital, device) than it was trained on?"
        )
    for name in ("recall", "specificity"):
        low, high = assessment["figures"][name]["interval"]
        if not math.isnan(low) and high - low > 0.1:
            found.append(
                f"the interval of the {name} is {high - low:.2f} wide: there are too few images "
                "for a firm figure"
            )
    found += [
        f"the column {one['column']} alone predicts the label with an AUROC of {one['alone']:.2f}: "
        "compare the model's figures within its values"
        for one in assessment["columns"]
        if one["alone"] >= TELLING
    ]
    if scored.unreadable:
        found.append(f"{len(scored.unreadable)} images could not be read and are left out")
    return found


def compare(
    document: dict[str, Any],
    scored: ScoredDataset,
    other: Predictor,
    options: argparse.Namespace,
    config: Config,
) -> dict[str, Any]:
    """Both models on the same images: DeLong's test of the AUROC, McNemar's of the decisions."""
    from engine.inference.scoring import score_dataset
    from engine.metrics.comparison import delong_test, mcnemar_test

    theirs = score_dataset(other, options.dataset, config)
    if theirs.names != scored.names:
        raise UserError("the two models could not read the same images; nothing can be compared")
    difference = delong_test(scored.scores, theirs.scores, scored.labels)
    threshold = document["assessment"]["threshold"]
    right = (scored.scores >= threshold) == scored.labels
    other_right = (theirs.scores >= other.threshold) == scored.labels
    only_first, only_second, p = mcnemar_test(right, other_right)
    low, high = difference.interval
    sentence = (
        f"AUROC {difference.value:+.4f} against {options.against} (95 % interval {low:+.4f} to "
        f"{high:+.4f}, p = {difference.p:.3g}, DeLong); of the decisions, {only_first} are right "
        f"with this model only and {only_second} with the other only (p = {p:.3g}, McNemar)."
    )
    return {
        "against": str(options.against),
        "auroc_difference": difference.value,
        "interval": list(difference.interval),
        "p": difference.p,
        "only_first_right": only_first,
        "only_second_right": only_second,
        "p_decisions": p,
        "sentence": sentence,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    run_command(main)
