"""The page of a data set before training: what was found, and what the network will see."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from engine.report import html, svg
from engine.report.bars import bar_chart
from engine.report.contact import Row
from engine.report.flow import flow_diagram

KINDS = {"table": "a table beside the images", "class_folders": "the names of class folders"}
IDS = {
    "shared": "known, and shared by some images",
    "distinct": "all distinct: they may number images",
    "some": "known for some images",
    "none": "not known",
}
PARTS = {"train": "training", "val": "validation", "test": "test"}
SHORTCUT = 0.65  # AUROC of a column alone, from which it is pointed out


def check_page(
    document: dict[str, Any],
    sheet: Sequence[Row],
    identical: Sequence[Row],
    nearly: Sequence[Row],
) -> str:
    """The document that `engine.check` writes as JSON, as HTML, with pictures."""
    report, title = document["report"], f"Data set {document['dataset']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(headline(document))}</p>',
        *(f'<p class="warning">{escape(text)}</p>' for text in report["warnings"]),
        "<h2>Flow of images</h2>",
        f'<figure class="wide scroll">{flow_diagram(report)}</figure>',
        *_rehearsal(document),
        "<h2>What the network will see</h2>",
        *_sheet(sheet, document),
        "<h2>Counts</h2>",
        _counts(report),
        f'<div class="charts">{_count_charts(document)}</div>',
        *_columns(document),
        "<h2>Pixels</h2>",
        _pixels(document),
        f'<div class="charts">{_grey_charts(document)}</div>',
        *_alike(report, identical, nearly, bool(sheet)),
        *_unreadable(report),
        '<p class="soft">For research. Not a medical device.</p>',
    ]
    return html.page(title, parts)


def headline(document: dict[str, Any]) -> str:
    """The data set in one paragraph."""
    report = document["report"]
    negative, positive = report["label_names"]
    counts = {
        name: sum(part[name] for part in report["counts"].values()) for name in (negative, positive)
    }
    patients = sum(report["patients"].values())
    of = f" of {patients:,} patients" if report["patient_ids"] else ""
    parts = ", ".join(
        f"{sum(part.values()):,} for {PARTS[name]}"
        for name, part in report["counts"].items()
        if sum(part.values())
    )
    return (
        f"{report['images']:,} images{of}: {counts[positive]:,} {positive} and "
        f"{counts[negative]:,} {negative}; {parts}. Labels are from "
        f"{KINDS.get(report['kind'], report['kind'])}; patients are "
        f"{IDS[report['split']['patient_ids']]}."
    )


def _rehearsal(document: dict[str, Any]) -> list[str]:
    lines = document.get("rehearsal_words") or []
    if not lines:
        return []
    return [
        "<h2>Rehearsal</h2>",
        "<ul>" + "".join(f"<li>{escape(t)}</li>" for t in lines) + "</ul>",
    ]


def _sheet(sheet: Sequence[Row], document: dict[str, Any]) -> list[str]:
    if not sheet:
        return ["<p>The images are not shown: report.images is false.</p>"]
    side = document["image_size"]
    text = (
        f"Images at {side} x {side} pixels ({document['fit']}), spread over each part; in training "
        "they are changed at random in every epoch, as the rows named augmented show."
    )
    rows = [
        f"<h3>{escape(row.title)}</h3>" + _thumbnails(row, captions=False) for row in sheet
    ]  # fmt: skip
    return [f"<p>{text}</p>", *rows]


def _thumbnails(row: Row, captions: bool) -> str:
    figures = "".join(
        f'<figure><img src="{picture.url}" alt="{escape(picture.name)}" '
        f'title="{escape(picture.name)}">'
        + (
            f"<figcaption>{escape(picture.label)}, {escape(picture.part)}<br>"
            f'<span class="soft">{escape(picture.name)}</span></figcaption>'
            if captions
            else ""
        )
        + "</figure>"
        for picture in row.pictures
    )
    return f'<div class="thumbnails">{figures}</div>'


def _counts(report: dict[str, Any]) -> str:
    negative, positive = report["label_names"]
    rows = []
    for name, of in report["counts"].items():
        images = sum(of.values())
        if images:
            patients = f"{report['patients'][name]:,}" if report["patient_ids"] else "not known"
            share = html.percent(of[positive] / images)
            rows.append((name, f"{images:,}", of[positive], of[negative], share, patients))
    head = ("part", "images", positive, negative, f"{positive}, share", "patients")
    split = report["split"]
    proof = (
        f"Between the parts: {split['shared_patients']} patients shared, {split['shared_pixels']} "
        f"identical images shared, {split['near_duplicates']} pairs of nearly identical images."
    )
    return html.table(head, rows) + f"<p>{escape(proof)}</p>"


def _count_charts(document: dict[str, Any]) -> str:
    report = document["report"]
    negative, positive = report["label_names"]
    counts = {name: of for name, of in report["counts"].items() if sum(of.values())}
    series = {name: [of[name] for of in counts.values()] for name in (negative, positive)}
    charts = [bar_chart("Images of each part", list(counts), series)]
    if per_patient := document["images_per_patient"]:
        title = "Patients by their number of images"
        charts.append(
            bar_chart(
                title, list(per_patient), {"patients": list(per_patient.values())}, "patients"
            )
        )
    for one in document["columns"]:
        groups = one["groups"]
        if len(groups) > 1:
            series = {
                negative: [group["images"] - group["positive"] for group in groups],
                positive: [group["positive"] for group in groups],
            }
            charts.append(bar_chart(one["column"], [group["value"] for group in groups], series))
    return "".join(map(html.figure, charts))


def _columns(document: dict[str, Any]) -> list[str]:
    if not document["columns"]:
        return []
    positive = document["report"]["label_names"][1]
    parts = [name for name, of in document["report"]["counts"].items() if sum(of.values())]
    found = [
        "<h2>Columns</h2>",
        "<p>The AUROC of a column alone says how well it predicts the label without any image: far "
        "above 0.5, a model may learn it instead of the disease.</p>",
    ]
    for one in document["columns"]:
        alone = html.decimal(one["alone"])
        strong = one["alone"] is not None and one["alone"] >= SHORTCUT
        found.append(f"<h3>{escape(one['column'])}</h3>")
        found.append(
            f'<p class="{"warning" if strong else "soft"}">AUROC of the column alone {alone}; '
            f"{one['missing']:,} missing</p>"
        )
        rows = [
            (
                group["value"],
                f"{group['images']:,}",
                html.percent(group["positive"] / group["images"]),
                *(f"{group[name]:,}" for name in parts),
            )
            for group in one["groups"]
        ]
        head = (one["column"], "images", f"{positive}, share", *parts)
        found.append(html.table(head, rows))
    return found


def _pixels(document: dict[str, Any]) -> str:
    report = document["report"]
    shapes = ", ".join(f"{w} x {h} ({count:,})" for w, h, count in report["shapes"])
    (w1, w2, w3), (h1, h2, h3) = report["sizes"]["width"], report["sizes"]["height"]
    bits = report["bits_in_use"]
    rows = [
        ("width", f"{w1} to {w3} pixels, median {w2}"),
        ("height", f"{h1} to {h3} pixels, median {h2}"),
        ("most common sizes", shapes),
        ("stored as", ", ".join(f"{mode} ({n:,})" for mode, n in report["modes"].items())),
        ("bits of 16-bit images", str(bits) if bits else "none, or as each file says"),
    ]
    grey = html.table(
        ("of a sample", "images", "mean", "deviation", "black", "white"),
        [
            (
                name,
                f"{of['sampled']:,}",
                f"{of['mean']:.1f}",
                f"{of['deviation']:.1f}",
                html.percent(of["black"]),
                html.percent(of["white"]),
            )
            for name, of in document["intensity"].items()
        ],
    )
    return html.table(("", "value"), rows, numbers=False) + grey


def _grey_charts(document: dict[str, Any]) -> str:
    values, means = [], []
    for name, of in document["intensity"].items():
        step = 256 / len(of["grey"])
        places = [(at + 0.5) * step for at in range(len(of["grey"]))]
        values.append(
            svg.Series(name, [(at, 100 * y) for at, y in zip(places, of["grey"], strict=True)])
        )
        share = [100 * count / of["sampled"] for count in of["means"]]
        means.append(svg.Series(name, list(zip(places, share, strict=True))))
    x = svg.Axis("grey level", 0, 256)
    charts = []
    for title, series, label in (
        ("Grey levels of all pixels", values, "% of the pixels"),
        ("Mean grey level of each image", means, "% of the images"),
    ):
        heights = [y for one in series for _, y in one.points]
        charts.append(svg.line_chart(title, series, x, svg.axis_for(label, heights)))
    return "".join(map(html.figure, charts))


def _alike(
    report: dict[str, Any], identical: Sequence[Row], nearly: Sequence[Row], shown: bool
) -> list[str]:
    duplicates, near = report["exact_duplicates"], report["near_duplicates_across_splits"]
    parts = [
        "<h2>Images that are alike</h2>",
        f"<p>{duplicates['surplus_images']:,} surplus copies in {duplicates['groups']:,} groups of "
        f"identical pixels, {duplicates['with_two_labels']:,} of them with two labels; "
        f"{near['pairs']:,} pairs of nearly identical images in two parts.</p>",
    ]
    if not shown:
        return parts
    for title, rows in (
        ("Identical pixels", identical),
        ("Nearly identical, in two parts", nearly),
    ):
        if rows:
            parts.append(f"<h3>{title}</h3>")
            parts.append('<div class="alike">')
            for row in rows:
                kind = "warning" if row.title.startswith(("two labels", "in two")) else "soft"
                note = f'<p class="{kind}">{escape(row.title)}</p>' if row.title else ""
                parts.append(f"<section>{_thumbnails(row, captions=True)}{note}</section>")
            parts.append("</div>")
    return parts


def _unreadable(report: dict[str, Any]) -> list[str]:
    if not report["unreadable"]:
        return []
    rows = report["unreadable"].items()
    return ["<h2>Unreadable images</h2>", html.table(("image", "why"), rows, numbers=False)]
