"""The report's section on the data: where they are from, what was left out, how they were split."""

from __future__ import annotations

from html import escape
from typing import Any

from engine.report import html
from engine.report.facts import Facts
from engine.report.flow import flow_diagram

KINDS = {
    "table": "a table beside the images",
    "class_folders": "the name of the class folder",
}
IDS = {
    "shared": "some images share a patient, as they should where people were imaged repeatedly",
    "distinct": "no two images share a patient: the ids may number images",
    "some": "only some images have one",
    "none": "there are none",
}
MOST_VALUES = 6  # of a column, in the table of characteristics


def data_section(facts: Facts) -> list[str]:
    """Markup, already escaped."""
    found = facts.validation
    parts = []
    if diagram := flow_diagram(found):
        parts.append(f'<figure class="wide scroll">{diagram}</figure>')
    parts.append(html.table(("", "value"), _source(facts), numbers=False))
    parts.append("<h3>Preprocessing</h3>")
    steps = "".join(f"<li>{escape(_step(one))}</li>" for one in facts.bundle["preprocessing"])
    parts += [f"<ol>{steps}</ol>", "<h3>Characteristics of each part</h3>", _characteristics(facts)]
    return parts


def _source(facts: Facts) -> list[tuple[str, Any]]:
    found = facts.validation
    split = found.get("split", {})
    duplicates = found.get("exact_duplicates", {})
    sizes = found.get("sizes", {})
    seed = facts.config.system.seed
    rows: list[tuple[str, Any]] = [
        ("data set", facts.row.get("dataset_path") or "not recorded"),
        ("labels from", KINDS.get(found.get("kind", ""), found.get("kind", "not recorded"))),
        ("patient ids", IDS.get(split.get("patient_ids", ""), "not recorded")),
        ("missing images", found.get("missing_images", "not recorded")),
        ("unreadable images", found.get("unreadable_images", "not recorded")),
    ]
    if found.get("labels_decided_by"):
        decided = ", ".join(f"{how} {count:,}" for how, count in found["labels_decided_by"].items())
        rows.append(("rows whose label was decided by", decided))
    if found.get("votes", {}).get("images"):
        votes = found["votes"]
        rows.append(("images with several readers", f"{votes['images']}, {votes['agreed']} agreed"))
    if duplicates:
        surplus, groups = duplicates["surplus_images"], duplicates["groups"]
        text = f"{surplus} copies in {groups} groups of identical pixels, each group in one part"
        rows.append(("identical images", text if surplus else "none"))
    if sizes:
        text = ", ".join(f"{name} {a} to {c}, median {b}" for name, (a, b, c) in sizes.items())
        rows.append(("size in pixels", text))
    if found.get("modes"):
        modes = ", ".join(f"{mode} ({count})" for mode, count in found["modes"].items())
        rows.append(("stored as", modes))
    if found.get("bits_in_use"):
        rows.append(("bits in use", found["bits_in_use"]))
    rows.append(
        (
            "partition",
            f"by patient and by identical pixels, seed {seed}, or as the data set gives it: "
            f"{split.get('shared_patients', '?')} patients and {split.get('shared_pixels', '?')} "
            f"identical images in two parts, {split.get('near_duplicates', '?')} pairs of nearly "
            "identical images in two parts",
        )
    )
    return rows


def _step(step: dict[str, Any]) -> str:
    more = ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in step.items()
        if key != "step" and value is not None
    )
    return f"{step['step']}: {more}"


def _characteristics(facts: Facts) -> str:
    """Counts of each part, and of the scored parts the values of the other columns."""
    counts = {
        name: of
        for name, of in facts.validation.get("counts", {}).items()
        if sum(of.values())
    }  # fmt: skip
    negative, positive = facts.label_names
    patients = facts.validation.get("patients", {})
    rows: list[list[Any]] = [
        ["images", *(f"{sum(of.values()):,}" for of in counts.values())],
        ["patients", *(_patients(facts, patients.get(name)) for name in counts)],
        [positive, *(f"{of.get(positive, 0):,}" for of in counts.values())],
        [negative, *(f"{of.get(negative, 0):,}" for of in counts.values())],
        [
            "prevalence",
            *(html.percent(of.get(positive, 0) / sum(of.values())) for of in counts.values()),
        ],
    ]
    for column in facts.main.columns:
        cells = [_values(facts, name, column) for name in counts]
        if any(cell != html.UNDEFINED for cell in cells):
            rows.append([column, *cells])
    return html.table(("", *counts), rows)


def _patients(facts: Facts, count: int | None) -> str:
    if not facts.validation.get("patient_ids") or count is None:
        return "not known"
    return f"{count:,}"


def _values(facts: Facts, part: str, column: str) -> str:
    """Range of a column of numbers, or the most frequent values; with what is missing."""
    if part not in facts.parts or column not in facts.parts[part].columns:
        return html.UNDEFINED
    values = [value.strip() for value in facts.parts[part].columns[column]]
    known = [value for value in values if value]
    missing = f"; {len(values) - len(known)} missing" if len(known) < len(values) else ""
    try:
        numbers = sorted(float(value) for value in known)
    except ValueError:
        numbers = []
    if len(set(numbers)) > MOST_VALUES:
        middle = numbers[len(numbers) // 2]
        return f"median {middle:g}, {numbers[0]:g} to {numbers[-1]:g}{missing}"
    counts: dict[str, int] = {}
    for value in known:
        counts[value] = counts.get(value, 0) + 1
    first = sorted(counts.items(), key=lambda item: -item[1])[:MOST_VALUES]
    text = ", ".join(f"{value} {count}" for value, count in first)
    more = f", {len(counts) - len(first)} other values" if len(counts) > len(first) else ""
    return f"{text}{more}{missing}" if text else f"none{missing}"
