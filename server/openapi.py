"""The description of the routes, as OpenAPI has it."""

from __future__ import annotations

from config import Config
from server.artifacts import ARTIFACTS
from server.components import (
    NUMBER,
    OBJECT,
    TEXT,
    WHOLE,
    Schema,
    components,
    object_of,
    or_null,
    ref,
)
from server.parsing import (
    DESCRIPTION_LENGTH,
    MAX_ID,
    NAME_LENGTH,
    PATH_LENGTH,
    STATUSES,
)
from server.routes.datasets import NAME

RUN_ID: Schema = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}


def describe(config: Config) -> Schema:
    """The whole document; the defaults of a run are those of the server's configuration."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pneumoscope",
            "version": "1",
            "description": "Watch and steer training runs. Besides, GET / is the page, GET and "
            "POST /login exchange the token for a session of 12 hours, POST /logout ends it, and "
            "the WebSockets /ws and /ws/runs/{run_id} send each event as JSON; ?after=EVENT_ID "
            "sends first what was missed. A socket that is too slow is closed with 4008, one that "
            "sends with 1003.",
        },
        "paths": {
            "/experiments/centralized": {"post": _start()},
            "/runs": {"get": _list_runs()},
            "/runs/{run_id}": {
                "get": _operation("One run, whole", {200: _json(ref("RunDetail"))}, of_run=True),
                "delete": _operation(
                    "Delete a run that has ended, with its files",
                    {204: {"description": "deleted"}, 409: _error("it has not ended")},
                    of_run=True,
                ),
            },
            "/runs/{run_id}/cancel": {"post": _change("Stop a run, gracefully, then by force")},
            "/runs/{run_id}/resume": {"post": _change("Continue from the last checkpoint")},
            "/runs/{run_id}/metrics": {"get": _metrics()},
            "/runs/{run_id}/events": {"get": _events()},
            "/runs/{run_id}/artifacts/{name}": {"get": _artifact()},
            "/datasets": {"get": _list_datasets()},
            "/datasets/{name}": {
                "get": _show_dataset(),
                "put": _put_dataset(),
                "delete": _delete_dataset(),
            },
            "/healthz": {"get": _operation("Health", {200: _json(ref("Health"))})},
            "/metrics": {"get": _operation("Figures for Prometheus", {200: _text("text/plain")})},
            "/openapi.json": {"get": _operation("This", {200: _json(OBJECT)})},
        },
        "components": {
            "schemas": components(config),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _start() -> Schema:
    body = {
        "type": "object",
        "additionalProperties": False,
        "required": ["run_name"],
        "properties": {
            "run_name": {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH},
            "run_description": {"type": "string", "maxLength": DESCRIPTION_LENGTH},
            "dataset_path": {
                "type": "string",
                "maxLength": PATH_LENGTH,
                "description": "a ZIP or a folder below one that was given by --data",
            },
            "dataset_id": {"type": "integer", "description": "an uploaded data set, instead"},
            "config_overrides": ref("ConfigOverrides"),
        },
        "oneOf": [{"required": ["dataset_path"]}, {"required": ["dataset_id"]}],
    }
    answer = object_of(
        run_id=WHOLE,
        training_mode=TEXT,
        status={"enum": ["in_progress", "queued"]},
        message=TEXT,
        estimated_duration=or_null(NUMBER),
    )
    return _operation(
        "Start a run",
        {
            202: _json(answer),
            403: _error("dataset_path lies elsewhere, or a key belongs to the server"),
            404: _error("no such data set"),
            409: _error("the data set has been replaced or deleted meanwhile"),
            408: _error("the body did not arrive in time"),
            413: _error("the body is too large"),
            422: _error("a key or a value is wrong; field says which"),
        },
    ) | {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}


def _list_runs() -> Schema:
    answer = object_of(
        runs={"type": "array", "items": ref("Run")},
        next_before=or_null(WHOLE),
        counts=OBJECT,
        last_event_id=WHOLE,
    )
    status = "|".join(STATUSES)
    return _operation(
        "Runs, the newest first",
        {200: _json(answer), 422: _error("a wrong parameter")},
        [
            _query(
                "status",
                {"type": "string", "pattern": f"^(({status})(,({status}))*)?$"},
                "one or several, with commas",
            ),
            _query("name", TEXT, "part of the run's name"),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 500}, "runs in a page"),
            _query(
                "before",
                {"type": "integer", "minimum": 1, "maximum": MAX_ID},
                "next_before of the page before",
            ),
        ],
    )


def _metrics() -> Schema:
    rows = object_of(metrics={"type": "array", "items": ref("Metrics")})
    return _operation("A row for each epoch", {200: _json(rows)}, of_run=True)


def _events() -> Schema:
    answer = object_of(events={"type": "array", "items": ref("Event")})
    return _operation(
        "The log of one run",
        {200: _json(answer), 422: _error("a wrong parameter")},
        [
            _query(
                "after",
                {"type": "integer", "minimum": 0, "maximum": MAX_ID},
                "the last event_id seen",
            ),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "events at most"),
        ],
        of_run=True,
    )


def _artifact() -> Schema:
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": list(ARTIFACTS)}}
    return _operation(
        "One file that a run left, as it is now; one range is understood",
        {
            200: {"description": "the file", "content": {"*/*": {}}},
            206: {"description": "a part of it", "content": {"*/*": {}}},
            416: _error("Range is beyond the file"),
        },
        [name],
        of_run=True,
    )


def _list_datasets() -> Schema:
    answer = object_of(datasets={"type": "array", "items": ref("Dataset")})
    return _operation("Uploaded data sets", {200: _json(answer)})


def _show_dataset() -> Schema:
    answers = {200: _json(ref("Dataset")), 404: _error("no such data set")}
    return _operation("One data set", answers | {422: _error("no such name")}, [_dataset_name()])


def _put_dataset() -> Schema:
    answers = {
        200: _json(ref("Dataset")),
        201: _json(ref("Dataset")),
        408: _error("the upload stood still"),
        413: _error("too large"),
        422: _error("no good data set; problems lists everything that is wrong"),
        507: _error("the disk is full"),
    }
    body = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return _operation("Upload a ZIP", answers, [_dataset_name()]) | {
        "requestBody": {"required": True, "content": body}
    }


def _delete_dataset() -> Schema:
    answers = {
        204: {"description": "deleted"},
        404: _error("no such data set"),
        409: _error("a queued or running run uses it; run_id names it"),
        422: _error("no such name"),
    }
    return _operation("Delete a data set and its upload", answers, [_dataset_name()])


def _dataset_name() -> Schema:
    schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {"name": "name", "in": "path", "required": True, "schema": schema}


def _change(summary: str) -> Schema:
    answer = object_of(run_id=WHOLE, status=TEXT, message=TEXT)
    answers = {202: _json(answer), 409: _error("not in this state; status names it")}
    return _operation(summary, answers, of_run=True)


def _operation(
    summary: str,
    answers: dict[int, Schema],
    parameters: list[Schema] | None = None,
    of_run: bool = False,
) -> Schema:
    parameters = list(parameters or [])
    if of_run:
        parameters.append({"name": "run_id", "in": "path", "required": True, "schema": RUN_ID})
        answers = answers | {404: answers.get(404) or _error("no such run")}
    always = {400: _error("malformed"), 401: _error("no token"), 403: _error("from elsewhere")}
    always |= {429: _error("too many wrong tokens")}
    always |= {503: _error("the database is locked: Retry-After"), 507: _error("a full disk")}
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {str(status): answer for status, answer in sorted((always | answers).items())},
    }


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _json(schema: Schema) -> Schema:
    return {"description": "done", "content": {"application/json": {"schema": schema}}}


def _text(kind: str) -> Schema:
    return {"description": "done", "content": {kind: {"schema": TEXT}}}


def _error(description: str) -> Schema:
    return {
        "description": description,
        "content": {"application/json": {"schema": ref("Error")}},
    }
