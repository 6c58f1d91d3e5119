"""The files of a run, whole, in ranges, and while they change."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .conftest import Server
from .test_routes import assert_error


def test_artifacts_in_ranges(server: Server) -> None:
    run_id = server.write_run()
    log = server.folder / "output" / "logs" / f"run_{run_id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(bytes(range(256)) * 1000)
    path = f"/runs/{run_id}/artifacts/log"
    whole = server.get(path)
    assert whole.content == log.read_bytes()
    assert whole.headers["content-disposition"] == f'attachment; filename="run_{run_id}.log"'
    part = server.get(path, headers={"range": "bytes=1000-1999"})
    assert part.status_code == 206
    assert part.content == log.read_bytes()[1000:2000]
    assert server.get(path, headers={"range": "bytes=-10"}).content == log.read_bytes()[-10:]
    assert server.get(path, headers={"range": "bytes=999999-"}).status_code == 416
    assert server.get(path, headers={"range": "bytes=5-4"}).status_code == 200
    old = {"range": "bytes=0-9", "if-range": '"another"'}
    assert len(server.get(path, headers=old).content) == 256_000
    same = {"range": "bytes=0-9", "if-range": whole.headers["etag"]}
    assert len(server.get(path, headers=same).content) == 10
    head = httpx.head(server.url + path, timeout=30)
    assert head.headers["content-length"] == "256000"
    assert_error(server.get(f"/runs/{run_id}/artifacts/scores"), 404, "name")
    assert_error(server.get(f"/runs/{run_id}/artifacts/nothing"), 404, "name")
    for climb in ("..%2f..%2fpneumoscope.db", "%2e%2e", "..%5c..%5cpneumoscope.db"):
        assert server.get(f"/runs/{run_id}/artifacts/{climb}").status_code == 404


def test_a_file_that_changes_is_downloaded_as_it_was_when_it_was_opened(server: Server) -> None:
    run_id = server.write_run()
    log = server.folder / "output" / "logs" / f"run_{run_id}.log"
    bundle = server.folder / "output" / "checkpoints" / f"run_{run_id}" / "best_model.pt"
    for path in (log, bundle):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    over = threading.Event()

    def change() -> None:
        for n in itertools.count():
            with log.open("ab") as file:
                file.write(b"a line\n" * 100)
            new = bundle.with_suffix(".tmp")
            new.write_bytes(bytes([n % 256]) * (300_000 + n % 7 * 50_000))
            new.replace(bundle)
            if over.wait(0.001):
                return

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        for _ in range(30):
            text = server.get(f"/runs/{run_id}/artifacts/log").content
            assert text == b"a line\n" * (len(text) // 7)
            assert len(set(server.get(f"/runs/{run_id}/artifacts/checkpoint").content)) <= 1
        over.set()
        changing.result()
    assert "Traceback" not in server.log.read_text()


def test_a_file_that_is_cut_shorter_ends_the_connection_and_nothing_else(server: Server) -> None:
    run_id = server.write_run()
    log = server.folder / "output" / "logs" / f"run_{run_id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        file.truncate(100_000_000)  # more than the sockets' buffers hold
    url = f"{server.url}/runs/{run_id}/artifacts/log"
    with httpx.stream("GET", url, timeout=60) as answer:
        chunks = answer.iter_raw()
        next(chunks)
        os.truncate(log, 10)
        with pytest.raises(httpx.RemoteProtocolError):
            sum(map(len, chunks))
    assert server.get("/healthz").status_code == 200
    assert "Traceback" not in server.log.read_text()


def test_a_report_is_shown_and_can_run_nothing(server: Server) -> None:
    run_id = server.write_run()
    path = server.folder / "output" / "results" / f"report_{run_id}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<!doctype html><title>é</title>")
    answer = server.get(f"/runs/{run_id}/artifacts/report")
    assert answer.text == path.read_text()
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-disposition"].startswith("inline")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    listed = {file["name"]: file for file in server.run(run_id)["artifacts"]}
    assert listed["report"]["file"] == path.name
    assert all(file["about"] for file in listed.values())
