"""The parts that the descriptions of all routes are made of."""

from __future__ import annotations

from server.components import TEXT, Schema, ref
from server.parsing import NAME_LENGTH

RUN_ID: Schema = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}


def operation(
    summary: str,
    answers: dict[int, Schema],
    parameters: list[Schema] | None = None,
    of_run: bool = False,
) -> Schema:
    parameters = list(parameters or [])
    if of_run:
        parameters.append({"name": "run_id", "in": "path", "required": True, "schema": RUN_ID})
        answers = answers | {404: answers.get(404) or error("no such run")}
    always = {400: error("malformed"), 401: error("no token"), 403: error("from elsewhere")}
    always |= {429: error("too many wrong tokens")}
    always |= {503: error("the database is locked: Retry-After"), 507: error("a full disk")}
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {str(status): answer for status, answer in sorted((always | answers).items())},
    }


def query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def json_of(schema: Schema) -> Schema:
    return {"description": "done", "content": {"application/json": {"schema": schema}}}


def text_of(kind: str) -> Schema:
    return {"description": "done", "content": {kind: {"schema": TEXT}}}


def error(description: str) -> Schema:
    return {
        "description": description,
        "content": {"application/json": {"schema": ref("Error")}},
    }


def predict_operation() -> Schema:
    """POST /runs/{run_id}/predict."""
    answers = {
        200: json_of(ref("Prediction")),
        408: error("the image did not arrive in time"),
        409: error("the run has no model yet, or it cannot be used"),
        413: error("the image is too large"),
        422: error("no image that can be read, or no such operating point"),
    }
    body = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
    return operation(
        "The score of one image by the run's model; 503 where the process that holds models died",
        answers,
        [
            query("operating_point", {"type": "string", "maxLength": NAME_LENGTH}, "the model's"),
            query("heatmap", {"enum": ["true", "false"]}, "add the image and its heat map"),
            query("name", {"type": "string", "maxLength": NAME_LENGTH}, "the file's name"),
        ],
        of_run=True,
    ) | {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": body, "multipart/form-data": {"schema": form}},
        }
    }
