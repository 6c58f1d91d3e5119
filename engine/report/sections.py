"""Parts of a report that say what an assessment found: figures, curves, calibration, subgroups."""

from __future__ import annotations

from html import escape
from typing import Any

from engine.metrics.subgroups import FEWEST
from engine.report import html, svg

NAMES = {
    "recall": "sensitivity (recall)",
    "specificity": "specificity",
    "precision": "positive predictive value (precision)",
    "npv": "negative predictive value",
    "accuracy": "accuracy",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "area under the precision-recall curve",
}


def headline(found: dict[str, Any]) -> str:
    """The result in one paragraph, without a term that needs an explanation."""
    figures = found["figures"]
    recall, specificity = figures["recall"], figures["specificity"]
    patients = f" of {found['patients']} patients" if found["patients"] else ""
    return (
        f"On {found['count']} images{patients}, at the threshold {found['threshold']:.3g}, the "
        f"model finds {recall['hits']} of {recall['of']} images with the disease "
        f"({html.percent(recall['value'])}; 95 % interval {html.interval(recall['interval'])}) and "
        f"calls {specificity['of'] - specificity['hits']} of {specificity['of']} images without it "
        f"ill ({html.percent(1 - specificity['value'])}; specificity "
        f"{html.interval(specificity['interval'])})."
    )


def figures_table(found: dict[str, Any]) -> str:
    """Every figure with its interval, its images and the interval's method."""
    rows = []
    for name, figure in found["figures"].items():
        of = f"{figure['hits']} of {figure['of']}" if "of" in figure else ""
        is_area = name in ("auroc", "average_precision", "f1")
        show, span = (
            (html.decimal, html.decimal_interval) if is_area else (html.percent, html.interval)
        )
        rows.append(
            (
                NAMES[name],
                show(figure["value"]),
                span(figure["interval"]),
                of,
            )
        )
    if (elsewhere := found.get("at_prevalence")) is not None:
        where = f"where {html.percent(elsewhere['prevalence'])} are ill"
        for name in ("precision", "npv"):
            title = f"{NAMES[name]} {where}"
            rows.append((title, html.percent(elsewhere[name]), html.UNDEFINED, "by Bayes' rule"))
    methods = dict.fromkeys(f["method"] for f in found["figures"].values() if f["method"])
    note = f'<p class="soft">Intervals: {escape("; ".join(methods))}.</p>'
    return html.table(("figure", "value", "95 % interval", "images"), rows) + note


def cross_table(found: dict[str, Any], names: list[str]) -> str:
    """Reference standard by prediction; `names` are negative and positive."""
    cells, (negative, positive) = found["confusion"], names
    return html.table(
        ("reference standard", f"called {negative}", f"called {positive}"),
        [(negative, cells["tn"], cells["fp"]), (positive, cells["fn"], cells["tp"])],
    )


def charts(found: dict[str, Any]) -> str:
    """ROC, precision-recall, calibration and net benefit."""
    recall = found["figures"]["recall"]["value"]
    specificity = found["figures"]["specificity"]["value"]
    roc = [(x, y) for x, y, _ in found["roc"]]
    precision = [(x, y) for x, y, _ in found["precision_recall"]]
    bins = [(one["mean_score"], one["positive_share"]) for one in found["calibration"]["bins"]]
    benefit = found["net_benefit"]
    lines = {"the model": benefit["model"], "calling every image ill": benefit["all"]}
    highest = max((v for v in benefit["model"] if v == v), default=1.0)
    charts = [
        svg.line_chart(
            "ROC curve",
            [
                svg.Series("model", roc),
                svg.Series("at the threshold", [(1 - specificity, recall)], marks=True),
            ],
            svg.Axis("1 - specificity", 0, 1),
            svg.Axis("sensitivity", 0, 1),
            diagonal=True,
        ),
        svg.line_chart(
            "Precision and recall",
            [svg.Series("model", precision)],
            svg.Axis("sensitivity (recall)", 0, 1),
            svg.Axis("positive predictive value", 0, 1),
        ),
        svg.line_chart(
            "Calibration",
            [svg.Series("observed in tenths of the score", bins)],
            svg.Axis("mean score", 0, 1),
            svg.Axis("share with the disease", 0, 1),
            diagonal=True,
        ),
        svg.line_chart(
            "Net benefit",
            [
                svg.Series(name, list(zip(benefit["thresholds"], values, strict=True)))
                for name, values in lines.items()
            ],
            svg.Axis("threshold probability", 0, 1),
            svg.Axis("net benefit", -0.2, next(e for e in (0.2, 0.6, 1.0) if highest <= e)),
        ),
    ]
    return "".join(map(html.figure, charts))


def calibration_table(found: dict[str, Any]) -> str:
    """Slope, intercept, Brier score and ECE."""
    rows = [
        ("slope (1 is perfect; below it, scores are too extreme)", html.decimal(found["slope"])),
        ("intercept at slope 1 (0 is perfect)", html.decimal(found["in_the_large"])),
        ("Brier score (0 is perfect)", html.decimal(found["brier"])),
        ("expected calibration error", html.decimal(found["ece"])),
    ]
    return html.table(("", "value"), rows)


def side_by_side(compared: list[dict[str, Any]]) -> str:
    """The same figures of several data sets; each has `name` and `assessment`."""
    rows: list[tuple[Any, ...]] = [
        ("images", *(one["assessment"]["count"] for one in compared)),
        (
            "share with the disease",
            *(
                html.percent(one["assessment"]["positives"] / max(one["assessment"]["count"], 1))
                for one in compared
            ),
        ),
        ("threshold", *(f"{one['assessment']['threshold']:.3g}" for one in compared)),
    ]
    for name in ("recall", "specificity", "precision", "npv", "accuracy"):
        figures = [one["assessment"]["figures"][name] for one in compared]
        cells = (f"{html.percent(f['value'])} ({html.interval(f['interval'])})" for f in figures)
        rows.append((NAMES[name], *cells))
    areas = [one["assessment"]["figures"]["auroc"] for one in compared]
    cells = (f"{html.decimal(f['value'])} ({html.decimal_interval(f['interval'])})" for f in areas)
    rows.append(("AUROC", *cells))
    rows.append(
        (
            "Brier score",
            *(html.decimal(one["assessment"]["calibration"]["brier"]) for one in compared),
        )
    )
    return html.table(("figure", *(one["name"] for one in compared)), rows)


def columns_section(columns: list[dict[str, Any]]) -> list[str]:
    """The shortcut audit and the figures per value; empty where the data have no other column."""
    if not columns:
        return []
    parts = [
        "<p>A column that predicts the label by itself may be what a model has learned. Beside it "
        "stands what the model still does among images with the same value.</p>",
        html.table(
            ("column", "AUROC of the column alone", "the model's AUROC within its values"),
            [
                (one["column"], html.decimal(one["alone"]), html.decimal(one["within"]))
                for one in columns
            ],
        ),
    ]
    for one in columns:
        rows = [
            (
                group["value"],
                group["count"],
                group["positives"],
                f"{html.percent(group['recall'])} ({html.interval(group['recall_interval'])})",
                f"{html.percent(group['specificity'])} "
                f"({html.interval(group['specificity_interval'])})",
                f"{html.decimal(group['auroc'])}",
            )
            for group in one["subgroups"]
        ]
        head = (one["column"], "images", "ill", "sensitivity", "specificity", "AUROC")
        few = [at for at, group in enumerate(one["subgroups"]) if group["count"] < FEWEST]
        parts.append(html.table(head, rows, soft=few))
    parts.append('<p class="soft">No figure is given for fewer than 10 images.</p>')
    return parts
