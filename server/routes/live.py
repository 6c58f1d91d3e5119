"""The stream: /ws for all runs, /ws/runs/{run_id} for one."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

from server.errors import ApiError
from server.gate import session_cookie
from server.hub import Hub, Subscriber, encode_all
from server.parsing import MAX_ID, get_run, number_of

NOT_UNDERSTOOD = (1003, "this stream takes no messages")
LOGGED_OUT = (4401, "the session has ended; log in again")
SLOW = (4008, "too slow; connect again with ?after=")
BATCH = 500  # events read from the log at once
SEND_SECONDS = 10.0  # between two looks at whether the same send still waits for the peer
CLOSE_SECONDS = 20.0  # that a slow peer has to read what waits for it, and the close behind it


async def stream(socket: WebSocket) -> None:
    """Send the log after `?after=`, then each event as it comes; nothing is expected back."""
    state = socket.state
    try:
        run_id = None
        if "run_id" in socket.path_params:
            run_id = (await get_run(socket, state.store))["run_id"]
        after = number_of(socket, "after", None, 0, MAX_ID)
        if state.hub.sockets >= state.settings.max_sockets:
            raise ApiError(503, f"{state.settings.max_sockets} sockets are open; that is the limit")
    except ApiError as error:
        await socket.send_denial_response(error.response())
        return
    state.hub.sockets += 1
    try:
        await socket.accept()
        close = await Stream(socket, run_id).run(after)
        async with asyncio.timeout(CLOSE_SECONDS):
            if close is not None:
                await socket.close(*close)
    except (WebSocketDisconnect, RuntimeError, TimeoutError):
        pass  # the other side left, or reads nothing: the server ends the connection
    finally:
        state.hub.sockets -= 1


class Stream:
    """One accepted socket."""

    def __init__(self, socket: WebSocket, run_id: int | None) -> None:
        """`run_id`: None for all runs."""
        self._socket, self._run_id = socket, run_id
        self._hub: Hub = socket.state.hub
        self._sessions = socket.state.gate.sessions
        by_cookie = socket.state.gate.needed and "authorization" not in socket.headers
        self._session = session_cookie(socket.headers) if by_cookie else None
        self._started = self._finished = 0  # sends

    async def run(self, after: int | None) -> tuple[int, str] | None:
        """Send until either side ends; the code and reason to close with, None: the peer left."""
        reading = asyncio.create_task(self._socket.receive())
        sending = asyncio.create_task(self._send(after))
        stuck = 0  # the send that was waiting at the last look
        try:
            with self._sessions.holding(self._session or "", sending.cancel):
                while not sending.done() and not reading.done():
                    await asyncio.wait(
                        {reading, sending},
                        timeout=SEND_SECONDS,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if self._is_logged_out():
                        break
                    waiting = self._started if self._started != self._finished else 0
                    if waiting and waiting == stuck:
                        break
                    stuck = waiting
            if reading.done():  # any frame is one too many
                return NOT_UNDERSTOOD if reading.result()["type"] == "websocket.receive" else None
            if sending.done() and not sending.cancelled():
                return sending.result()
            if self._is_logged_out():
                return LOGGED_OUT
            self._hub.dropped += 1
            return SLOW
        finally:
            reading.cancel()
            sending.cancel()
            await asyncio.wait({reading, sending})

    def _is_logged_out(self) -> bool:
        return self._session is not None and self._session not in self._sessions

    async def _send(self, after: int | None) -> None:
        """Send until the peer has left; cancelled by the hub where its queue is full."""
        task = asyncio.current_task()
        assert task is not None
        subscriber: Subscriber | None = None
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # a send after the close
            try:
                sent = self._hub.last_id if after is None else await self._replay(after)
                subscriber = self._hub.subscribe(self._run_id, task.cancel)
                # What was written between the last look at the log and the subscription.
                sent = await self._replay(sent)
                while True:
                    event_id, text = await subscriber.get()
                    if event_id > sent:
                        await self._send_text(text)
            finally:
                if subscriber is not None:
                    self._hub.unsubscribe(self._run_id, subscriber)

    async def _replay(self, after: int) -> int:
        """Send what the log holds after an id; the id of the last event sent."""
        store = self._socket.state.store
        while rows := await store.events_after(after, self._run_id, BATCH):
            for text in encode_all(rows):
                await self._send_text(text)
            after = rows[-1]["event_id"]
        return after

    async def _send_text(self, text: str) -> None:
        self._started += 1
        await self._socket.send_text(text)
        self._finished = self._started
