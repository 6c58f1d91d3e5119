"""Deadlines of connections, and requests that uvicorn alone would answer twice or never."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from server import __main__ as command
from server import protocols

from .conftest import serving, wait_until

GET = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n"


ended = threading.Event()


async def quick(_request: Request) -> Response:
    return PlainTextResponse("done")


async def large(_request: Request) -> Response:
    async def parts():
        for _ in range(400):
            yield b"x" * 100_000

    return StreamingResponse(parts())


async def refuse(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("no", 418))


async def flood(websocket: WebSocket) -> None:
    """More than kernel and process keep for a peer, then a wait."""
    await websocket.accept()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while True:
                await websocket.send_bytes(b"x" * 30_000)
    with contextlib.suppress(WebSocketDisconnect):
        await websocket.receive_text()
    ended.set()


APP = Starlette(
    routes=[
        Route("/quick", quick, methods=["GET", "POST"]),
        Route("/large", large),
        WebSocketRoute("/refuse", refuse),
        WebSocketRoute("/flood", flood),
    ]
)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server whose deadlines are short."""
    monkeypatch.setattr(protocols, "HEADER_SECONDS", 1.0)
    monkeypatch.setattr(protocols, "SEND_SECONDS", 1.0)
    monkeypatch.setattr(protocols, "CLOSE_SECONDS", 1.0)
    monkeypatch.setattr(command, "PING_SECONDS", 1.0)
    with serving(APP) as port:
        yield port


def dribble(client: socket.socket, piece: bytes) -> float:
    """Send a piece of a request again and again; the seconds until the server ends it."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 60:
            client.sendall(piece)
            time.sleep(0.05)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                if client.recv(100) == b"":
                    break
            client.setblocking(True)
    return time.monotonic() - began


def answer_of(client: socket.socket) -> bytes:
    client.settimeout(60)
    answer = b""
    while b"done" not in answer:
        answer += client.recv(1000)
    return answer


@pytest.mark.parametrize(
    "piece", [GET, b"POST /quick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"]
)
@pytest.mark.parametrize("requests_before", [0, 2])
def test_a_request_that_arrives_slowly_is_cut_off(
    port: int, requests_before: int, piece: bytes
) -> None:
    """Headers without an end, and a body that nobody asked for: on every request alike."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(requests_before):
            client.sendall(GET + b"\r\n")
            answer_of(client)
        client.sendall(piece)
        assert dribble(client, b"X-a: b\r\n") < 30


def test_a_connection_without_a_request_is_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        assert client.recv(1) == b""


def test_a_connection_used_at_intervals_is_not_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(4):
            client.sendall(GET + b"\r\n")
            assert answer_of(client).startswith(b"HTTP/1.1 200")
            time.sleep(0.5)


def test_a_peer_that_does_not_read_its_answer_is_cut_off(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2.5)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 20):
                received += len(part)
    assert received < 40_000_000
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("path", ["/quick", "/nothing", "/large"])
def test_a_malformed_body_is_answered_once(
    port: int, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head.encode() + b"ZZ\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head.encode())
        client.recv(100)
        client.sendall(b"ZZ\r\n")  # after the answer
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_refused_socket_leaves_no_line_in_the_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    for path, status in (("/refuse", 418), ("/nothing", 403)):
        with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{port}{path}"):
            pass
        assert refused.value.response.status_code == status
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(GET + b"\r\n")
            answer_of(client)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_socket_whose_peer_reads_nothing_ends(port: int) -> None:
    """Even where the application has nothing more to send and waits for the peer."""
    ended.clear()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            b"GET /flood HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert ended.wait(60)


def test_connections_above_the_limit_are_refused_and_then_closed() -> None:
    with serving(APP, connections=3) as port, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(3 + protocols.SPARE + 5)
        ]
        for client in clients[3 + protocols.SPARE :]:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        clients[3].sendall(GET + b"\r\n")
        assert clients[3].recv(1000).startswith(b"HTTP/1.1 503")
        for client in clients:
            client.close()

        def answers() -> bool:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(GET + b"\r\n")
                return client.recv(1000).startswith(b"HTTP/1.1 200")

        wait_until(answers, 60)
