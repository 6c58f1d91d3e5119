"""What DICOM headers say of images, taken over into the records: columns, and patients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from config.schema import AUTO, Data
from engine.data.cache import Scan
from engine.data.headers import PATIENT
from engine.data.source import Source

NO_PATIENTS = ("no_patient_ids", "patient_ids_number_images")  # warnings that headers may settle


def with_headers(source: Source, scans: Sequence[Scan], data: Data) -> Source:
    """The source with columns and patients from the headers; `scans` are over its records.

    A column that the table has stays as it is there. Patients are taken where neither a table nor
    the paths name any, as the keyed hash of PatientID, unless `data.patient_column` is none.
    """
    known = {column.casefold() for column in source.columns}
    found = {name for scan in scans for name in scan.facts} - {PATIENT}
    columns = tuple(sorted(name for name in found if name.casefold() not in known))
    records = source.records
    if columns:
        records = [
            dataclasses.replace(
                record, values=(*record.values, *(scan.facts.get(name, "") for name in columns))
            )
            for record, scan in zip(records, scans, strict=True)
        ]
    warnings = list(source.warnings)
    ids = [scan.facts.get(PATIENT) for scan in scans]
    asked = data.patient_column == AUTO and data.patient_pattern == AUTO
    if asked and any(ids) and not any(record.patient for record in records):
        records = [
            dataclasses.replace(record, patient=patient)
            for record, patient in zip(records, ids, strict=True)
        ]
        warnings = [(code, text) for code, text in warnings if code not in NO_PATIENTS]
        without = ids.count(None)
        message = "patients are told apart by the PatientID of the DICOM headers, kept as a hash"
        if without:
            message += f"; {without:,} images have none: each counts as its own patient"
        warnings.append(("patient_ids_from_headers", message))
    return dataclasses.replace(
        source, records=records, columns=(*source.columns, *columns), warnings=warnings
    )
