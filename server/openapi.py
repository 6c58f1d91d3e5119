"""The description of the routes, as OpenAPI has it."""

from __future__ import annotations

from config import Config
from server import openapi_lists as lists
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
from server.operations import error, json_of, operation, predict_operation, query, text_of
from server.parsing import (
    DESCRIPTION_LENGTH,
    MAX_ID,
    NAME_LENGTH,
    PATH_LENGTH,
    TAG_LENGTH,
    TAGS,
)
from server.routes.datasets import NAME

TAG_LIST: Schema = {
    "type": "array",
    "maxItems": TAGS,
    "items": {"type": "string", "minLength": 1, "maxLength": TAG_LENGTH},
}


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
            "/runs": {"get": lists.list_runs()},
            "/groups": {"get": lists.list_groups()},
            "/compare": {"get": lists.compare()},
            "/estimate": {"post": _estimate()},
            "/runs/{run_id}": {
                "get": operation("One run, whole", {200: json_of(ref("RunDetail"))}, of_run=True),
                "patch": _change_run(),
                "delete": operation(
                    "Delete a run that has ended, with its files",
                    {204: {"description": "deleted"}, 409: error("it has not ended")},
                    of_run=True,
                ),
            },
            "/runs/{run_id}/cancel": {"post": _change("Stop a run, gracefully, then by force")},
            "/runs/{run_id}/resume": {"post": _change("Continue from the last checkpoint")},
            "/runs/{run_id}/predict": {"post": predict_operation()},
            "/runs/{run_id}/metrics": {"get": _metrics()},
            "/runs/{run_id}/metrics.csv": {
                "get": operation(
                    "A row for each epoch, as CSV", {200: text_of("text/csv")}, of_run=True
                )
            },
            "/runs/{run_id}/events": {"get": _events()},
            "/runs/{run_id}/artifacts/{name}": {"get": _artifact()},
            "/datasets": {"get": _list_datasets()},
            "/datasets/{name}": {
                "get": _show_dataset(),
                "put": _put_dataset(),
                "delete": _delete_dataset(),
            },
            "/datasets/{name}/report": {"get": _dataset_report()},
            "/session": {"get": operation("What this client may do", {200: json_of(_session())})},
            "/healthz": {"get": operation("Health", {200: json_of(ref("Health"))})},
            "/readyz": {"get": operation("Readiness", {200: json_of(ref("Ready"))})},
            "/metrics": {"get": operation("Figures for Prometheus", {200: text_of("text/plain")})},
            "/openapi.json": {"get": operation("This", {200: json_of(OBJECT)})},
        },
        "components": {
            "schemas": components(config),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _session() -> Schema:
    return object_of(access={"enum": ["full", "read"]}, logged_in={"type": "boolean"})


def _start() -> Schema:
    body = {
        "type": "object",
        "additionalProperties": False,
        "required": ["run_name"],
        "properties": {
            "run_name": {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH},
            "run_description": {"type": "string", "maxLength": DESCRIPTION_LENGTH},
            "tags": TAG_LIST,
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
    return operation(
        "Start a run",
        {
            202: json_of(answer),
            403: error("dataset_path lies elsewhere, or a key belongs to the server"),
            404: error("no such data set"),
            409: error("the data set has been replaced or deleted meanwhile"),
            408: error("the body did not arrive in time"),
            413: error("the body is too large"),
            422: error("a key or a value is wrong; field says which"),
        },
    ) | {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}


def _estimate() -> Schema:
    answers = _start()
    done = json_of(object_of(estimated_duration=or_null(NUMBER)))
    responses = {code: one for code, one in answers["responses"].items() if code != "202"}
    return answers | {
        "summary": "How long such a run would take, from earlier ones",
        "responses": {"200": done} | responses,
    }


def _change_run() -> Schema:
    body = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "run_name": {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH},
            "run_description": {"type": "string", "maxLength": DESCRIPTION_LENGTH},
            **dict.fromkeys(("tags", "add_tags", "remove_tags"), TAG_LIST),
        },
    }
    answer = object_of(run_id=WHOLE, run_name=TEXT, run_description=TEXT, tags=TAG_LIST)
    answers = {
        200: json_of(answer),
        408: error("the body did not arrive in time"),
        413: error("the body is too large"),
        422: error("a key or a value is wrong; field says which"),
    }
    content = {"application/json": {"schema": body}}
    return operation("Change name, description or tags", answers, of_run=True) | {
        "requestBody": {"required": True, "content": content}
    }


def _metrics() -> Schema:
    rows = object_of(metrics={"type": "array", "items": ref("Metrics")})
    return operation("A row for each epoch", {200: json_of(rows)}, of_run=True)


def _events() -> Schema:
    answer = object_of(events={"type": "array", "items": ref("Event")})
    return operation(
        "The log of one run",
        {200: json_of(answer), 422: error("a wrong parameter")},
        [
            query(
                "after",
                {"type": "integer", "minimum": 0, "maximum": MAX_ID},
                "the last event_id seen",
            ),
            query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "events at most"),
            query("event", TEXT, "one kind of event only"),
        ],
        of_run=True,
    )


def _artifact() -> Schema:
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": list(ARTIFACTS)}}
    return operation(
        "One file that a run left, as it is now; one range is understood",
        {
            200: {"description": "the file", "content": {"*/*": {}}},
            206: {"description": "a part of it", "content": {"*/*": {}}},
            416: error("Range is beyond the file"),
        },
        [name],
        of_run=True,
    )


def _list_datasets() -> Schema:
    answer = object_of(datasets={"type": "array", "items": ref("Dataset")})
    return operation("Uploaded data sets", {200: json_of(answer)})


def _show_dataset() -> Schema:
    answers = {200: json_of(ref("Dataset")), 404: error("no such data set")}
    return operation("One data set", answers | {422: error("no such name")}, [_dataset_name()])


def _dataset_report() -> Schema:
    answers = {
        200: {"description": "a page that opens offline", "content": {"text/html": {}}},
        206: {"description": "a part of it", "content": {"*/*": {}}},
        404: error("no such data set"),
        409: error("the images cannot be prepared with the server's settings"),
        416: error("Range is beyond the page"),
        422: error("no such name"),
    }
    text = "What the data set holds and what a network will see; made when it is first asked for"
    return operation(text, answers, [_dataset_name()])


def _put_dataset() -> Schema:
    answers = {
        200: json_of(ref("Dataset")),
        201: json_of(ref("Dataset")),
        408: error("the upload stood still"),
        413: error("too large"),
        422: error("no good data set; problems lists everything that is wrong"),
        507: error("the disk is full"),
    }
    body = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return operation("Upload a ZIP", answers, [_dataset_name()]) | {
        "requestBody": {"required": True, "content": body}
    }


def _delete_dataset() -> Schema:
    answers = {
        204: {"description": "deleted"},
        404: error("no such data set"),
        409: error("a queued or running run uses it; run_id names it"),
        422: error("no such name"),
    }
    return operation("Delete a data set and its upload", answers, [_dataset_name()])


def _dataset_name() -> Schema:
    schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {"name": "name", "in": "path", "required": True, "schema": schema}


def _change(summary: str) -> Schema:
    answer = object_of(run_id=WHOLE, status=TEXT, message=TEXT)
    answers = {202: json_of(answer), 409: error("not in this state; status names it")}
    return operation(summary, answers, of_run=True)
