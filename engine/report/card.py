"""The model card: a page of Markdown beside the bundle."""

from __future__ import annotations

from engine.report import html
from engine.report.facts import Facts
from engine.report.limitations import limitations
from engine.report.run_page import summary
from engine.report.sections import NAMES
from engine.report.study import FORMAL, NOT_STATED, REFERENCE, STUDY, USE, stated

SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|#"})


def model_card(facts: Facts) -> str:
    """Markdown; what a person has not stated says so."""
    negative, positive = facts.label_names
    shape, found = facts.bundle["architecture"], facts.assessments[facts.main.name]
    licence = facts.study.get("license")
    lines = [
        "---",
        "library_name: pneumoscope",
        "pipeline_tag: image-classification",
        "tags: [chest-x-ray, medical, research]",
        "---",
        f"# {_text(facts.row['run_name'])}",
        "",
        f"A {shape['backbone']} that gives a chest X-ray image a score from 0 to 1; at the "
        f"threshold {facts.threshold:.4g} and above it is called {_text(positive)}, below it "
        f"{_text(negative)}. For research. Not a medical device.",
        "",
        "## Result",
        "",
        _text(summary(facts)),
        "",
        f"| on the {facts.main.name} part | value | 95 % interval |",
        "|---|---|---|",
        *(
            f"| {NAMES[name]} | {html.decimal(figure['value'])} | "
            f"{html.decimal_interval(figure['interval'])} |"
            for name, figure in found["figures"].items()
        ),
        f"| Brier score | {html.decimal(found['calibration']['brier'])} | {html.UNDEFINED} |",
        "",
        "## Limitations",
        "",
        *(f"- {_text(sentence)}" for sentence in limitations(facts)),
        "",
        "## Intended use",
        "",
        *_answers(facts, USE),
        "",
        "## Training",
        "",
        f"- data: {_text(str(facts.row.get('dataset_path') or 'not recorded').split('/')[-1])}, "
        f"SHA-256 of its content and split {facts.row.get('dataset_fingerprint')}",
        *(
            f"- {part}: {', '.join(f'{count} {_text(name)}' for name, count in of.items())}"
            for part, of in facts.validation.get("counts", {}).items()
            if sum(of.values())
        ),
        f"- input: {shape['image_size']} x {shape['image_size']} pixels; "
        f"{len(facts.epochs)} epochs, epoch {facts.bundle['epoch']} kept",
        f"- {_text(facts.result.get('selection', 'selection not recorded'))}",
        "",
        "## The study",
        "",
        *_answers(facts, {**STUDY, **REFERENCE, **FORMAL}),
        "",
        "## Use",
        "",
        "```",
        "python -m engine.predict best_model.pt images/",
        "```",
        "",
        f"Run {facts.row['run_id']}, uid {facts.row['run_uid']}. The report of the run has "
        "curves, subgroups and mistakes.",
        "",
    ]
    if licence:
        lines.insert(1, f"license_name: {licence!r}")
    return "\n".join(lines)


def _answers(facts: Facts, keys: dict[str, str]) -> list[str]:
    known = [f"- {t}: {_text(str(facts.study[k]))}" for k, t in keys.items() if k in facts.study]
    missing = [title for key, title in keys.items() if stated(facts.study, key) == NOT_STATED]
    return [*known, *([f"- {NOT_STATED}: {', '.join(missing)}"] if missing else [])]


def _text(text: str) -> str:
    """As plain text in Markdown."""
    return " ".join(text.translate(SIGNS).split())
