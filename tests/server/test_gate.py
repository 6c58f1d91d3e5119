"""The token: what needs it, how one logs in with it, and what wrong ones lead to."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.app import ROUTES
from server.gate import Failures, Sessions, client_of

from .conftest import Server, prepare_folder, wait_until

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
        if not route.path.startswith(("/ws", "/log", "/healthz", "/readyz", "/static"))
    ] + ["/static/app.js", "/nothing"]


@pytest.mark.parametrize("path", paths())
def test_every_route_needs_the_token(guarded: Server, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code in (401, 429), path
        assert set(answer.json()) == {"error", "detail", "field"}
        assert TOKEN not in answer.text


def test_health_without_the_token_is_a_status_alone(guarded: Server) -> None:
    answer = guarded.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    detailed = guarded.get("/healthz", headers=BEARER).json()
    assert set(detailed) == {"status", "tasks"}
    for nothing in ("Bearer", ""):
        answer = guarded.get("/healthz", headers={"authorization": nothing})
        assert answer.status_code in (401, 429)


@pytest.fixture
def fresh(folder: Path) -> Iterator[Server]:
    """A server with a token that has seen no wrong one yet."""
    server = Server(folder, PNEUMOSCOPE_TOKEN=TOKEN)
    yield server
    server.end()


def test_the_right_token_passes_however_many_wrong_ones_came(fresh: Server) -> None:
    assert fresh.get("/runs", headers=BEARER).status_code == 200
    with fresh.socket(additional_headers=BEARER) as stream:
        stream.ping().wait(60)
    with pytest.raises(InvalidStatus) as refused, fresh.socket():
        pass
    assert refused.value.response.status_code == 401
    wrong = {"authorization": "Bearer wrong"}
    codes = [fresh.get("/healthz", headers=wrong).status_code for _ in range(5)]
    guess = {"cookie": "pneumoscope_session=guess"}
    last = [fresh.get("/runs", headers=guess) for _ in range(10)]
    assert codes + [answer.status_code for answer in last] == [401] * 10 + [429] * 5
    assert 0 < int(last[-1].headers["retry-after"]) <= 60
    assert fresh.get("/runs", headers=BEARER).status_code == 200
    login = httpx.post(f"{fresh.url}/login", data={"token": TOKEN})
    assert (login.status_code, login.headers["location"]) == (303, "/")
    text = fresh.log.read_text()
    assert text.count("from 127.0.0.1 for") == 10
    assert "further ones are refused" in text
    assert "handshake" not in text


def test_a_person_logs_in_with_the_token_and_out_again(fresh: Server) -> None:
    with httpx.Client(base_url=fresh.url) as browser:
        there = browser.get("/", headers={"accept": "text/html"})
        assert (there.status_code, there.headers["location"]) == (303, "/login")
        assert "password" in browser.get("/login").text
        wrong = browser.post("/login", data={"token": "wrong"})
        assert wrong.status_code == 401
        assert "wrong token" in wrong.text
        cookies = []
        for _ in range(2):
            right = browser.post("/login", data={"token": TOKEN})
            assert right.headers["location"] == "/"
            cookies.append(right.headers["set-cookie"])
        cookie = cookies[-1]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert "Max-Age=43200" in cookie
        assert "secure" not in cookie.lower()
        assert TOKEN not in cookie
        assert browser.get("/runs").status_code == 200
        with fresh.socket(additional_headers={"cookie": cookie.partition(";")[0]}) as stream:
            stream.ping().wait(60)
        out = browser.post("/logout")
        assert (out.status_code, out.headers["location"]) == (303, "/login")
        assert browser.get("/runs").status_code == 401
    first, second = ({"cookie": text.partition(";")[0]} for text in cookies)
    assert first != second
    assert fresh.get("/runs", headers=second).status_code == 401, "logged out"
    assert fresh.get("/runs", headers=first).status_code == 200, "another login"


@pytest.mark.parametrize(
    "form",
    [
        "&".join(f"field{n}=1" for n in range(100)),
        "token=a&token=b",
        f"token={TOKEN}&token={TOKEN}",
        "token=" + "x" * 10_000,
    ],
)
def test_a_form_that_is_no_login(guarded: Server, form: str) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"{guarded.url}/login", content=form, headers=headers)
    assert answer.status_code in (413, 422)
    assert set(answer.json()) == {"error", "detail", "field"}


def test_wrong_tokens_are_limited_by_address_and_in_all() -> None:
    failures = Failures(allowed=2, total=60, window=60, addresses=3)
    for _ in range(2):
        failures.add("a")
    assert failures.wait("a") > 0
    assert failures.wait("b") == 0
    for n in range(58):
        failures.add(str(n))
    assert failures.wait("b") > 0
    assert len(failures._seen) == 3


def test_a_session_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(seconds=100, limit=2)
    first = sessions.begin()
    assert first in sessions
    later = time.monotonic() + 101
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert first not in sessions
    three = [sessions.begin() for _ in range(3)]
    assert [value in sessions for value in three] == [False, True, True]


def test_an_address_of_ipv6_counts_with_its_network() -> None:
    def client(address: str) -> str:
        return client_of({"client": (address, 1)})

    assert client("2001:db8::1") == client("2001:db8::ffff:1") != client("2001:db8:0:1::1")
    assert client("::ffff:10.0.0.7") == client("10.0.0.7") == "10.0.0.7"
    assert client("x" * 100_000) == client("") == client_of({"client": None})


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Server]:
    """A server as README advises it behind a proxy: the tests' own process is the proxy."""
    folder = prepare_folder(tmp_path_factory.mktemp("proxied"), images)
    arguments = ("--allow-host", "xray.example", "--trusted-proxy", "127.0.0.1")
    server = Server(folder, *arguments, PNEUMOSCOPE_TOKEN=TOKEN)
    yield server
    server.end()
    assert "Traceback" not in server.log.read_text()


