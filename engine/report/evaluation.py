"""The page of one evaluation: what a model does on a data set, for a person."""

from __future__ import annotations

from html import escape
from typing import Any

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
UNIT = svg.Axis("", 0.0, 1.0)


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


def evaluation_page(document: dict[str, Any]) -> str:
    """The document that `engine.evaluate` writes as JSON, as HTML."""
    found = document["assessment"]
    parts = [
        f"<h1>Evaluation of {escape(document['model'])}</h1>",
        f'<p class="soft">on {escape(document["dataset"])}</p>',
        f'<p class="lead">{escape(headline(found))}</p>',
        *(f'<p class="warning">{escape(text)}</p>' for text in document["warnings"]),
        "<h2>Figures</h2>",
        _figures(found),
        _cross_table(found, document["label_names"]),
        "<h2>Curves</h2>",
        f'<div class="charts">{_charts(found)}</div>',
        "<h2>Calibration</h2>",
        _calibration(found["calibration"]),
        *_columns(found["columns"]),
        *_comparison(document.get("comparison")),
        "<h2>How this was made</h2>",
        html.table(("", "value"), document["provenance"].items(), numbers=False),
        '<p class="soft">For research. Not a medical device.</p>',
    ]
    return html.page(f"Evaluation of {document['model']}", parts)


def _figures(found: dict[str, Any]) -> str:
    rows = []
    for name, figure in found["figures"].items():
        of = f"{figure['hits']} of {figure['of']}" if "of" in figure else ""
        show = html.decimal if name in ("auroc", "average_precision", "f1") else html.percent
        rows.append(
            (
                NAMES[name],
                show(figure["value"]),
                html.interval(figure["interval"]),
                of,
                figure["method"] or "",
            )
        )
    if (elsewhere := found.get("at_prevalence")) is not None:
        where = f"where {html.percent(elsewhere['prevalence'])} are ill"
        for name in ("precision", "npv"):
            title = f"{NAMES[name]} {where}"
            rows.append(
                (title, html.percent(elsewhere[name]), html.UNDEFINED, "", "by Bayes' rule")
            )
    return html.table(("figure", "value", "95 % interval", "images", "method"), rows)


def _cross_table(found: dict[str, Any], names: list[str]) -> str:
    cells, (negative, positive) = found["confusion"], names
    return html.table(
        ("reference standard", f"called {negative}", f"called {positive}"),
        [(negative, cells["tn"], cells["fp"]), (positive, cells["fn"], cells["tp"])],
    )


def _charts(found: dict[str, Any]) -> str:
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
            svg.Axis("net benefit", -0.1, max(highest, 0.1)),
        ),
    ]
    return "".join(map(html.figure, charts))


def _calibration(found: dict[str, Any]) -> str:
    rows = [
        ("slope (1 is perfect; below it, scores are too extreme)", html.decimal(found["slope"])),
        ("intercept at slope 1 (0 is perfect)", html.decimal(found["in_the_large"])),
        ("Brier score (0 is perfect)", html.decimal(found["brier"])),
        ("expected calibration error", html.decimal(found["ece"])),
    ]
    return html.table(("", "value"), rows)


def _columns(columns: list[dict[str, Any]]) -> list[str]:
    if not columns:
        return []
    parts = [
        "<h2>Other columns: shortcuts and subgroups</h2>",
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
        parts.append(html.table(head, rows))
    parts.append('<p class="soft">No figure is given for fewer than 10 images.</p>')
    return parts


def _comparison(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return ["<h2>Comparison</h2>", f"<p>{escape(found['sentence'])}</p>"]
