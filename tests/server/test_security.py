"""Who may talk to the server, and what it does with those who may not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from server.app import ROUTES
from server.security import Failures
from server.settings import is_loopback

from .conftest import ROOT, Server, prepare_folder, wait_until

TOKEN = "correct-horse-battery"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Server]:
    """A server with a token."""
    folder = prepare_folder(tmp_path_factory.mktemp("guarded"), images)
    server = Server(folder, PNEUMOSCOPE_TOKEN=TOKEN)
    yield server
    server.end()
    assert TOKEN not in server.log.read_text()


def paths() -> list[str]:
    return [
        route.path.replace("{run_id:run_id}", "1").replace("{name}", "log")
        for route in ROUTES
        if not route.path.startswith(("/ws", "/login", "/static"))
    ] + ["/static/app.js", "/nothing"]


@pytest.mark.parametrize("path", paths())
def test_every_route_needs_the_token(guarded: Server, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code in (401, 429), path
        assert set(answer.json()) == {"error", "detail", "field"}
        assert TOKEN not in answer.text


def test_the_right_token_opens_until_too_many_wrong_ones(folder: Path) -> None:
    server = Server(folder, PNEUMOSCOPE_TOKEN=TOKEN)
    try:
        assert server.get("/runs", headers=BEARER).status_code == 200
        with server.socket(additional_headers=BEARER) as stream:
            stream.ping().wait(5)
        with pytest.raises(InvalidStatus) as refused, server.socket():
            pass
        assert refused.value.response.status_code == 401
        wrong = {"authorization": "Bearer wrong"}
        codes = [server.get("/runs", headers=wrong).status_code for _ in range(15)]
        assert codes == [401] * 10 + [429] * 5
        last = server.get("/runs", headers=BEARER)
        assert last.status_code == 429
        assert 0 < int(last.headers["retry-after"]) <= 60
    finally:
        server.end()


def test_a_person_logs_in_with_the_token(folder: Path) -> None:
    server = Server(folder, PNEUMOSCOPE_TOKEN=TOKEN)
    try:
        with httpx.Client(base_url=server.url) as browser:
            there = browser.get("/", headers={"accept": "text/html"})
            assert (there.status_code, there.headers["location"]) == (303, "/login")
            assert "password" in browser.get("/login").text
            wrong = browser.post("/login", data={"token": "wrong"})
            assert wrong.status_code == 401
            assert "wrong token" in wrong.text
            right = browser.post("/login", data={"token": TOKEN})
            assert right.headers["location"] == "/"
            cookie = right.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "samesite=strict" in cookie.lower()
            assert TOKEN not in cookie
            assert browser.get("/runs").status_code == 200
            stolen = cookie.partition(";")[0][:-1] + "0"
        assert server.get("/runs", headers={"cookie": stolen}).status_code == 401
        with server.socket(additional_headers={"cookie": cookie.partition(";")[0]}) as stream:
            stream.ping().wait(5)
    finally:
        server.end()


def test_the_address_waits_only_for_its_own_failures() -> None:
    failures = Failures(allowed=2, window=60, addresses=3)
    for _ in range(2):
        failures.add("a")
    assert failures.wait("a") > 0
    assert failures.wait("b") == 0
    for n in range(50):
        failures.add(str(n))
    assert len(failures._seen) == 3


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("evil.example@127.0.0.1", 403),
        ("127.0.0.1:x", 403),
        ("10.0.0.1", 403),
        ("", 403),
        ("[::1", 403),
        ("localhost/", 403),
    ],
)
def test_only_the_servers_own_name_is_answered(shared: Server, host: str, status: int) -> None:
    answer = shared.get("/runs", headers={"host": host})
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["field"] == "Host"
        with (
            pytest.raises(InvalidStatus) as refused,
            shared.socket(additional_headers={"Host": host}) as stream,
        ):
            stream.recv(timeout=1)
        assert refused.value.response.status_code in (400, 403)  # 400: it now has two


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1.evil.example", "x", "http://["]
)
def test_a_foreign_page_is_refused(shared: Server, origin: str) -> None:
    answer = shared.post("/experiments/centralized", {}, headers={"origin": origin})
    assert answer.status_code == 403
    assert answer.json()["field"] == "Origin"
    with pytest.raises(InvalidStatus) as refused, shared.socket(origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_its_own_page_is_not(shared: Server) -> None:
    assert shared.get("/runs", headers={"origin": shared.url}).status_code == 200
    with shared.socket(origin=shared.url) as stream:
        stream.ping().wait(5)


def test_a_name_can_be_added(folder: Path) -> None:
    server = Server(folder, "--allow-host", "xray.example")
    try:
        assert server.get("/runs", headers={"host": "xray.example:99"}).status_code == 200
        assert server.get("/runs", headers={"host": "other.example"}).status_code == 403
    finally:
        server.end()


def start(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_open_server_without_a_token(tmp_path: Path, host: str) -> None:
    done = start("--host", host, "--port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "PNEUMOSCOPE_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--token-file", "none"], "--token-file none"),
        (["--token-file", "empty"], "is empty"),
        (["--host", "no.such.name.invalid"], "is no address"),
        (["--port", "99999"], "port 99999"),
        (["--set", "experiment.epoch=3"], "experiment.epochs"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_at_the_start_are_told(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").write_text("\n")
    done = start(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(shared: Server, tmp_path: Path) -> None:
    done = start("--port", str(shared.port), folder=tmp_path)
    assert done.returncode == 2
    assert "choose another with --port" in done.stderr


def test_an_open_server_with_a_token_file(folder: Path) -> None:
    (folder / "token").write_text(f"{TOKEN}\n")
    server = Server(folder, "--host", "0.0.0.0", "--token-file", "token")
    try:
        assert server.get("/runs").status_code == 401
        assert server.get("/runs", headers=BEARER).status_code == 200
        named = {"host": "evil.example", **BEARER}
        assert server.get("/runs", headers=named).status_code == 403
    finally:
        server.end()


def test_loopback_is_known() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.9.9.9")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.0.2.1")


@pytest.mark.parametrize("path", ["/", "/runs", "/nothing", "/static/app.js"])
def test_every_answer_has_the_headers(shared: Server, path: str) -> None:
    headers = shared.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/static//etc/passwd",
        "/datasets/..%2f..%2fetc%2fpasswd",
    ],
)
def test_no_path_leads_out(shared: Server, path: str) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as client:
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"422"), answer


def test_a_slow_request_is_cut_off(shared: Server) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as client:
        client.sendall(b"GET /runs HTTP/1.1\r\nHost: localhost\r\n")
        began = time.monotonic()
        client.settimeout(20)
        for _ in range(100):
            try:
                client.sendall(b"X-a: b\r\n")
                time.sleep(0.2)
            except OSError:
                break
        else:
            raise AssertionError("a request without an end was waited for")
    assert 8 < time.monotonic() - began < 15


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
def test_malformed_requests_do_no_harm(shared: Server, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as client:
        client.sendall(request_bytes)
        client.settimeout(20)
        answer = client.recv(100)
    assert answer[:5] == b"HTTP/"
    assert int(answer.split()[1]) in (400, 403, 404, 405, 431)
    wait_until(shared.answers, 5)
