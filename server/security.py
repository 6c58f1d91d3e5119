"""Which requests are handed on: framing, Host, Origin, token; and the headers of every answer."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.errors import ApiError
from server.gate import Gate
from server.settings import Settings, is_loopback

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, forms are sent with Origin: null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware: nothing behind it sees a request that should not have come."""

    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate) -> None:
        self._app, self._gate = app, gate
        self._local_only = is_loopback(settings.host)
        names = {"localhost", settings.host.lower(), *map(str.lower, settings.allowed_hosts)}
        self._names = names if self._local_only else names | {socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then hand on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            _check_framing(scope, headers)
            self._check_host(headers)
            _check_origin(headers)
            _check_fetch_site(scope, headers)
            self._gate.check(scope, headers)
        except ApiError as error:
            await self._refuse(error, scope, headers, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding, where a foreign name leads to this machine."""
        host = _host_name(headers.get("host", ""))
        if host not in self._names and not self._is_own_address(host):
            raise ApiError(403, "this name is not the server's; --allow-host adds one", "Host")

    def _is_own_address(self, host: str) -> bool:
        """A plain address is no name that could be rebound."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or not self._local_only

    async def _refuse(
        self, error: ApiError, scope: Scope, headers: Headers, receive: Receive, send: Send
    ) -> None:
        response: Response = error.response()
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
            return
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if error.status in (401, 429) and wants_page:  # a person: show where to log in
            response = Response(status_code=303, headers={"location": "/login"})
        await response(scope, receive, send)


def _check_framing(scope: Scope, headers: Headers) -> None:
    """Where a body's end can be read in two ways, a proxy may read it in the other."""
    if "transfer-encoding" in headers and (
        "content-length" in headers or scope.get("http_version") == "1.0"
    ):
        raise ApiError(
            400,
            "a body has either Content-Length or, in HTTP/1.1, Transfer-Encoding",
            "Transfer-Encoding",
            headers={"connection": "close"},
        )


def _check_origin(headers: Headers) -> None:
    """A page of another origin is refused, whatever it asks for."""
    origin = headers.get("origin")
    if origin is not None:
        try:
            same = urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:
            same = False
        if not same:
            raise ApiError(403, "a page from elsewhere may not use this server", "Origin")


def _check_fetch_site(scope: Scope, headers: Headers) -> None:
    """Browsers say where a request comes from, also where they send no Origin.

    A link from elsewhere may lead to the page; nothing else may come from elsewhere.
    """
    if headers.get("sec-fetch-site", "none").strip().lower() in ("none", "same-origin"):
        return
    followed = (
        scope.get("method") in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    if not followed:
        raise ApiError(403, "a page from elsewhere may not use this server", "Sec-Fetch-Site")


def _host_name(host: str) -> str:
    """The Host header without its port and brackets; empty where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.netloc == host and "@" not in host else ""