def test_behind_a_proxy_each_client_has_its_own_failures(proxied: Server) -> None:
    def guess(forwarded: str) -> int:
        headers = {"authorization": "Bearer wrong", "x-forwarded-for": forwarded}
        return proxied.get("/runs", headers={**headers, "host": "xray.example"}).status_code

    assert [guess("192.0.2.1") for _ in range(11)] == [401] * 10 + [429]
    assert guess("192.0.2.2") == 401
    assert guess("192.0.2.2, 192.0.2.1") == 429, "the last address is the one the proxy has seen"
    assert guess("192.0.2.1, 192.0.2.3, 127.0.0.1") == 401
    assert "from 192.0.2.3 for" in proxied.log.read_text()


def test_behind_tls_the_cookie_is_secure(proxied: Server) -> None:
    headers = {"host": "xray.example", "x-forwarded-proto": "https"}
    headers["origin"] = "https://xray.example"
    answer = httpx.post(f"{proxied.url}/login", data={"token": TOKEN}, headers=headers)
    assert answer.status_code == 303
    assert "; secure" in answer.headers["set-cookie"].lower()


def test_a_stranger_cannot_claim_an_address(guarded: Server) -> None:
    """Without --trusted-proxy the headers of a proxy mean nothing."""
    wrong = {"authorization": "Bearer wrong"}
    for n in range(11):
        code = guarded.get("/", headers={**wrong, "x-forwarded-for": f"192.0.2.{n}"}).status_code
    assert code == 429
    headers = {"x-forwarded-proto": "https"}
    answer = httpx.post(f"{guarded.url}/login", data={"token": TOKEN}, headers=headers)
    assert "secure" not in answer.headers["set-cookie"].lower()


def test_a_name_can_be_added(proxied: Server) -> None:
    assert proxied.get("/runs", headers={"host": "xray.example:99", **BEARER}).status_code == 200
    assert proxied.get("/runs", headers={"host": "other.example", **BEARER}).status_code == 403


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


def test_only_static_files_may_be_kept_by_a_cache(guarded: Server) -> None:
    run_id = guarded.write_run()
    for path in ("/runs", f"/runs/{run_id}", "/datasets", "/metrics", "/openapi.json", "/nothing"):
        headers = guarded.get(path, headers=BEARER).headers
        assert headers["cache-control"] == "no-store", path
    assert guarded.get("/runs").headers["cache-control"] == "no-store", "a refusal"
    assert guarded.get("/login").headers["cache-control"] == "no-store"
    assert "no-store" not in guarded.get("/static/app.js", headers=BEARER).headers.get(
        "cache-control", ""
    )


def test_the_end_of_a_session_closes_its_sockets(fresh: Server) -> None:
    with httpx.Client(base_url=fresh.url) as browser:
        cookie = browser.post("/login", data={"token": TOKEN}).headers["set-cookie"]
        headers = {"cookie": cookie.partition(";")[0]}
        with fresh.socket(additional_headers=headers) as stream:
            stream.ping().wait(60)
            browser.post("/logout")
            with pytest.raises(ConnectionClosed):
                stream.recv(timeout=60)
        assert stream.close_code == 4401
    with fresh.socket(additional_headers={**headers, **BEARER}) as stream:  # the token counts
        stream.ping().wait(60)


def test_a_token_for_reading_changes_nothing(folder: Path) -> None:
    reading = "another-good-battery"
    server = Server(folder, PNEUMOSCOPE_TOKEN=TOKEN, PNEUMOSCOPE_READ_TOKEN=reading)
    try:
        run_id = server.write_run()
        headers = {"authorization": f"Bearer {reading}"}
        assert server.get(f"/runs/{run_id}", headers=headers).status_code == 200
        assert server.get("/session", headers=headers).json()["access"] == "read"
        assert server.get("/session", headers=BEARER).json()["access"] == "full"
        with server.socket(additional_headers=headers) as stream:
            stream.ping().wait(60)
        bearer = httpx.Client(base_url=server.url, headers=headers)
        with httpx.Client(base_url=server.url) as browser, bearer:
            browser.post("/login", data={"token": reading})
            for client in (browser, bearer):
                for method, path in (
                    ("DELETE", f"/runs/{run_id}"),
                    ("POST", f"/runs/{run_id}/resume"),
                    ("PUT", "/datasets/a"),
                    ("POST", "/experiments/centralized"),
                ):
                    assert client.request(method, path).status_code == 403
            assert browser.post("/logout").headers["location"] == "/login"
            assert browser.get("/runs").status_code == 401
        assert reading not in server.log.read_text()
    finally:
        server.end()


def test_readiness_is_apart_from_liveness(fresh: Server) -> None:
    assert fresh.get("/readyz").json() == {"status": "ready"}
    assert set(fresh.get("/readyz", headers=BEARER).json()) == {"status", "tasks"}
    with sqlite3.connect(fresh.database) as database:
        database.execute("ALTER TABLE run RENAME COLUMN heartbeat_at TO gone")
    database.close()
    wait_until(lambda: fresh.get("/readyz").status_code == 503)
    assert fresh.get("/healthz").json() == {"status": "degraded"}
