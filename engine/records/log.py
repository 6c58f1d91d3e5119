"""What an event changes in the database: the log, the metric rows and the row of its run.

Every function gives statements with their rows of values, for any driver to run in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Statement = tuple[str, list[tuple[Any, ...]]]  # for executemany

PASSING = "training_progress"
TRANSIENT = (PASSING, "system_metrics")  # each replaces the run's previous one of its kind
EPOCH_METRICS = "training_metrics_update"
ONCE_PER_EPOCH = (EPOCH_METRICS, "learning_rate_changed", "early_stopping_triggered")
WITH_EPOCH = (*ONCE_PER_EPOCH, "checkpoint_saved")  # have their epoch in a column of its own

METRIC_COLUMNS = (
    *("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_precision"),
    *("val_recall", "val_specificity", "val_f1", "val_auroc", "val_recall_at_specificity"),
    *("learning_rate", "epoch_seconds", "train_seconds"),
)

OUTCOME = ("total_epochs_run", "training_time", "early_stopped", "best_epoch", "best_model_path")

# Of a run that its own process does not end: what its rows say.
FROM_ROWS = (
    "total_epochs_run = (SELECT count(*) FROM run_metrics AS m WHERE m.run_id = run.run_id), "
    "training_time = (SELECT total(epoch_seconds) FROM run_metrics AS m "
    "WHERE m.run_id = run.run_id)"
)


def record(run_id: int, at: str, event: str, payload: Mapping[str, Any]) -> list[Statement]:
    """An event with everything that follows from it."""
    if event == "training_resumed":
        return [*_replace_history(run_id, at, payload), *_append(run_id, at, event, payload)]
    return [*_append(run_id, at, event, payload), *_effects(run_id, at, event, payload)]


def storable(value: Any) -> Any:
    """Text without lone surrogates, as of a file name in another encoding: SQLite takes none."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def insertion(
    run_id: int, at: str, event: str, payload: Mapping[str, Any]
) -> tuple[list[Statement], str, tuple[Any, ...]]:
    """What makes room for an event in the log, and the one statement that appends it.

    A transient event replaces the run's previous one; so does one of an epoch that is trained
    again. One that the log has with the same content is not appended again.
    """
    text = json.dumps(payload, allow_nan=False)
    epoch = payload["epoch"] if event in WITH_EPOCH else None
    columns = "INSERT INTO event (run_id, at, event, payload, epoch) "
    values = (run_id, at, event, text, epoch)
    if event in TRANSIENT:
        before = f"DELETE FROM event WHERE run_id = ? AND event = '{event}'"  # literal: an index
        return [(before, [(run_id,)])], f"{columns}VALUES (?, ?, ?, ?, ?)", values
    if event not in ONCE_PER_EPOCH:
        return [], f"{columns}VALUES (?, ?, ?, ?, ?)", values
    key = (run_id, event, epoch)
    return (
        [
            (
                "DELETE FROM event WHERE run_id = ? AND event = ? AND epoch = ? AND payload <> ?",
                [(*key, text)],
            )
        ],
        f"{columns}SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS "
        "(SELECT 1 FROM event WHERE run_id = ? AND event = ? AND epoch = ?)",
        (*values, *key),
    )


def metrics_row(run_id: int, values: Mapping[str, Any]) -> Statement:
    """The row of one epoch; a repeated epoch replaces its row."""
    names, marks = ", ".join(METRIC_COLUMNS), ", ".join("?" * len(METRIC_COLUMNS))
    return (
        f"INSERT OR REPLACE INTO run_metrics (run_id, {names}) VALUES (?, {marks})",
        [(run_id, *(values[name] for name in METRIC_COLUMNS))],
    )


def _append(run_id: int, at: str, event: str, payload: Mapping[str, Any]) -> list[Statement]:
    logged = {name: value for name, value in payload.items() if name != "history"}
    before, statement, values = insertion(run_id, at, event, logged)
    return [*before, (statement, [values])]


def _effects(run_id: int, at: str, event: str, payload: Mapping[str, Any]) -> list[Statement]:
    """The event's row of figures, and what it sets in the row of its run."""
    if event == EPOCH_METRICS:
        best = [_set(run_id, "best_epoch = ?", payload["epoch"])] if payload["is_best"] else []
        return [metrics_row(run_id, payload), *best]
    if event == "checkpoint_saved" and payload["reason"] == "best":
        return [_set(run_id, "best_model_path = ?", payload["path"])]
    if event == "training_started":
        sets = "status = 'in_progress', started_at = COALESCE(started_at, ?), "
        return [_set(run_id, f"{sets}completed_at = NULL, error = NULL", at)]
    if event in ("training_complete", "training_stopped"):
        status = "completed" if event == "training_complete" else "stopped"
        sets = ", ".join(f"{name} = ?" for name in ("status", "completed_at", *OUTCOME))
        return [
            _set(run_id, f"{sets}, error = NULL", status, at, *(payload[name] for name in OUTCOME))
        ]
    if event == "training_failed":
        sets = f"status = 'failed', completed_at = ?, error = ?, {FROM_ROWS}"
        return [_set(run_id, sets, at, payload["error"])]
    if event == "training_interrupted":
        sets = f"status = 'interrupted', completed_at = ?, error = ?, {FROM_ROWS}"
        return [_set(run_id, sets, at, payload["reason"])]
    return []


def _replace_history(run_id: int, at: str, payload: Mapping[str, Any]) -> list[Statement]:
    """Log and rows as of the epoch that a run continues after: what came later never happened.

    The number of statements does not depend on the number of epochs.
    """
    history = [(name, fields) for name, fields in payload["history"]]
    figures = [fields for name, fields in history if name == EPOCH_METRICS]
    best = max((fields["epoch"] for fields in figures if fields["is_best"]), default=None)
    kept = json.dumps([f"{name} {fields['epoch']}" for name, fields in history])
    epochs = json.dumps([fields["epoch"] for fields in figures])
    return [
        (
            f"DELETE FROM event WHERE run_id = ? AND event IN {ONCE_PER_EPOCH} AND "
            "epoch IS NOT NULL AND event || ' ' || epoch NOT IN (SELECT value FROM json_each(?))",
            [(run_id, kept)],
        ),
        (
            "DELETE FROM event WHERE run_id = ? AND event = 'checkpoint_saved' AND epoch > ?",
            [(run_id, payload["epoch"])],
        ),
        (
            "DELETE FROM run_metrics WHERE run_id = ? AND client_id IS NULL "
            "AND epoch NOT IN (SELECT value FROM json_each(?))",
            [(run_id, epochs)],
        ),
        *_together(_append(run_id, at, name, fields) for name, fields in history),
        *_together([metrics_row(run_id, fields)] for fields in figures),
        _set(run_id, "best_epoch = ?", best),
    ]


def _together(each: Iterable[list[Statement]]) -> list[Statement]:
    """Rows of the same statement under one; the statements keep their order."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for statements in each:
        for statement, values in statements:
            rows.setdefault(statement, []).extend(values)
    return list(rows.items())


def _set(run_id: int, sets: str, *values: Any) -> Statement:
    return f"UPDATE run SET {sets} WHERE run_id = ?", [(*map(storable, values), run_id)]
