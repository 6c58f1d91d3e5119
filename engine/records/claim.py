"""Take a stored run for this process, where its state and its files allow it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from config import Config, UserError
from engine.process import started_at
from engine.records.database import (
    LIVE,
    Row,
    claim_run_sync,
    get_run_sync,
    metrics_sync,
    update_run_sync,
)
from engine.records.identity import check_owner, has_snapshot, mark
from engine.records.resume import check_changes, check_resume, check_start, describe_changes


@dataclass(frozen=True)
class Claim:
    """A run that this process may train."""

    run_uid: str
    resumes: bool = False  # from a snapshot; otherwise it begins at epoch 1
    remarks: list[tuple[str, str]] = field(default_factory=list)  # (code, message) for its log


def stored_run(database: Path, run_id: int) -> Row:
    """A run of an existing database. Raises UserError where one of them is missing."""
    if not database.exists():
        raise UserError(
            f"there is no database {database}; name the one that has run {run_id} with "
            "--set output.database=FILE"
        )
    row = get_run_sync(database, run_id)
    if row is None:
        raise UserError(f"there is no run {run_id} in {database}")
    return row


def claim_stored(database: Path, run_id: int, config: Config, resume: bool) -> Claim:
    """Start a queued run, or `resume` one, with `config`, which is recorded where it differs.

    Raises UserError, and changes nothing, where the run's state, its files or the differences
    do not allow it.
    """
    row = stored_run(database, run_id)
    output = config.to_dict()["output"]
    epochs = len(metrics_sync(database, run_id))
    check_owner(row, output, begun=bool(epochs or row["started_at"]))
    remarks: list[tuple[str, str]] = []
    if resume:
        resumes = check_resume(row, output, epochs)
        if not resumes:
            message = f"run {run_id} has no snapshot yet: it begins at epoch 1"
            remarks.append(("no_snapshot", message))
    else:
        resumes = False
        is_ours = row["status"] in LIVE and row["pid"] == os.getpid()
        check_start(row, bool(epochs) or has_snapshot(output, run_id), is_ours)
    if row["config"] is not None:
        before = Config.from_dict(row["config"]).absolute()
        if changes := check_changes(run_id, before, config):
            how = "resumed" if resumes else "started"
            message = f"{how} with {describe_changes(changes)}"
            remarks.append(("configuration_changed", message))
    mark(row, output)  # first: it may fail, and a claimed run is nobody else's
    claim_run_sync(database, run_id, os.getpid(), started_at(os.getpid()))
    update_run_sync(database, run_id, config=config.to_dict())
    return Claim(row["run_uid"], resumes, remarks)
