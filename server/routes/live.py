"""The stream: /ws for all runs, /ws/runs/{run_id} for one."""

from __future__ import annotations

import asyncio

from starlette.websockets import WebSocket, WebSocketDisconnect

from server.errors import ApiError
from server.hub import Hub, Subscriber, encode
from server.parsing import MAX_ID, get_run, number_of

NOT_UNDERSTOOD = 1003
SLOW = 4008
BATCH = 500  # events read from the log at once


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
        sending = asyncio.create_task(_send(socket, run_id, after))
        try:
            await _until_gone(socket)
        finally:
            sending.cancel()
            await asyncio.wait({sending})
    except (WebSocketDisconnect, RuntimeError):
        pass  # the other side left, or was dropped: both are an end
    finally:
        state.hub.sockets -= 1


async def _until_gone(socket: WebSocket) -> None:
    """Wait for the close; any frame is one too many, and closes with 1003."""
    message = await socket.receive()
    if message["type"] == "websocket.receive":
        await socket.close(NOT_UNDERSTOOD, "this stream takes no messages")


async def _send(socket: WebSocket, run_id: int | None, after: int | None) -> None:
    hub: Hub = socket.state.hub
    subscriber: Subscriber | None = None
    try:
        sent = hub.last_id if after is None else await _replay(socket, run_id, after)
        subscriber = hub.subscribe(run_id, lambda: _drop(socket))
        # What was written between the last look at the log and the subscription.
        sent = await _replay(socket, run_id, sent)
        while True:
            event_id, text = await subscriber.get()
            if event_id > sent:
                await socket.send_text(text)
    except (WebSocketDisconnect, RuntimeError):
        pass  # a send after the close: `_until_gone` has seen it
    finally:
        if subscriber is not None:
            hub.unsubscribe(run_id, subscriber)


def _drop(socket: WebSocket) -> None:
    """Its own sending may hang for ever, so the protocol is told; `_until_gone` sees the end."""
    socket.state.hub.dropped += 1
    socket.scope["extensions"]["drop"](SLOW, "too slow; come again with ?after=")


async def _replay(socket: WebSocket, run_id: int | None, after: int) -> int:
    """Send what the log holds after an id; the id of the last event sent."""
    while rows := await socket.state.store.events_after(after, run_id, BATCH):
        for row in rows:
            await socket.send_text(encode(row))
        after = rows[-1]["event_id"]
    return after
