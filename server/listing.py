"""What a list of runs is asked for: filters, order, columns of settings."""

from __future__ import annotations

import re

from starlette.requests import HTTPConnection

from config.schema import RULES
from engine.records.database import STATUSES
from engine.records.log import METRIC_COLUMNS
from engine.records.queries import RUN_SORTS, Choice
from server.errors import ApiError
from server.parsing import MAX_ID, number_of

COMPARED = 200  # runs at most
SETTINGS = 20  # conditions, and columns of settings, at most
CONDITION = re.compile(r"([a-z_]+\.[a-z0-9_]+)(>=|<=|=)(.*)")


def choice_of(connection: HTTPConnection, limit: int) -> Choice:
    """Filters and order of a list of runs. Raises ApiError 422."""
    query = connection.query_params
    sort, order = query.get("sort", "run_id"), query.get("order", "desc")
    if sort not in (*RUN_SORTS, *METRIC_COLUMNS, *RULES):
        detail = f"sort is one of {', '.join(RUN_SORTS)}, a figure or a configuration key"
        raise ApiError(422, detail, field="sort")
    if order not in ("asc", "desc"):
        raise ApiError(422, "order is asc or desc", field="order")
    return Choice(
        statuses=statuses_of(connection),
        name=query.get("name", ""),
        tag=query.get("tag", ""),
        dataset=query.get("dataset", ""),
        settings=_conditions(query.getlist("where")),
        sort=sort,
        descending=order == "desc",
        before=number_of(connection, "before", None, 1, MAX_ID),
        limit=limit,
        offset=number_of(connection, "offset", 0, 0, MAX_ID) or 0,
    )


def settings_of(connection: HTTPConnection) -> list[str]:
    """`?settings=experiment.epochs,model.backbone`: keys to list. Raises ApiError 422."""
    keys = [key for key in connection.query_params.get("settings", "").split(",") if key]
    if len(keys) > SETTINGS or not set(keys) <= set(RULES):
        detail = f"settings are at most {SETTINGS} configuration keys, with commas between"
        raise ApiError(422, detail, field="settings")
    return list(dict.fromkeys(keys))


def run_ids_of(connection: HTTPConnection) -> list[int]:
    """`?run_ids=1,2,3`. Raises ApiError 422."""
    texts = connection.query_params.get("run_ids", "").split(",")
    if len(texts) > COMPARED or not all(re.fullmatch("[0-9]{1,18}", text) for text in texts):
        detail = f"run_ids are up to {COMPARED} whole numbers with commas between"
        raise ApiError(422, detail, field="run_ids")
    return list(dict.fromkeys(map(int, texts)))


def _conditions(texts: list[str]) -> list[tuple[str, str, str]]:
    conditions = []
    for text in texts[: SETTINGS + 1]:
        found = CONDITION.fullmatch(text)
        if found is None or found[1] not in RULES or len(texts) > SETTINGS:
            detail = "where is KEY=VALUE, KEY>=NUMBER or KEY<=NUMBER with a configuration key"
            raise ApiError(422, f"{detail}, at most {SETTINGS} of them", field="where")
        conditions.append((found[1], found[2], found[3]))
    return conditions


def statuses_of(connection: HTTPConnection) -> list[str]:
    """`?status=failed,stopped`. Raises ApiError 422."""
    text = connection.query_params.get("status", "")
    chosen = [word for word in text.split(",") if word]
    for word in chosen:
        if word not in STATUSES:
            raise ApiError(422, f"status is one of {', '.join(STATUSES)}", field="status")
    return chosen
