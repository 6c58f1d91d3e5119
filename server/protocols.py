"""Deadlines around uvicorn: for the headers of each request, for each send, and for a close.

Only asyncio's documented callbacks of a protocol are overridden, and only ASGI's messages are
watched: nothing here depends on how uvicorn's classes look inside.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # from a connection's start, or a request's first byte, to its last header
SEND_SECONDS = 60.0  # that a peer may take to read what waits for it before the next send
CLOSE_SECONDS = 20.0  # that a closing connection may take to deliver what waits for the peer
SPARE = 64  # connections above the limit that are still answered, with 503


class PeerGone(Exception):
    """The peer is gone, or was cut off: there is nobody to answer."""


class Connection:
    """One TCP connection: its transport, and the one deadline that runs for it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.busy = False  # the application is answering a request
        self._timer: asyncio.TimerHandle | None = None

    def expect_headers(self) -> None:
        """Start the deadline for a request's headers, where none runs."""
        if self._timer is None and not self.busy:
            self._start(HEADER_SECONDS, self.transport.abort)

    def stop(self) -> None:
        """End the deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def watch_closing(self) -> None:
        """Abort the connection once it has been closing for long: the peer does not read."""
        if self.transport.is_closing():
            self.transport.abort()
        else:
            self._start(CLOSE_SECONDS, self.watch_closing)

    def _start(self, seconds: float, action: Callable[[], object]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, action)


class Connections:
    """The ASGI application around ours, and the protocol class that goes with it."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """`limit`: connections at most; further ones are closed at once."""
        self._app, self._limit = app, limit
        self._open: dict[tuple[str, int], Connection] = {}  # by the peer's address and port

    def protocol_class(self) -> type[asyncio.Protocol]:
        """uvicorn's protocol of HTTP/1.1 with this object's deadlines."""
        connections = self

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)  # type: ignore[arg-type]
                assert isinstance(transport, asyncio.Transport)
                self.watched = connections.opened(transport)

            def data_received(self, data: bytes) -> None:
                self.watched.expect_headers()
                try:
                    super().data_received(data)
                except h11.LocalProtocolError:  # the body turned out malformed after the answer
                    self.watched.transport.close()

            def connection_lost(self, exc: Exception | None) -> None:
                connections.closed(self.watched)
                super().connection_lost(exc)

        return Protocol

    def opened(self, transport: asyncio.Transport) -> Connection:
        """Register a connection and start its deadline; above the limit it is cut off."""
        connection = Connection(transport)
        if len(self._open) >= self._limit:
            transport.abort()
        elif (peer := transport.get_extra_info("peername")) is not None:
            self._open[peer[:2]] = connection
            connection.expect_headers()
        return connection

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        connection.stop()
        peer = connection.transport.get_extra_info("peername")
        if peer is not None and self._open.get(peer[:2]) is connection:
            del self._open[peer[:2]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on to the application, with deadlines for what it sends."""
        client = scope.get("client")
        connection = self._open.get(tuple(client)) if client else None
        if connection is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(connection, scope, receive, send)
        else:
            await self._stream(connection, scope, receive, send)

    async def _answer(
        self, connection: Connection, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                connection.transport.abort()
                raise PeerGone from None
            except h11.LocalProtocolError:  # uvicorn has answered 400 to a malformed body
                raise PeerGone from None

        connection.stop()
        connection.busy = True
        try:
            await self._app(scope, receive, send_in_time)
        except PeerGone:
            await _until_disconnected(receive)
        finally:
            connection.busy = False

    async def _stream(
        self, connection: Connection, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A WebSocket: from here on its transport has another protocol than ours."""
        connection.stop()
        connection.watch_closing()
        try:
            await self._app(scope, receive, send)
            # A refused handshake counts as complete once its connection has ended, which the
            # event loop does next; until then uvicorn would log an error.
            await asyncio.sleep(0)
        finally:
            self.closed(connection)
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, connection.transport.abort)


async def _until_disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    """Return when the connection has ended: uvicorn logs an error for an answer cut short."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            while (await receive())["type"] != "http.disconnect":
                pass
