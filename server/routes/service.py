"""The server itself: health, Prometheus figures, description, login and page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)

from server.errors import ApiError
from server.exposition import exposition
from server.gate import COOKIE, SESSION_SECONDS, session_cookie
from server.openapi import describe

STATIC = Path(__file__).parents[1] / "static"
LOGIN_BYTES = 4096
# An empty action keeps the fragment, and with it the view that somebody wanted to see.
LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport"
content="width=device-width"><meta name="color-scheme" content="light dark">
<title>Pneumoscope: log in</title><link rel="stylesheet" href="/static/style.css">
<main class="login"><h1>Pneumoscope</h1><form class="card" method="post" action="">
<div class="field"><label for="token">Token</label>
<input id="token" type="password" name="token" autofocus required
autocomplete="current-password"></div><button class="primary">Log in</button>
<p role="alert">{message}</p></form>{logout}</main></html>"""
LOGOUT = """<form method="post" action="/logout"><button>Log out</button></form>"""


async def page(_request: Request) -> Response:
    """GET /: the page."""
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def health(request: Request) -> Response:
    """GET /healthz: that the server answers, and whether each background task works.

    Always 200, so that nothing restarts a server whose database is busy. What is failing is for
    those who have the token; others learn the status alone.
    """
    tasks = _faults(request)
    status = "degraded" if any(tasks.values()) else "ok"
    detail = {"tasks": tasks} if request.state.gate.is_known(request.headers) else {}
    return JSONResponse({"status": status, **detail})


async def ready(request: Request) -> Response:
    """GET /readyz: 200 where the database answers and the tasks work, else 503."""
    await request.state.store.last_event_id()
    tasks = _faults(request)
    status = "not ready" if any(tasks.values()) else "ready"
    detail = {"tasks": tasks} if request.state.gate.is_known(request.headers) else {}
    return JSONResponse({"status": status, **detail}, 503 if status == "not ready" else 200)


def _faults(request: Request) -> dict[str, list[str]]:
    return {one.task: one.present() for one in request.state.faults}


async def session(request: Request) -> Response:
    """GET /session: what this client may do, for the page."""
    gate = request.state.gate
    access = gate.access(request.scope, request.headers)
    return JSONResponse({"access": access, "logged_in": gate.needed})


async def openapi(request: Request) -> Response:
    """GET /openapi.json."""
    return JSONResponse(describe(request.state.settings.config))


async def metrics(request: Request) -> Response:
    """GET /metrics: Prometheus' text form."""
    text = await exposition(request.state)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def show_login(request: Request) -> Response:
    """GET /login: a field for the token; who is logged in can log out here."""
    gate = request.state.gate
    if not gate.needed:
        return RedirectResponse("/", status_code=303)
    known = (session_cookie(request.headers) or "") in gate.sessions
    return HTMLResponse(LOGIN.format(message="", logout=LOGOUT if known else ""))


async def login(request: Request) -> Response:
    """POST /login: a session, kept in a cookie, for the right token."""
    gate = request.state.gate
    if not gate.needed:
        return RedirectResponse("/", status_code=303)
    token = await _token_of(request)
    try:
        access = gate.require(request.scope, token)
    except ApiError as error:
        page = LOGIN.format(message=error.detail, logout="")
        return HTMLResponse(page, status_code=error.status, headers=error.headers)
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        COOKIE,
        gate.sessions.begin(access),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


async def logout(request: Request) -> Response:
    """POST /logout: end the session whose cookie came along."""
    if (value := session_cookie(request.headers)) is not None:
        request.state.gate.sessions.end(value)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


async def _token_of(request: Request) -> str:
    """The form's one field; Starlette's own parser would need one more package."""
    body = bytearray()
    try:
        async with asyncio.timeout(request.state.settings.body_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LOGIN_BYTES:
                    raise ApiError(413, "this is no token")
    except TimeoutError:
        raise ApiError(408, "the form did not arrive in time") from None
    except ClientDisconnect:
        raise ApiError(400, "the client went away") from None
    try:
        fields = parse_qs(body.decode("utf-8", errors="replace"), max_num_fields=8)
    except ValueError:
        raise ApiError(422, "the form has too many fields", field="token") from None
    tokens = fields.get("token", [""])
    if len(tokens) != 1:
        raise ApiError(422, "the form has more than one token", field="token")
    return tokens[0]
