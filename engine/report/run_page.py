"""The report of one run as a page: what it found, on which images, and what is not known."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from html import escape
from typing import Any

from engine.report import html, svg
from engine.report.checklist import checklist
from engine.report.data_section import data_section
from engine.report.facts import Facts
from engine.report.limitations import WIDE, images_needed, limitations
from engine.report.mistakes import Mistake, Mistakes
from engine.report.sections import (
    calibration_table,
    charts,
    columns_section,
    cross_table,
    figures_table,
    headline,
    side_by_side,
)
from engine.report.study import FORMAL, REFERENCE, STUDY, USE, stated

PARTS = {"val": "validation images", "test": "test images (internal testing)"}
CURVES = {
    "val_recall": "sensitivity",
    "val_specificity": "specificity",
    "val_auroc": "AUROC",
}
SECTIONS = (
    *("Limitations", "Intended use", "Data", "Size of the test", "Model and training"),
    *("Performance", "Subgroups", "External testing", "Surest mistakes", "Environment"),
    *("Warnings of the run", "Study", "Checklist"),
)


def run_page(facts: Facts, mistakes: Mistakes) -> str:
    """The whole document."""
    bodies: dict[str, list[str]] = {
        "Limitations": [_list(limitations(facts))],
        "Intended use": [_stated(facts, USE)],
        "Data": data_section(facts),
        "Size of the test": _size(facts),
        "Model and training": _training(facts),
        "Performance": _performance(facts),
        "Subgroups": _subgroups(facts),
        "External testing": _external(facts),
        "Surest mistakes": _mistakes(facts, mistakes),
        "Environment": _environment(facts),
        "Warnings of the run": [_list(facts.warnings) if facts.warnings else "<p>None.</p>"],
        "Study": [
            "<p>Stated by the person who made the study, in study.yaml beside the data.</p>",
            _stated(facts, {**STUDY, **REFERENCE, **FORMAL}),
        ],
        "Checklist": [
            "<p>Topics that reporting guidelines for models on medical images share (CLAIM, "
            "STARD-AI, TRIPOD+AI, FUTURE-AI), and where this report answers them.</p>",
            html.table(("topic", "answered in"), checklist(facts), numbers=False),
        ],
    }
    name = facts.row["run_name"]
    parts = [*_head(facts), _contents()]
    for title in SECTIONS:
        parts += [f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>', *bodies[title]]
        parts.append("</section>")
    parts.append(
        '<p class="soft">Made by Pneumoscope from the records of the run. For research. Not a '
        "medical device.</p>"
    )
    return html.page(f"{name}: report of run {facts.row['run_id']}", parts)


def summary(facts: Facts) -> str:
    """The result in one paragraph, for a clinician."""
    main = facts.assessments[facts.main.name]
    whose = (
        "These images chose nothing: neither the kept epoch nor the threshold."
        if facts.main.name == "test"
        else "These images also chose the kept epoch, so the figures flatter the model."
    )
    return f"{headline(main)} {whose}"


def _head(facts: Facts) -> list[str]:
    row, (negative, positive) = facts.row, facts.label_names
    description = row.get("run_description") or ""
    return [
        f"<h1>{escape(row['run_name'])}</h1>",
        f'<p class="soft">Report of run {row["run_id"]}, '
        f"{escape((row['created_at'] or '')[:10])}: a network that gives a chest X-ray image a "
        f"score from 0 to 1, where higher is more likely {escape(positive)} and not "
        f"{escape(negative)}.</p>",
        *([f"<p>{escape(description)}</p>"] if description else []),
        f'<p class="lead">{escape(summary(facts))}</p>',
    ]


def _contents() -> str:
    links = "".join(f'<li><a href="#{_anchor(t)}">{escape(t)}</a></li>' for t in SECTIONS)
    return f'<nav aria-label="Contents"><ul class="contents">{links}</ul></nav>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in sentences)}</ul>"


def _stated(facts: Facts, keys: dict[str, str]) -> str:
    rows = [(title, stated(facts.study, key)) for key, title in keys.items()]
    return html.table(("", "stated"), rows, numbers=False)


def _size(facts: Facts) -> list[str]:
    found = facts.assessments[facts.main.name]
    rows = []
    for name, title in (("recall", "sensitivity"), ("specificity", "specificity")):
        figure = found["figures"][name]
        low, high = figure["interval"]
        wanted = images_needed(figure["value"], WIDE) if figure["of"] else html.UNDEFINED
        rows.append((title, figure["of"], html.decimal(high - low, 2), wanted))
    return [
        f"<p>What these {PARTS[facts.main.name].partition(' (')[0]} can show: the width of the "
        f"95 % interval, and the number of images that would make it {WIDE} wide.</p>",
        html.table(("figure", "images", "width", f"images for {WIDE}"), rows),
    ]


def _training(facts: Facts) -> list[str]:
    model, training = facts.bundle["architecture"], facts.config
    point = facts.bundle["operating_points"][facts.bundle["default_operating_point"]]
    weights = training.model.weights
    hashes = facts.manifest.get("weights")
    rows = [
        ("network", f"{model['backbone']} with a head of {list(model['head_sizes'])}, 2 outputs"),
        ("input", f"{model['image_size']} x {model['image_size']} pixels, grey in 3 channels"),
        ("initial weights", f"{weights}{f' ({hashes})' if hashes else ''}"),
        ("optimizer", f"AdamW, learning rate {training.experiment.learning_rate:g}, weight decay "
                      f"{training.experiment.weight_decay:g}, batches of "
                      f"{training.system.batch_size}"),
        ("schedule", f"the rate is multiplied by {training.experiment.reduce_lr_factor:g} after "
                     f"{training.experiment.reduce_lr_patience} epochs without a lower validation "
                     "loss"),
        ("augmentation", ", ".join(f"{k} {v:g}" if not isinstance(v, str) else f"{k} {v}"
                                   for k, v in facts.config.to_dict()["augment"].items() if v)),
        ("seed", training.system.seed),
        ("epochs", f"{len(facts.epochs)} trained, epoch {facts.bundle['epoch']} kept"
                   + (", stopped early" if facts.row.get("early_stopped")
                      or facts.result.get("early_stopped") else "")),
        ("selection", facts.result.get("selection", "not recorded")),
        ("threshold", f"{facts.threshold:.4g}, by the rule {point['rule']}, chosen on the part "
                      f"{point['part']}"
                      + (", before the test part was scored" if "test" in facts.parts else "")
                      if point["rule"] != "default_0.5" else "0.5, fixed before the training"),
        ("calibration", "none" if facts.bundle.get("temperature") is None
         else f"temperature {facts.bundle['temperature']:.3g}, fitted on the part val"),
    ]  # fmt: skip
    parts = [html.table(("", "value"), rows, numbers=False)]
    if len(facts.epochs) > 1:
        parts.append(f'<div class="charts">{_curves(facts)}</div>')
    settings = [
        (f"{section}.{key}", value)
        for section, keys in facts.config.to_dict().items()
        if section != "output"
        for key, value in keys.items()
    ]
    table = html.table(("key", "value"), settings, numbers=False)
    return [*parts, f"<details><summary>Every setting</summary>{table}</details>"]


def _curves(facts: Facts) -> str:
    number = [float(row["epoch"]) for row in facts.epochs]
    x = svg.Axis("epoch", number[0], number[-1], whole=True)

    def line(title: str, key: str) -> svg.Series:
        values = [row.get(key) for row in facts.epochs]
        numbers = [float("nan") if value is None else float(value) for value in values]
        return svg.Series(title, list(zip(number, numbers, strict=True)))

    losses = [line("training", "train_loss"), line("validation", "val_loss")]
    highest = [y for one in losses for _, y in one.points]
    drawn = [
        svg.line_chart("Loss", losses, x, svg.axis_for("loss", highest)),
        svg.line_chart(
            "Validation figures at each epoch",
            [line(title, key) for key, title in CURVES.items()],
            x,
            svg.Axis("value", 0, 1),
        ),
    ]
    return "".join(map(html.figure, drawn))


def _performance(facts: Facts) -> list[str]:
    parts = []
    for name in sorted(facts.parts):  # test before val
        found = facts.assessments[name]
        parts += [
            f"<h3>On the {escape(PARTS[name])}</h3>",
            figures_table(found),
            cross_table(found, list(facts.label_names)),
        ]
        if name == facts.main.name:
            parts += [
                f'<div class="charts">{charts(found)}</div>',
                calibration_table(found["calibration"]),
            ]
    return parts


def _subgroups(facts: Facts) -> list[str]:
    found = columns_section(facts.assessments[facts.main.name]["columns"])
    return found or ["<p>The data set has no other column: no subgroup can be told apart.</p>"]


def _external(facts: Facts) -> list[str]:
    if not facts.external:
        return [
            "<p>Not done. <code>python -m engine.evaluate MODEL --dataset OTHER</code> tests the "
            "model on another data set, and <code>python -m engine.report "
            f"{facts.row['run_id']} --evaluation FOLDER</code> adds the result here.</p>"
        ]
    inside = {"name": "internal", "assessment": facts.assessments[facts.main.name]}
    outside = [
        {"name": document["dataset"], "assessment": document["assessment"]}
        for document in facts.external
    ]
    warnings = [
        f"{document['dataset']}: {text}"
        for document in facts.external
        for text in document["warnings"]
    ]
    return [side_by_side([inside, *outside]), _list(warnings)]


def _mistakes(facts: Facts, found: Mistakes) -> list[str]:
    negative, positive = facts.label_names
    check = ""
    if found.correlation is not None and found.correlation == found.correlation:
        trusted = any(one.heat_map for one in (*found.missed, *found.false_alarms))
        check = (
            "The heat maps (Grad-CAM) show which region raised the score, not why. Sanity check: "
            f"their correlation with the maps of random weights is {found.correlation:.2f}; "
            + (
                "they depend on what was learned."
                if trusted
                else "they hardly depend on what was learned, and are not shown."
            )
        )
    groups = (
        (found.missed, found.missed_count, f"{positive}, called {negative}", "lowest"),
        (found.false_alarms, found.false_alarm_count, f"{negative}, called {positive}", "highest"),
    )
    parts = [f"<p>{escape(text)}</p>" for text in (found.note, check) if text]
    for listed, count, title, extreme in groups:
        parts.append(f"<h3>{escape(title)}: {count}</h3>")
        if listed:
            which = "" if len(listed) == count else f", the {len(listed)} with the {extreme} scores"
            parts.append(f'<p class="soft">{count} images{which}.</p>')
            parts.append(f'<div class="mistakes">{"".join(map(_mistake, listed))}</div>')
    return parts


def _mistake(one: Mistake) -> str:
    pictures = "".join(
        f'<img alt="{text}" src="{url}">'
        for text, url in (("image", one.picture), ("heat map", one.heat_map))
        if url
    )
    name = escape(one.name)
    return (
        f"<figure>{pictures}<figcaption>score {one.score:.3f}<br>"
        f'<span class="soft">{name}</span></figcaption></figure>'
    )


def _environment(facts: Facts) -> list[str]:
    manifest: dict[str, Any] = facts.manifest
    hardware, packages = manifest.get("hardware", {}), manifest.get("packages", {})
    seconds = facts.result.get("training_time") or facts.row.get("training_time")
    run_id = facts.row["run_id"]
    rows = [
        ("run's uid", facts.row["run_uid"]),
        ("device", f"{hardware.get('device', 'not recorded')}, "
                   f"{hardware.get('precision', '')}, {hardware.get('machine', '')}"),
        ("packages", ", ".join(f"{k} {v}" for k, v in packages.items() if v)),
        ("code", " ".join(str(v) for v in manifest.get("code", {}).values())),
        ("data's SHA-256", facts.row.get("dataset_fingerprint") or "not recorded"),
        ("training time", f"{seconds:.0f} s" if seconds else "not recorded"),
        ("command", " ".join(map(str, manifest.get("command", []))) or "not recorded"),
        ("to repeat it", f"python -m engine.reproduce {run_id}"),
        ("report made with", f"Python {platform.python_version()}"),
    ]  # fmt: skip
    return [html.table(("", "value"), rows, numbers=False)]
