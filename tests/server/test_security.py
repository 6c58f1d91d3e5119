"""Requests that are refused, whoever sends them, and the headers of every answer."""

from __future__ import annotations

import socket

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from .conftest import Server, wait_until


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


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"sec-fetch-site": "cross-site"}, 403),
        ("GET", {"sec-fetch-site": "same-site"}, 403),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        (
            "GET",
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "iframe",
            },
            403,
        ),
        (
            "POST",
            {
                "sec-fetch-site": "same-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "document",
            },
            403,
        ),
        (
            "GET",
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "document",
            },
            200,
        ),
        ("GET", {"sec-fetch-site": "same-origin"}, 200),
        ("GET", {"sec-fetch-site": "none"}, 200),
    ],
)
def test_a_browser_says_where_a_request_comes_from(
    shared: Server, method: str, headers: dict[str, str], status: int
) -> None:
    answer = httpx.request(method, f"{shared.url}/", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["field"] == "Sec-Fetch-Site"


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
        b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost:x/runs HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET //x/runs/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%00%ff/ HTTP/1.0\r\nHost: localhost\r\n\r\n",
        b"GET /nothing HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET /runs HTTP/1.1\r\nHost: localhost\r\nCookie: a=\x80\xff;;;=\r\nX: \xff\r\n"
        b"Accept: ,\r\nAuthorization: Bearer \xff\xfe\r\nRange: bytes=-\r\n\r\n",
    ],
)
def test_malformed_requests_do_no_harm(shared: Server, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as client:
        client.sendall(request_bytes)
        client.settimeout(20)
        answer = client.recv(100)
    assert answer[:5] == b"HTTP/"
    assert int(answer.split()[1]) in (200, 400, 403, 404, 405, 431)
    wait_until(shared.answers, 5)


@pytest.mark.parametrize(
    "framing",
    [
        b"HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
        b"HTTP/1.0\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_body_with_two_ends_is_refused_and_the_connection_closed(
    shared: Server, framing: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as client:
        client.sendall(
            b"POST /runs/1/cancel " + framing + b"\r\nHost: localhost\r\n\r\n0\r\n\r\n"
            b"GET /runs HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"field":"Transfer-Encoding"' in answer
