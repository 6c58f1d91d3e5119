"""What a DICOM header says of an image: columns for subgroups, and whose image it is.

Identifying values leave this module only as a keyed hash. Dates are reduced to the year, and ages
above 89 to 90, as for data that are to be shared (45 CFR 164.514, b).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from engine.data.names import is_safe

if TYPE_CHECKING:
    from pydicom import Dataset

KEY, KEY_BYTES = "patient.key", 32
PATIENT = "patient"  # of the facts: a keyed hash, never the id itself
OLDEST = 90  # years
LONGEST = 64  # characters of a value, as DICOM allows for a short text
HEADER_TAGS = (
    *("PatientID", "IssuerOfPatientID", "PatientAge", "PatientSex", "PatientBirthDate"),
    *("StudyDate", "ViewPosition", "Manufacturer", "ManufacturerModelName", "Modality"),
)
UNITS = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}  # of PatientAge, in one year


def header_facts(image: Dataset, name: str, key: bytes) -> dict[str, str]:
    """age (years), sex, view, maker, model, modality, year and the hash of the patient id.

    Only those that the file has. An id that is no more than the image's own `name` (its path in the
    data set) numbers images, not people, and is left out.
    """
    facts = {
        "age": _age(image),
        "sex": _text(image, "PatientSex"),
        "view": _text(image, "ViewPosition"),
        "maker": _text(image, "Manufacturer"),
        "model": _text(image, "ManufacturerModelName"),
        "modality": _text(image, "Modality"),
        "year": _text(image, "StudyDate")[:4],
    }
    patient, path = _text(image, "PatientID", None), PurePosixPath(name)
    if patient and patient not in (path.stem, path.name):
        owner = f"{_text(image, 'IssuerOfPatientID', None)}\0{patient}"
        facts[PATIENT] = hmac.new(key, owner.encode(), hashlib.sha256).hexdigest()[:16]
    return {column: value for column, value in facts.items() if value}


def patient_key(folder: Path) -> bytes:
    """The secret of a cache folder, 32 random bytes that only its owner can read. Raises OSError.

    Without it nobody can tell whose id was hashed by trying all ids. Where it is lost, a new one is
    made: ids then have other hashes, and group the same images.
    """
    path = folder / KEY
    with contextlib.suppress(FileNotFoundError):
        found = path.read_bytes()
        if len(found) == KEY_BYTES:
            return found
        path.unlink()  # cut short by a full disk
    temporary = folder / f".{KEY}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_bytes()


def _text(image: Dataset, tag: str, longest: int | None = LONGEST) -> str:
    try:
        value: Any = image.get(tag)
    except Exception:  # pydicom quotes a value that is not allowed in its error
        return ""
    text = " ".join(str("" if value is None else value).split())
    return text[:longest] if is_safe(text) else ""


def _age(image: Dataset) -> str:
    """Years, with a decimal below 2; from the dates of birth and study where it is not given."""
    text = _text(image, "PatientAge")
    if text[:-1].isdecimal() and text[-1:] in UNITS:
        years = int(text[:-1]) / UNITS[text[-1]]
    else:
        born, taken = (_text(image, tag)[:8] for tag in ("PatientBirthDate", "StudyDate"))
        if not (born.isdecimal() and taken.isdecimal() and len(born) == len(taken) == 8):
            return ""
        years = (int(taken) - int(born)) / 10_000  # 20261124 - 19800101: whole years, and months
        years = float(int(years))
    if not 0 <= years < 150:
        return ""
    return f"{years:.1f}" if 0 < years < 2 else str(min(OLDEST, int(years)))
