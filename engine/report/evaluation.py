"""The page of one evaluation: what a model does on a data set, for a person."""

from __future__ import annotations

from html import escape
from typing import Any

from engine.report import html
from engine.report.sections import (
    calibration_table,
    charts,
    columns_section,
    cross_table,
    figures_table,
    headline,
    side_by_side,
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
        figures_table(found),
        cross_table(found, document["label_names"]),
        "<h2>Curves</h2>",
        f'<div class="charts">{charts(found)}</div>',
        "<h2>Calibration</h2>",
        calibration_table(found["calibration"]),
        *_beside_training(document),
        *_robustness(document.get("robustness", [])),
        *_columns(found["columns"]),
        *_comparison(document.get("comparison")),
        "<h2>How this was made</h2>",
        html.table(("", "value"), document["provenance"].items(), numbers=False),
        '<p class="soft">For research. Not a medical device.</p>',
    ]
    return html.page(f"Evaluation of {document['model']}", parts)


def _beside_training(document: dict[str, Any]) -> list[str]:
    inside = document.get("internal")
    if inside is None:
        return []
    compared = [
        {"name": f"internal ({inside['part']} part)", "assessment": inside},
        {"name": document["dataset"], "assessment": document["assessment"]},
    ]
    return ["<h2>Beside the model's own data</h2>", side_by_side(compared)]


def _robustness(changes: list[dict[str, Any]]) -> list[str]:
    if not changes:
        return []
    rows = [
        (
            one["change"],
            html.decimal(one["auroc"]),
            html.percent(one["decisions_changed"]),
            html.decimal(one["mean_score_change"]),
        )
        for one in changes
    ]
    head = ("change", "AUROC", "decisions that change", "mean change of the score")
    return [
        "<h2>Robustness</h2>",
        f"<p>The same {changes[0]['images']} images, changed in ways that change no diagnosis.</p>",
        html.table(head, rows),
    ]


def _columns(columns: list[dict[str, Any]]) -> list[str]:
    title = "<h2>Other columns: shortcuts and subgroups</h2>"
    return [title, *columns_section(columns)] if columns else []


def _comparison(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return ["<h2>Comparison</h2>", f"<p>{escape(found['sentence'])}</p>"]
