"""The parts that the descriptions of all routes are made of."""

from __future__ import annotations

from server.components import TEXT, Schema, ref

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
