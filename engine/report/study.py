"""`study.yaml`: what only a person knows of a study, kept beside its data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config import UserError
from config.errors import first_line

FILE = "study.yaml"
LONGEST = 4000  # characters of one answer
MOST_BYTES = 200_000
NOT_STATED = "not stated"
PREVALENCE = "prevalence"
# key -> what it says, grouped as the report shows them
USE = {
    "intended_use": "intended use",
    "intended_user": "intended user",
    "workflow": "place in the workflow",
    "out_of_scope": "uses that are out of scope",
}
STUDY = {
    "design": "retrospective or prospective",
    "setting": "setting and sites",
    "dates": "dates of the images",
    "sampling": "consecutive or convenience sample",
    "inclusion": "inclusion and exclusion criteria",
    "deidentification": "de-identification",
}
REFERENCE = {
    "reference_standard": "reference standard",
    "reference_rationale": "why this reference standard",
    "annotators": "annotators",
    "annotator_training": "their training and experience",
    "agreement": "agreement between annotators",
    "blinding": "blinding",
}
FORMAL = {
    "ethics": "ethics approval",
    "registration": "registration",
    "funding": "funding",
    "conflicts": "conflicts of interest",
    "patient_involvement": "patient involvement",
    "license": "licence of data and model",
    "contact": "contact",
}
KEYS = {
    **USE,
    **STUDY,
    **REFERENCE,
    **FORMAL,
    PREVALENCE: "share of patients with the disease where the model is to be used (above 0, "
    "below 1)",
}

Study = Mapping[str, Any]  # key -> text; `prevalence` is a number


def find_study(dataset: Path) -> Path | None:
    """`study.yaml` in a data set that is a folder, or beside a data set; None without one."""
    for folder in (dataset, dataset.parent):
        if (folder / FILE).is_file():
            return folder / FILE
    return None


def read_study(path: Path) -> dict[str, Any]:
    """The answers of a file. Raises UserError, naming the key and the file."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES:,} bytes")
        given: Any = yaml.safe_load(content.decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not YAML in UTF-8 ({first_line(error)})") from error
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{path} should hold keys with texts, such as `intended_use: ...`")
    return {key: _checked(key, value, path) for key, value in given.items() if value is not None}


def stated(study: Study, key: str) -> str:
    """An answer as text; "not stated" where it is missing."""
    return str(study.get(key, NOT_STATED))


def _checked(key: Any, value: Any, path: Path) -> Any:
    if key not in KEYS:
        near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.0)[0]
        raise UserError(f"{path}: unknown key {str(key)[:60]!r}; did you mean {near}?")
    if key == PREVALENCE:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise UserError(f"{path}: {key} must be a number above 0 and below 1, such as 0.05")
        return float(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        value = "; ".join(map(str, value))
    if isinstance(value, dict | list) or len(str(value)) > LONGEST:
        raise UserError(f"{path}: {key} must be a text of at most {LONGEST} characters")
    return " ".join(str(value).split())
