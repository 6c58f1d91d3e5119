"""Errors in one shape: {error, detail, field}."""

from __future__ import annotations

import errno
import logging
import sqlite3
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from config import UserError

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

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RETRY = {"retry-after": "5"}  # seconds
FULL = "the server's disk is full: free some space, then try again"


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


async def on_trouble(request: Request, error: Exception) -> Response:
    """A database that is locked or cannot be used, a full disk; the rest is a fault."""
    refusal = explain(error)
    if refusal is None or request.scope["type"] != "http":
        raise error
    log.error("%s", error)
    return refusal.response()


def explain(error: Exception) -> ApiError | None:
    """What whoever runs the server can change; None for a fault of ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension of the code
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        detail = "another process is writing to the database; try again"
        return ApiError(503, detail, headers=RETRY)
    no_space = isinstance(error, OSError) and error.errno in NO_SPACE
    if no_space or code == sqlite3.SQLITE_FULL:
        return ApiError(507, FULL)
    if isinstance(error, UserError):
        cause = error.__cause__  # the store's words for what SQLite said
        known = explain(cause) if isinstance(cause, Exception) else None
        return known or ApiError(503, str(error), headers=RETRY)
    return None


async def on_fault(_request: Request, _error: Exception) -> Response:
    """A fault of ours: Starlette raises it again for the log; the client gets no detail."""
    return ApiError(500, "the server has failed at this; its log says why").response()
