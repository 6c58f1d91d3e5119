"""uvicorn's two protocols with what a hostile or a slow peer makes necessary."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEADER_SECONDS = 10.0  # from the connection's start to the end of its first request's headers
LINGER_SECONDS = 20.0  # that a dropped peer has to read what waits for it
WRITE_BUFFER = 1 << 16  # bytes that may wait in this process for one socket


class HttpProtocol(H11Protocol):
    """Closes a connection that does not come to its first request (slowloris)."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """uvicorn's, and the clock starts."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn's, and the clock stops."""
        self._stop_clock()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """uvicorn's, and the clock stops with the first whole request."""
        super().handle_events()
        if self.cycle is not None:
            self._stop_clock()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """uvicorn's, and the clock stops: the other protocol has its own."""
        self._stop_clock()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's; but the application must not answer the same request once more."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if answering and self.cycle.response_started:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self.transport.abort()


class SocketProtocol(WebSocketsSansIOProtocol):
    """Hands the application a way to drop a peer that does not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """uvicorn's, with a bound on what waits for the peer."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)

    async def run_asgi(self) -> None:
        """uvicorn's, with `drop` among the scope's extensions."""
        extensions: dict[str, Any] = {**(self.scope.get("extensions") or {}), "drop": self.drop}
        self.scope["extensions"] = extensions
        await super().run_asgi()

    def keepalive_timeout(self) -> None:
        """uvicorn's would leave a peer that reads nothing hanging with what waits for it."""
        self.drop(1011, "keepalive ping timeout")

    def drop(self, code: int, reason: str) -> None:
        """A close frame behind what waits, whether or not the peer reads; then the end.

        uvicorn's own close waits until the peer has read, which may be never.
        """
        if self.close_sent or self.transport.is_closing():
            return
        self.close_sent = True
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.close()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
