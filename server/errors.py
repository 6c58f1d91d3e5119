"""Errors in one shape: {error, detail, field}."""

from __future__ import annotations

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

log = logging.getLogger("pneumoscope")

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    416: "range_not_satisfiable",
    422: "invalid",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
    507: "no_space",
}


class ApiError(Exception):
    """A refusal with its status; `field` names what in the request is meant."""

    def __init__(
        self,
        status: int,
        detail: str,
        field: str | None = None,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        """`more` joins the three keys of the answer."""
        super().__init__(detail)
        self.status, self.detail, self.field = status, detail, field
        self.headers, self.more = headers, more or {}

    def response(self) -> JSONResponse:
        """As it goes to the client."""
        body = {
            "error": CODES.get(self.status, "error"),
            "detail": self.detail,
            "field": self.field,
        }
        return JSONResponse(body | self.more, self.status, self.headers)


async def on_api_error(_request: Request, error: Exception) -> Response:
    """A refusal of ours."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(_request: Request, error: Exception) -> Response:
    """A refusal of Starlette's: an unknown route, a wrong method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    return ApiError(error.status_code, error.detail, headers=headers).response()


async def on_fault(_request: Request, _error: Exception) -> Response:
    """A fault of ours; Starlette raises it again for the log, and the client learns nothing."""
    return ApiError(500, "the server has failed at this; its log says why").response()
