"""Uploads: streamed, checked on arrival, whole or not at all."""

from __future__ import annotations

import io
import re
import socket
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, SMALL, Server, wait_until


def put(server: Server, name: str, content: bytes | Iterator[bytes]) -> httpx.Response:
    return httpx.put(f"{server.url}/datasets/{name}", content=content, timeout=60)


def delete(server: Server, path: str) -> httpx.Response:
    return httpx.delete(f"{server.url}/{path}", timeout=60)


def uploads(server: Server) -> list[str]:
    return sorted(path.name for path in (server.folder / "output" / "datasets").glob("*"))


def uploads_hidden(server: Server) -> list[str]:
    return [path.name for path in (server.folder / "output" / "datasets").glob(".*")]


def zip_of(**files: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_csv", ".csv"), text)
    return content.getvalue()


def test_an_upload_is_listed_with_its_report_and_trained_on(server: Server, images: Path) -> None:
    answer = put(server, "chests", images.read_bytes())
    assert answer.status_code == 201, answer.text
    one = answer.json()
    assert one["report"]["images"] == 64
    assert one["report"]["patients"] == 32
    assert set(one["report"]["counts"]) == {"NORMAL", "PNEUMONIA"}
    assert server.get("/datasets").json() == {"datasets": [one]}
    assert server.get("/datasets/chests").json() == one
    assert server.get("/datasets/other").status_code == 404
    body = {
        "run_name": "a",
        "dataset_id": one["dataset_id"],
        "config_overrides": {**SMALL, "experiment.epochs": 1},
    }
    run_id = server.post("/experiments/centralized", body).json()["run_id"]
    server.wait_for(run_id, "completed")


def test_a_second_upload_replaces_the_first_but_not_for_its_runs(
    server: Server, images: Path
) -> None:
    first = put(server, "chests", images.read_bytes()).json()
    other = io.BytesIO(images.read_bytes())
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("note.txt", "another")
    second = put(server, "chests", other.getvalue())
    assert second.status_code == 200
    assert second.json()["dataset_id"] == first["dataset_id"]
    assert uploads(server) == [Path(second.json()["path"]).name]  # nobody had used the first
    run_id = server.write_run(dataset_path=second.json()["path"])
    put(server, "chests", images.read_bytes())
    assert len(uploads(server)) == 2
    assert delete(server, f"runs/{run_id}").status_code == 204
    assert uploads(server) == [Path(first["path"]).name]  # the last run that had the second


def test_a_data_set_is_deleted_once_no_run_waits_for_it(server: Server, images: Path) -> None:
    one = put(server, "1", images.read_bytes()).json()
    path = server.folder / "data" / "images.zip"
    demo = path.with_name("also a data set.zip")
    demo.write_bytes(images.read_bytes())
    with sqlite3.connect(server.database, timeout=30) as database:
        database.execute(
            "INSERT INTO dataset (name, path, created_at) VALUES ('demo', ?, 'now')", (str(demo),)
        )
    database.close()
    run_id = server.begin(epochs=500)
    waiting = {"run_name": "waits", "dataset_id": one["dataset_id"]}
    queued = server.post("/experiments/centralized", waiting).json()["run_id"]
    answer = delete(server, "datasets/1")
    assert answer.status_code == 409
    assert answer.json()["run_id"] == queued
    for number in (queued, run_id):
        server.post(f"/runs/{number}/cancel")
    server.wait_for(queued, "stopped")
    assert delete(server, "datasets/1").status_code == 204
    assert delete(server, "datasets/1").status_code == 404
    assert uploads(server) == []
    assert delete(server, "datasets/demo").status_code == 204
    assert demo.exists()  # it was not uploaded


def test_images_that_cannot_be_decoded_are_named_on_arrival(server: Server, images: Path) -> None:
    broken = io.BytesIO()
    with zipfile.ZipFile(images) as good, zipfile.ZipFile(broken, "w") as bad:
        for number, name in enumerate(sorted(good.namelist())):
            content = good.read(name)
            cut = name.endswith(".png") and number % 20 == 0
            bad.writestr(name, content[: len(content) // 2] if cut else content)
    answer = put(server, "broken", broken.getvalue())
    assert answer.status_code == 422, answer.text
    assert answer.json()["count"] == len(answer.json()["problems"]) == 4
    assert all("phantom_00" in problem for problem in answer.json()["problems"])
    assert uploads(server) == []
    assert put(server, "good", images.read_bytes()).status_code == 201
    # Decoded already, at the server's size: the run finds its images there.
    assert [p for p in (server.folder / "output" / "cache").glob("224px-*") if p.is_dir()]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no ZIP",
        zip_of(readme="x"),
        zip_of(metadata_csv="filename,label\na.png,NORMAL\nb.png,PNEUMONIA\n"),
        zip_of(metadata_csv="nothing,useful\n1,2\n"),
        zip_of(**{"..__..__evil.png": "x", "metadata_csv": "filename,label\n"}),
    ],
)
def test_a_broken_zip_gets_the_words_of_the_command_line(
    shared: Server, tmp_path: Path, content: bytes
) -> None:
    answer = put(shared, "broken", content)
    assert answer.status_code == 422
    path = tmp_path / "broken.zip"
    path.write_bytes(content)
    command = [sys.executable, "-m", "engine.train", "--dataset", str(path)]
    said = subprocess.run(
        command, cwd=tmp_path, env=shared.environ, capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    detail = said.stderr.removeprefix("error: ").rstrip("\n").replace(str(path), "broken.zip")
    assert answer.json()["detail"] == detail
    assert answer.json()["problems"]
    assert not uploads_hidden(shared)
    assert shared.get("/datasets/broken").status_code == 404


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "a" * 65, "é", "%2e%2e%2fx", "-x"])
def test_a_name_that_is_no_file_name(shared: Server, name: str) -> None:
    answer = put(shared, name, b"x")
    assert answer.status_code in (404, 405, 422)
    assert not uploads_hidden(shared)


