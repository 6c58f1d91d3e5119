"""The tokens, and the sessions of those who have logged in with one."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import Scope

from server.errors import ApiError
from server.settings import Settings

COOKIE = "pneumoscope_session"
SESSION_SECONDS = 12 * 3600  # from the login, used or not
SESSIONS = 1000  # at once; the oldest ends where there is one more
OPEN_PATHS = ("/login", "/logout", "/static/style.css")  # answered without the token
BRIEF_PATHS = ("/healthz", "/readyz")  # answered without the token, but without detail
FULL, READ = "full", "read"  # what a token allows
READING = ("GET", "HEAD")

log = logging.getLogger("pneumoscope")


class Failures:
    """Wrong tokens and cookies: `allowed` an address and `total` in all in `window` seconds.

    Above that a wrong one is answered 429 and not counted or logged; a right one always passes.
    """

    def __init__(
        self, allowed: int = 10, total: int = 100, window: float = 60.0, addresses: int = 10_000
    ) -> None:
        """`addresses`: how many are kept."""
        self._allowed, self._total = allowed, total
        self._window, self._addresses = window, addresses
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, since
        self._all = (0, 0.0)

    def wait(self, address: str) -> int:
        """Seconds until a wrong one of this address is looked at again; 0 where it is now."""
        return max(
            self._left(self._seen.get(address, (0, 0.0)), self._allowed),
            self._left(self._all, self._total),
        )

    def add(self, address: str) -> None:
        """One more wrong one."""
        self._all = self._counted(self._all)
        self._seen[address] = self._counted(self._seen.pop(address, (0, 0.0)))
        while len(self._seen) > self._addresses:
            self._seen.popitem(last=False)

    def _counted(self, entry: tuple[int, float]) -> tuple[int, float]:
        count, since = entry
        now = time.monotonic()
        return (count + 1, since) if count and now - since <= self._window else (1, now)

    def _left(self, entry: tuple[int, float], allowed: int) -> int:
        count, since = entry
        left = since + self._window - time.monotonic()
        return int(left) + 1 if count >= allowed and left > 0 else 0


@dataclass
class Session:
    """One login."""

    access: str  # FULL or READ
    end: float  # monotonic time
    sockets: set[Callable[[], object]] = field(default_factory=set)  # called when it ends


class Sessions:
    """Who has logged in. Kept in memory: a restart of the server ends every session."""

    def __init__(self, seconds: float = SESSION_SECONDS, limit: int = SESSIONS) -> None:
        self._seconds, self._limit = seconds, limit
        self._all: OrderedDict[bytes, Session] = OrderedDict()  # by the hash of the cookie's value

    def begin(self, access: str = FULL) -> str:
        """A new session: the cookie's value."""
        value = secrets.token_urlsafe(32)
        self._all[_hash(value)] = Session(access, time.monotonic() + self._seconds)
        while len(self._all) > self._limit:
            self._close(self._all.popitem(last=False)[1])
        return value

    def end(self, value: str) -> None:
        """From now on the value opens nothing; what is open is closed."""
        session = self._all.pop(_hash(value), None)
        if session is not None:
            self._close(session)

    def access(self, value: str) -> str | None:
        """What the session allows; None where there is none, or no longer."""
        session = self._all.get(_hash(value))
        return session.access if session is not None and time.monotonic() < session.end else None

    @contextlib.contextmanager
    def holding(self, value: str, close: Callable[[], object]) -> Iterator[None]:
        """Within, the end of the session calls `close`."""
        session = self._all.get(_hash(value))
        sockets = session.sockets if session is not None else set()
        sockets.add(close)
        try:
            yield
        finally:
            sockets.discard(close)

    def __contains__(self, value: str) -> bool:
        return self.access(value) is not None

    def _close(self, session: Session) -> None:
        for close in list(session.sockets):
            close()


class Gate:
    """Decides who has a token, and what it allows."""

    def __init__(self, settings: Settings) -> None:
        self._token, self._read_token = settings.token, settings.read_token
        self._failures = Failures()
        self.sessions = Sessions()

    @property
    def needed(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raises ApiError 401 or 429 where a token is needed and none of the right ones is given,
        403 where it allows reading only.
        """
        access = self.access(scope, headers)
        if access == READ and _changes(scope):
            raise ApiError(403, "this token allows reading only")

    def access(self, scope: Scope, headers: Headers) -> str | None:
        """What a request may do; None for what is answered to everybody. Raises ApiError."""
        path = scope["path"]
        if self._token is None:
            return FULL
        if path in OPEN_PATHS:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        cookie = session_cookie(headers)
        if "authorization" in headers:
            return self.require(scope, given.strip() if scheme.lower() == "bearer" else "")
        if cookie is not None:
            found = self.sessions.access(cookie)
            if found is None:
                self._refuse(scope, "this session has ended; log in again")
            return found
        if path not in BRIEF_PATHS:
            raise _unauthorized("this server needs its token: Authorization: Bearer TOKEN")
        return None

    def is_known(self, headers: Headers) -> bool:
        """Whether a request that has passed `check` came with the token, or needs none."""
        return not self.needed or "authorization" in headers or session_cookie(headers) is not None

    def require(self, scope: Scope, given: str) -> str:
        """What the token allows; compared in constant time.

        Raises ApiError 401, or 429 after too many failures.
        """
        assert self._token is not None
        full = secrets.compare_digest(given.encode(), self._token.encode())
        read = secrets.compare_digest(given.encode(), (self._read_token or "").encode())
        if full:
            return FULL
        if not (read and self._read_token):
            self._refuse(scope, "wrong token")
        return READ

    def _refuse(self, scope: Scope, detail: str) -> NoReturn:
        address = client_of(scope)
        if seconds := self._failures.wait(address):
            raise ApiError(
                429,
                "too many wrong tokens; wait",
                headers={"retry-after": str(seconds), "connection": "close"},
            )
        self._failures.add(address)
        log.warning("%s: from %s for %.200r", detail, address, scope["path"])
        if self._failures.wait(address):
            log.warning("too many wrong tokens: further ones are refused unseen for a minute")
        raise _unauthorized(detail)


def _changes(scope: Scope) -> bool:
    """Whether a request changes something; a prediction or an estimate does not."""
    if scope["type"] != "http" or scope["method"] in READING or scope["path"] in OPEN_PATHS:
        return False
    return not (scope["method"] == "POST" and scope["path"].endswith(("/predict", "/estimate")))


def client_of(scope: Scope) -> str:
    """The address that failures are counted under: of IPv6 the network, which one client owns."""
    try:
        address = ipaddress.ip_address(scope["client"][0])
    except (TypeError, KeyError, ValueError):
        return "an unknown address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def session_cookie(headers: Headers) -> str | None:
    """The value of our cookie; None where there is none."""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def _unauthorized(detail: str) -> ApiError:
    return ApiError(401, detail, headers={"www-authenticate": "Bearer"})


def _hash(value: str) -> bytes:
    """Looking a value up by its hash takes no time that depends on the value kept."""
    return hashlib.sha256(value.encode()).digest()
