"""The stream: every event once and in order, also across a server's death."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from .conftest import Server, wait_until


def receive(stream: ClientConnection, count: int, seconds: float = 60) -> list[dict[str, Any]]:
    return [json.loads(stream.recv(timeout=seconds)) for _ in range(count)]


def ids(events: list[dict[str, Any]]) -> list[int]:
    return [event["event_id"] for event in events]


def test_events_arrive_flat_once_in_order_and_soon(shared: Server) -> None:
    run_id = shared.write_run()
    with shared.socket() as stream:
        shared.write_event(run_id, n=-1)
        receive(stream, 1)
        waits = []
        for n in range(20):
            began = time.monotonic()
            event_id = shared.write_event(run_id, code="x", n=n, nothing=None)
            (event,) = receive(stream, 1)
            waits.append(time.monotonic() - began)
            assert event == {
                "event": "warning",
                "event_id": event_id,
                "run_id": run_id,
                "at": "now",
                "code": "x",
                "n": n,
                "nothing": None,
            }
        assert sorted(waits)[10] < 1


def test_one_runs_socket_gets_only_that_run(shared: Server) -> None:
    one, other = shared.write_run(), shared.write_run()
    with shared.socket(f"/ws/runs/{one}") as stream, shared.socket("/ws") as everything:
        time.sleep(0.2)
        written = [shared.write_event(run) for run in (other, one, other, one)]
        assert ids(receive(stream, 2)) == [written[1], written[3]]
        assert ids(receive(everything, 4)) == written


def test_after_replays_what_was_missed_then_continues_live(shared: Server) -> None:
    run_id = shared.write_run()
    written = [shared.write_event(run_id, n=n) for n in range(1200)]  # several batches
    with shared.socket(f"/ws/runs/{run_id}?after={written[99]}") as stream:
        for n in range(50):
            written.append(shared.write_event(run_id, n=n))
        assert ids(receive(stream, 1150)) == written[100:]


def test_without_after_only_what_comes_is_sent(shared: Server) -> None:
    run_id = shared.write_run()
    shared.write_event(run_id)
    time.sleep(0.3)
    with shared.socket(f"/ws/runs/{run_id}") as stream:
        time.sleep(0.2)
        later = shared.write_event(run_id)
        assert ids(receive(stream, 1)) == [later]


@pytest.mark.parametrize("frame", ["hello", b"\x00\xff", "{}"])
def test_a_frame_is_not_understood(shared: Server, frame: str | bytes) -> None:
    with shared.socket() as stream:
        stream.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003


def test_a_frame_that_is_too_large_ends_the_socket(shared: Server) -> None:
    with shared.socket() as stream:
        stream.send("x" * 100_000)
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ws/runs/9999", 404), ("/ws?after=x", 422), ("/ws?after=-1", 422), ("/nothing", 403)],
)
def test_a_socket_that_cannot_be(shared: Server, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, shared.socket(path):
        pass
    assert refused.value.response.status_code == status


def test_one_that_never_reads_is_dropped_and_costs_the_others_nothing(shared: Server) -> None:
    run_id = shared.write_run()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", shared.port))
    dropped = counter(shared, "pneumoscope_sockets_dropped_total")
    with (
        shared.socket(f"/ws/runs/{run_id}", sock=slow, max_queue=1) as lazy,
        shared.socket(f"/ws/runs/{run_id}") as quick,
        ThreadPoolExecutor(1) as pool,
    ):
        # About 40 MB: more than the kernel keeps for one connection, and than 256 events.
        reading = pool.submit(receive, quick, 2000, 30)
        written = [shared.write_event(run_id, text="x" * 20_000) for _ in range(2000)]
        assert ids(reading.result()) == written
        wait_until(lambda: counter(shared, "pneumoscope_sockets_dropped_total") > dropped)
        assert shared.memory() < 100e6
        with pytest.raises(ConnectionClosed) as closed:  # what it finds when it reads at last
            receive(lazy, 2000)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4008


def test_sockets_that_leave_are_forgotten(shared: Server) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(shared.socket()) for _ in range(20)]
        wait_until(lambda: counter(shared, "pneumoscope_sockets") >= 20)
        for stream in sockets[:10]:
            stream.close()
        for stream in sockets[10:]:
            stream.socket.shutdown(socket.SHUT_RDWR)  # without a word
        wait_until(lambda: counter(shared, "pneumoscope_sockets") == 0)


def test_a_hundred_listeners_of_a_killed_server_get_every_event_once(server: Server) -> None:
    run_id = server.write_run()
    heard: list[list[int]] = [[] for _ in range(100)]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(server.socket()) for _ in heard]
        time.sleep(0.3)
        written = [server.write_event(run_id, n=n) for n in range(10)]
        for number, (stream, seen) in enumerate(zip(sockets, heard, strict=True)):
            seen += ids(receive(stream, 1 + number % 10))
        server.stop(signal.SIGKILL)
    written += [server.write_event(run_id, n=n) for n in range(10)]
    server.start()
    for seen in heard:
        with server.socket(f"/ws?after={seen[-1]}") as again:
            seen += ids(receive(again, len(written) - len(seen)))
    assert all(seen == written for seen in heard)


def test_there_is_a_limit_to_sockets(folder: Path) -> None:
    server = Server(folder, "--max-sockets", "3")
    try:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(server.socket()) for _ in range(3)]
            with pytest.raises(InvalidStatus) as refused, server.socket():
                pass
            assert refused.value.response.status_code == 503
            sockets[0].close()
            wait_until(lambda: counter(server, "pneumoscope_sockets") == 2)
            stack.enter_context(server.socket())
    finally:
        server.end()


def counter(server: Server, name: str) -> int:
    for line in server.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    raise AssertionError(name)
