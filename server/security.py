"""Who may talk to the server: Host, Origin, token; and the headers that every answer has."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.errors import ApiError
from server.settings import Settings, is_loopback

COOKIE = "pneumoscope_session"
OPEN_PATHS = ("/login",)  # what a person without the token may see
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


class Failures:
    """Wrong tokens by address: after `allowed` of them in `window` seconds the rest must wait."""

    def __init__(self, allowed: int = 10, window: float = 60.0, addresses: int = 10_000) -> None:
        self._allowed, self._window, self._addresses = allowed, window, addresses
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, since

    def wait(self, address: str) -> int:
        """Seconds until the address may try again; 0 where it may now."""
        count, since = self._seen.get(address, (0, 0.0))
        left = since + self._window - time.monotonic()
        return int(left) + 1 if count >= self._allowed and left > 0 else 0

    def add(self, address: str) -> None:
        """One more wrong token."""
        now = time.monotonic()
        count, since = self._seen.pop(address, (0, now))
        if now - since > self._window:
            count, since = 0, now
        self._seen[address] = (count + 1, since)
        while len(self._seen) > self._addresses:
            self._seen.popitem(last=False)


class Gate:
    """The token, and the cookie that stands for it in a browser."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.token
        self._failures = Failures()

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raises ApiError 401 or 429 where a token is needed and not given."""
        if self._token is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if given:
            self.require(scope, given.strip() if scheme.lower() == "bearer" else "")
        elif not self._has_session(headers):
            raise ApiError(
                401,
                "this server needs its token: Authorization: Bearer TOKEN",
                headers={"www-authenticate": "Bearer"},
            )

    def require(self, scope: Scope, given: str) -> None:
        """Compare in constant time. Raises ApiError 401, or 429 after too many failures."""
        assert self._token is not None
        address = scope["client"][0] if scope.get("client") else ""
        if seconds := self._failures.wait(address):
            raise ApiError(
                429, "too many wrong tokens; wait", headers={"retry-after": str(seconds)}
            )
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            self._failures.add(address)
            raise ApiError(401, "wrong token", headers={"www-authenticate": "Bearer"})

    @property
    def needed(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def session(self) -> str:
        """The cookie's value: proves the token without holding it, and survives a restart."""
        assert self._token is not None
        return hmac.new(self._token.encode(), COOKIE.encode(), hashlib.sha256).hexdigest()

    def _has_session(self, headers: Headers) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and secrets.compare_digest(
            cookie.value.encode(), self.session().encode()
        )


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
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            _check_origin(headers)
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
        if error.status == 401 and wants_page:  # a person: show where to log in
            response = Response(status_code=303, headers={"location": "/login"})
        await response(scope, receive, send)


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


def _host_name(host: str) -> str:
    """The Host header without its port and brackets; empty where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.netloc == host and "@" not in host else ""
