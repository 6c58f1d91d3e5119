"""The descriptions of the lists of runs."""

from __future__ import annotations

from config.schema import RULES
from engine.records.database import STATUSES
from engine.records.log import METRIC_COLUMNS
from engine.records.queries import RUN_SORTS
from server.components import OBJECT, TEXT, WHOLE, Schema, object_of, or_null, ref
from server.operations import error, json_of, operation, query
from server.parsing import MAX_ID


def list_runs() -> Schema:
    answer = object_of(
        runs={"type": "array", "items": ref("Run")},
        next_before=or_null(WHOLE),
        total=WHOLE,
        counts=OBJECT,
        last_event_id=WHOLE,
    )
    return operation(
        "Runs, the newest first or as sorted",
        {200: json_of(answer), 422: error("a wrong parameter")},
        [
            *_filters(),
            query("sort", {"enum": [*RUN_SORTS, *METRIC_COLUMNS, *RULES]}, "what to sort by"),
            query("order", {"enum": ["asc", "desc"]}, "desc where it is not given"),
            query("settings", TEXT, "configuration keys to list with each run, with commas"),
            query("offset", {"type": "integer", "minimum": 0, "maximum": MAX_ID}, "runs to skip"),
            query(
                "before",
                {"type": "integer", "minimum": 1, "maximum": MAX_ID},
                "next_before of the page before, where the order is the usual one",
            ),
        ],
    )


def list_groups() -> Schema:
    answer = object_of(groups={"type": "array", "items": OBJECT})
    return operation(
        "Completed runs that differ in their seeds alone: mean and spread of their figures",
        {200: json_of(answer), 422: error("a wrong parameter")},
        _filters(),
    )


def compare() -> Schema:
    answer = object_of(runs={"type": "array", "items": OBJECT}, last_event_id=WHOLE)
    pattern = "^[0-9]{1,18}(,[0-9]{1,18})*$"
    ids = {
        "name": "run_ids",
        "in": "query",
        "required": True,
        "schema": TEXT | {"pattern": pattern},
    }
    return operation(
        "Several runs with their configurations and a row for each epoch",
        {200: json_of(answer), 422: error("run_ids are not numbers, or too many")},
        [ids],
    )


def _filters() -> list[Schema]:
    status = "|".join(STATUSES)
    return [
        query(
            "status",
            {"type": "string", "pattern": f"^(({status})(,({status}))*)?$"},
            "one or several, with commas",
        ),
        query("name", TEXT, "part of the run's name"),
        query("tag", TEXT, "a tag"),
        query("dataset", TEXT, "part of the data set's path"),
        query("where", TEXT, "KEY=VALUE, KEY>=NUMBER or KEY<=NUMBER; may be given again"),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 500}, "at most so many"),
    ]
