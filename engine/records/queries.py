"""The longer queries of the store: which runs a list shows, in what order, with what figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.records.log import METRIC_COLUMNS

FIGURES = ("val_recall", "val_specificity", "val_f1", "val_auroc", "val_loss")
RUN_SORTS = (
    *("run_id", "run_name", "status", "started_at", "training_time", "total_epochs_run"),
    *("best_epoch", "dataset_path"),
)
OPERATORS = ("=", ">=", "<=")
SEED_KEYS = ("system.seed", "data.fold", "data.split_seed")  # do not tell two groups apart

Query = tuple[str, tuple[Any, ...]]

# Of the best epoch, or of the last one where there is no best one yet.
_SHOWN_EPOCH = (
    "LEFT JOIN run_metrics AS m ON m.run_id = run.run_id AND m.epoch = COALESCE(run.best_epoch, "
    "(SELECT max(epoch) FROM run_metrics AS of_run WHERE of_run.run_id = run.run_id))"
)
_COLUMNS = (
    "run.run_id, run_name, run_description, training_mode, status, created_at, started_at, "
    "completed_at, total_epochs_run, training_time, early_stopped, best_epoch, dataset_path, "
    "error, heartbeat_at, tags, " + ", ".join(f"m.{name}" for name in METRIC_COLUMNS)
)


@dataclass(frozen=True)
class Choice:
    """Which runs, in what order. `settings` are (key, operator, value) of the configuration."""

    statuses: Sequence[str] = ()
    name: str = ""  # part of the run's name
    tag: str = ""
    dataset: str = ""  # part of the data set's path
    settings: Sequence[tuple[str, str, str]] = ()
    sort: str = "run_id"  # one of RUN_SORTS or METRIC_COLUMNS, or a key of the configuration
    descending: bool = True
    before: int | None = None  # only runs with a lower id
    limit: int = 50
    offset: int = 0


def setting(key: str) -> str:
    """The value of a key in a run's configuration; NULL where a damaged one is stored."""
    return f"CASE WHEN json_valid(run.config) THEN json_extract(run.config, '$.{key}') END"


def chosen_ids(choice: Choice) -> Query:
    """The ids of a page of runs. `choice.sort` and the keys must be known names."""
    where, values = _where(choice)
    order = "DESC" if choice.descending else "ASC"
    if choice.sort == "run_id":
        by = f"run.run_id {order}"
    else:
        by = f"{_sort_value(choice.sort)} {order} NULLS LAST, run.run_id DESC"
    joined = _SHOWN_EPOCH if choice.sort in METRIC_COLUMNS else ""
    text = f"SELECT run.run_id FROM run {joined} {where} ORDER BY {by} LIMIT ? OFFSET ?"
    return text, (*values, choice.limit, choice.offset)


def count_chosen(choice: Choice) -> Query:
    """How many runs there are of a choice, in all its pages."""
    where, values = _where(dataclasses.replace(choice, before=None))
    return f"SELECT count(*) AS n FROM run {where}", values


def runs_with_figures(run_ids: Sequence[int], keys: Sequence[str] = ()) -> Query:
    """Rows of runs, in no order: figures of the shown epoch, epochs, and `keys` of their settings.

    Those are in columns named as the keys.
    """
    more = "".join(f', {setting(key)} AS "{key}"' for key in keys)
    epochs = setting("experiment.epochs")
    marks = ", ".join("?" * len(run_ids))
    return (
        f"SELECT {_COLUMNS}, {epochs} AS epochs{more} FROM run {_SHOWN_EPOCH} "
        f"WHERE run.run_id IN ({marks})",
        tuple(run_ids),
    )


def groups(choice: Choice) -> Query:
    """Completed runs that differ in their seeds alone: mean and spread of their figures.

    The spread is the standard deviation of a sample (n - 1). Groups of one run are not listed.
    """
    where, values = _where(dataclasses.replace(choice, statuses=("completed",)))
    paths = ", ".join(f"'$.{key}'" for key in ("output", *SEED_KEYS))
    of_config = f"CASE WHEN json_valid(config) THEN json_remove(config, {paths}) END"
    spreads = ", ".join(
        f"avg({name}) AS {name}, sqrt(max(0, (sum({name} * {name}) - sum({name}) * avg({name})) "
        f"/ (count({name}) - 1))) AS {name}_sd"
        for name in FIGURES
    )
    return (
        f"SELECT count(*) AS runs, group_concat(run.run_id) AS run_ids, "
        f"max(run_name) AS run_name, {spreads} FROM run {_SHOWN_EPOCH} {where} "
        f"GROUP BY {of_config}, COALESCE(dataset_fingerprint, dataset_path) "
        "HAVING count(*) > 1 ORDER BY avg(val_auroc) DESC LIMIT ?",
        (*values, choice.limit),
    )


def _where(choice: Choice) -> Query:
    parts: list[str] = []
    values: list[Any] = []

    def require(text: str, *more: Any) -> None:
        parts.append(text)
        values.extend(more)

    if choice.statuses:
        require(f"status IN ({', '.join('?' * len(choice.statuses))})", *choice.statuses)
    if choice.before is not None:
        require("run.run_id < ?", choice.before)
    if choice.name:
        require("instr(lower(run_name), lower(?))", choice.name)
    if choice.dataset:
        require("instr(lower(dataset_path), lower(?))", choice.dataset)
    if choice.tag:
        tags = "CASE WHEN json_valid(tags) THEN tags ELSE '[]' END"
        require(f"EXISTS (SELECT 1 FROM json_each({tags}) WHERE value = ?)", choice.tag)
    for key, operator, value in choice.settings:
        assert operator in OPERATORS
        if operator == "=":
            as_stored = {"true": "1", "false": "0"}.get(value, value)
            number = _number(value)
            equal = f"CAST({setting(key)} AS TEXT) IN (?, ?)"
            if number is None:
                require(equal, value, as_stored)
            else:
                require(f"({equal} OR {setting(key)} = ?)", value, as_stored, number)
        else:
            require(f"{setting(key)} {operator} ?", _number(value))
    return (f"WHERE {' AND '.join(parts)}" if parts else "", tuple(values))


def _sort_value(name: str) -> str:
    if name in RUN_SORTS:
        return f"run.{name}" + (" COLLATE NOCASE" if name == "run_name" else "")
    return f"m.{name}" if name in METRIC_COLUMNS else setting(name)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
