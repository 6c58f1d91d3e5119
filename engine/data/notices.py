"""What is said of a data set that is not wrong: (code, message) of each warning."""

from __future__ import annotations

from collections import Counter

from config.schema import Data
from engine.data.labels import DROP
from engine.data.listed import Listed
from engine.data.names import shown
from engine.data.table import Record

Warnings = list[tuple[str, str]]


def left_out(flow: Counter[str]) -> Warnings:
    """A warning for each reason that leaves out images on purpose."""
    keys = {
        "filtered": "filtered by data.where",
        "dropped": "dropped by data.label_map",
        "uncertain": "uncertain (data.uncertain=drop)",
        "unmentioned": "without a label (data.unmentioned=drop)",
    }
    return [
        (f"images_{reason}", f"{flow[reason]:,} images are {words}, and not used")
        for reason, words in keys.items()
        if flow[reason]
    ]


def decided_by_policy(listed: Listed, data: Data) -> Warnings:
    policies = {"uncertain": data.uncertain, "unmentioned": data.unmentioned}
    warnings = [
        (f"labels_{name}", f"{listed.decided[name]:,} {name} labels count as {policy}")
        for name, policy in policies.items()
        if listed.decided[name] and policy != DROP
    ]
    if listed.voted > listed.agreed:
        message = (
            f"{listed.voted - listed.agreed:,} of {listed.voted:,} images with several rows have "
            f"different labels; data.votes={data.votes} decides"
        )
        warnings.append(("votes_differ", message))
    return warnings


def without_match(records: list[Record], data: Data) -> Warnings:
    without = [record.name for record in records if record.patient is None]
    if not without:
        return []
    message = (
        f"data.patient_pattern finds no patient id in {len(without):,} of {len(records):,} paths: "
        f"each of these images counts as its own patient ({shown(without[0])}, ...)"
    )
    return [("patient_ids_missing", message)]


def no_patients(why: str) -> tuple[str, str]:
    return (
        "no_patient_ids",
        f"{why}: the split keeps identical images together, but images of one patient may be in "
        "several parts, and the figures may be too good",
    )


def number_images(table: str, column: str) -> tuple[str, str]:
    return (
        "patient_ids_number_images",
        f"the patient ids of {table} (column {column}) are the names of the images: they number "
        "images, not people. They are not used: the split keeps identical images together, but "
        "images of one patient may be in several parts, and the figures may be too good. Add a "
        "column that identifies people (data.patient_column), or give a table of images and "
        "patients (data.patients=FILE); RSNA publishes one that maps its images to NIH's",
    )