def test_too_large_is_refused_declared_or_not(folder: Path) -> None:
    server = Server(folder, "--set", "data.max_unpacked_gb=0.001")
    try:
        assert put(server, "big", b"x" * 1_000_001).status_code == 413
        assert put(server, "big", iter([b"x" * 600_000] * 2)).status_code == 413
        assert uploads(server) == []
        assert not uploads_hidden(server)
    finally:
        server.end()


def test_an_upload_that_breaks_off_leaves_nothing(shared: Server) -> None:
    before = uploads(shared)
    with socket.create_connection(("127.0.0.1", shared.port)) as client:
        client.sendall(
            b"PUT /datasets/half HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n\r\n"
        )
        client.sendall(b"x" * 2_000_000)
        wait_until(lambda: bool(uploads_hidden(shared)))
    wait_until(lambda: not uploads_hidden(shared))
    assert uploads(shared) == before


def test_a_second_server_leaves_the_uploads_of_the_first_alone(
    server: Server, images: Path
) -> None:
    content = images.read_bytes()

    def body() -> Iterator[bytes]:
        yield content[:1000]
        wait_until(lambda: bool(uploads_hidden(server)))
        second = Server(server.folder)
        second.stop()
        yield content[1000:]

    assert put(server, "chests", body()).status_code == 201


def test_what_a_killed_server_left_is_removed(server: Server) -> None:
    part = server.folder / "output" / "datasets" / ".upload-abc"
    server.stop(9)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text("half")
    server.start()
    assert not part.exists()


def test_a_full_disk_is_said_and_nothing_stays(folder: Path) -> None:
    # A limit on the size of files is the nearest to a full disk that any user may set.
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, -1)); "
    limit += "from server.__main__ import main; sys.exit(main(sys.argv[1:]))"
    server = Server(folder, command=(sys.executable, "-c", limit))
    try:
        answer = put(server, "big", b"x" * 5_000_000)
        assert answer.status_code == 507
        assert answer.json()["error"] == "no_space"
        assert not uploads_hidden(server)
        assert server.get("/healthz").status_code == 200
    finally:
        server.end()


def test_an_upload_takes_no_memory(shared: Server) -> None:
    shared.get("/runs")
    before, peak = shared.memory(), 0
    chunk = b"\0" * 1_000_000

    def body() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(300):
            yield chunk
            peak = max(peak, shared.memory())

    assert put(shared, "zeros", body()).status_code == 422
    assert peak - before < 32e6


def test_an_upload_holds_nobody_up(shared: Server) -> None:
    waits = []

    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b"\0" * 1_000_000
            began = time.monotonic()
            shared.get("/healthz")
            waits.append(time.monotonic() - began)

    put(shared, "zeros", body())
    assert sorted(waits)[90] < 1


def test_the_reports_name_no_temporary_file(shared: Server) -> None:
    answer = put(shared, "broken", b"no ZIP")
    assert not re.search(r"\.upload-|/tmp|" + re.escape(str(ROOT)), answer.text)


def test_an_upload_that_cannot_be_recorded_leaves_no_file(server: Server, images: Path) -> None:
    kept = put(server, "kept", images.read_bytes())
    assert kept.status_code == 201
    files = uploads(server)
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON dataset BEGIN SELECT RAISE(ABORT, 'no'); END"
    with sqlite3.connect(server.database) as database:
        database.execute(refuse)
    database.close()
    assert put(server, "other", images.read_bytes()).status_code == 500
    assert uploads(server) == files


def test_the_report_of_an_upload_is_made_once_and_goes_with_it(
    server: Server, images: Path
) -> None:
    assert put(server, "chests", images.read_bytes()).status_code == 201
    answer = server.get("/datasets/chests/report")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "64 images of 32 patients" in answer.text
    assert "Data set chests.zip" in answer.text
    assert str(server.folder) not in answer.text
    page = next((server.folder / "output" / "datasets").glob("*.html"))
    made = page.stat().st_mtime_ns
    assert server.get("/datasets/chests/report").text == answer.text
    assert page.stat().st_mtime_ns == made
    assert delete(server, "datasets/chests").status_code == 204
    assert uploads(server) == []
    assert server.get("/datasets/chests/report").status_code == 404
