"""The appendix: what reporting guidelines ask for, and where this report says it.

The topics are those that CLAIM (2024 update), STARD-AI, TRIPOD+AI and FUTURE-AI share, in words.
"""

from __future__ import annotations

from engine.report.facts import Facts
from engine.report.study import NOT_STATED, stated

# topic -> the section that fills it, or the keys of study.yaml that a person fills
TOPICS: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    ("Intended use, user and place in the workflow", ("intended_use", "intended_user", "workflow")),
    ("Use that is out of scope", ("out_of_scope",)),
    ("Study design, setting, dates, sampling", ("design", "setting", "dates", "sampling")),
    ("Inclusion and exclusion criteria", ("inclusion",)),
    ("Source of the data, flow of images, missing data", "Data"),
    ("Preprocessing", "Data"),
    ("De-identification", ("deidentification",)),
    ("Reference standard and its rationale", ("reference_standard", "reference_rationale")),
    ("Annotators, their training, their agreement", ("annotators", "annotator_training",
                                                     "agreement")),
    ("Blinding", ("blinding",)),
    ("Partition and its level of disjointness", "Data"),
    ("Characteristics of each part", "Data"),
    ("Sample size", "Size of the test"),
    ("Model, initial weights, training, selection", "Model and training"),
    ("Threshold and the images it was chosen on", "Model and training"),
    ("Performance with intervals, calibration, net benefit", "Performance"),
    ("External testing", "External testing"),
    ("Subgroups and fairness", "Subgroups"),
    ("Robustness", "External testing"),
    ("Explanation and its validation", "Surest mistakes"),
    ("Failure analysis", "Surest mistakes"),
    ("Limitations", "Limitations"),
    ("Software, hardware, repeatability", "Environment"),
    ("Ethics approval and registration", ("ethics", "registration")),
    ("Funding and conflicts of interest", ("funding", "conflicts")),
    ("Patient involvement", ("patient_involvement",)),
    ("Availability, licence, contact", ("license", "contact")),
)  # fmt: skip


def checklist(facts: Facts) -> list[tuple[str, str]]:
    """(topic, where it is answered or that it is not stated)."""
    rows = []
    for topic, where in TOPICS:
        if isinstance(where, str):
            found = f"section {where}"
            undone = {
                "External testing": not facts.external,
                "Subgroups": not facts.main.columns,
            }
            if undone.get(where):
                found = "not done"
        else:
            known = sum(stated(facts.study, key) != NOT_STATED for key in where)
            found = {0: NOT_STATED, len(where): "stated"}.get(known, "stated in part")
        rows.append((topic, found))
    return rows
