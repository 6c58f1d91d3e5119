"""The REST routes, on a real port."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from config import Config
from engine.process import started_at
from server.app import ROUTES
from server.openapi import describe

from .conftest import Server, wait_until

START = "/experiments/centralized"
GOOD = {"run_name": "a", "dataset_path": "data/images.zip"}
NOT_DESCRIBED = {"/", "/login", "/logout"}


def assert_error(answer: httpx.Response, status: int, field: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert {"error", "detail", "field"} <= set(body)
    assert body["field"] == field
    return str(body["detail"])


def test_the_description_has_exactly_the_routes() -> None:
    served = {
        (route.path.replace(":run_id}", "}"), method.lower())
        for route in ROUTES
        if isinstance(route, Route) and route.path not in NOT_DESCRIBED
        for method in (route.methods or set()) - {"HEAD"}
    }
    paths = describe(Config())["paths"]
    assert served == {(path, method) for path, methods in paths.items() for method in methods}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"", 400, None),
        (b"[1]", 400, None),
        (b'"text"', 400, None),
        (b'{"run_name": NaN}', 400, None),
        (b'{"run_name": "\\ud800"}', 400, None),
        (b"\xff\xfe\x00", 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, None),
        (b'{"run_name": ' + b"9" * 5000 + b"}", 400, None),
        (b" " * (1 << 20) + b"{}", 413, None),
    ],
)
def test_a_body_that_is_not_json(
    shared: Server, body: bytes, status: int, field: str | None
) -> None:
    assert_error(httpx.post(shared.url + START, content=body, timeout=30), status, field)


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"run_nam": "b"}, 422, "run_nam"),
        ({"run_name": None}, 422, "run_name"),
        ({"run_name": 3}, 422, "run_name"),
        ({"run_name": ""}, 422, "run_name"),
        ({"run_name": "a\nb"}, 422, "run_name"),
        ({"run_name": "x" * 201}, 422, "run_name"),
        ({"run_description": ["a"]}, 422, "run_description"),
        ({"dataset_id": 1}, 422, "dataset_path"),
        ({"dataset_path": 1}, 422, "dataset_path"),
        ({"dataset_path": "data/none.zip"}, 422, "dataset_path"),
        ({"dataset_path": "/etc/passwd"}, 403, "dataset_path"),
        ({"dataset_path": "data/../../../etc"}, 403, "dataset_path"),
        ({"dataset_path": "data/leads_out/secret"}, 403, "dataset_path"),
        ({"dataset_path": "data/a\u0000b"}, 403, "dataset_path"),
        ({"dataset_path": "data/" + "x" * 3000}, 422, "dataset_path"),
        ({"config_overrides": []}, 422, "config_overrides"),
        ({"config_overrides": {"experiment.epoch": 3}}, 422, "config_overrides.experiment.epoch"),
        ({"config_overrides": {"experiment.epochs": 0}}, 422, "config_overrides.experiment.epochs"),
        ({"config_overrides": {"experiment": {"epochs": "x"}}}, 422, None),
        ({"config_overrides": {"output.database": "/tmp/x.db"}}, 403, None),
        ({"config_overrides": {"model.weights": "/etc/passwd"}}, 403, None),
        ({"config_overrides": {"data.patients": "/etc/passwd"}}, 403, None),
        (
            {"config_overrides": {"system.validation_split": 0.6, "system.test_split": 0.6}},
            422,
            "config_overrides",
        ),
    ],
)
def test_a_run_that_cannot_be_started(
    shared: Server, change: dict[str, Any], status: int, field: str | None
) -> None:
    link = shared.folder / "data" / "leads_out"
    if not link.is_symlink():
        link.symlink_to("/")
    answer = shared.post(START, {**GOOD, **change})
    if field is None:
        section = next(iter(change["config_overrides"]))
        field = f"config_overrides.{section}"
        field += ".epochs" if section == "experiment" else ""
    detail = assert_error(answer, status, field)
    assert str(shared.folder) not in detail


def test_an_unknown_key_is_answered_with_the_nearest(shared: Server) -> None:
    answer = shared.post(START, {**GOOD, "config_overrides": {"experiment.epoch": 3}})
    assert "experiment.epochs" in answer.json()["detail"]


def test_dataset_id_of_nothing(shared: Server) -> None:
    answer = shared.post(START, {"run_name": "a", "dataset_id": 10**30})
    assert_error(answer, 404, "dataset_id")
    assert_error(shared.post(START, {"run_name": "a", "dataset_id": True}), 422, "dataset_id")


@pytest.mark.parametrize("path", ["", "/metrics", "/events", "/artifacts/log"])
@pytest.mark.parametrize("run_id", ["9999", "999999999999999999"])
def test_an_unknown_run(shared: Server, run_id: str, path: str) -> None:
    assert_error(shared.get(f"/runs/{run_id}{path}"), 404, "run_id")


@pytest.mark.parametrize("run_id", ["0x1", "-1", "1.5", "9" * 400, "%00", "1%2F..%2F2"])
def test_what_is_no_run_id_has_no_route(shared: Server, run_id: str) -> None:
    assert_error(shared.get(f"/runs/{run_id}"), 404)


@pytest.mark.parametrize("change", ["cancel", "resume"])
def test_changes_of_an_unknown_run(shared: Server, change: str) -> None:
    assert_error(shared.post(f"/runs/9999/{change}"), 404, "run_id")
    assert_error(httpx.delete(f"{shared.url}/runs/9999"), 404, "run_id")


def test_a_wrong_method_is_refused(shared: Server) -> None:
    assert_error(httpx.put(shared.url + "/runs"), 405)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "before=0", f"before={'9' * 60}", "status=lost", "limit="],
)
def test_a_wrong_query(shared: Server, query: str) -> None:
    assert_error(shared.get(f"/runs?{query}"), 422, query.partition("=")[0])


def test_runs_are_listed_filtered_and_paged(server: Server) -> None:
    ids = [
        server.write_run("failed" if n % 3 == 0 else "completed", run_name=f"Run %_{n}")
        for n in range(12)
    ]
    assert [run["run_id"] for run in server.get("/runs").json()["runs"]] == ids[::-1]
    found, before = [], ""
    while True:
        page = server.get(f"/runs?limit=5{before}").json()
        found += [run["run_id"] for run in page["runs"]]
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"
    assert found == ids[::-1]
    failed = server.get("/runs?status=failed").json()
    assert [run["run_id"] for run in failed["runs"]] == ids[::3][::-1]
    assert failed["counts"] == {"failed": 4, "completed": 8}
    both = server.get("/runs?status=failed,completed&limit=500").json()
    assert len(both["runs"]) == 12
    named = server.get("/runs", params={"name": "run %_1"}).json()["runs"]
    assert [run["run_name"] for run in named] == ["Run %_11", "Run %_10", "Run %_1"]


def test_events_and_metrics_of_one_run(server: Server) -> None:
    one, other = server.write_run(), server.write_run()
    ids = [server.write_event(one, n=n) for n in range(5)]
    server.write_event(other, n=9)
    events = server.get(f"/runs/{one}/events").json()["events"]
    assert [event["event_id"] for event in events] == ids
    assert events[0] == {"event": "warning", "event_id": ids[0], "run_id": one, "at": "now", "n": 0}
    later = server.get(f"/runs/{one}/events?after={ids[2]}").json()["events"]
    assert [event["n"] for event in later] == [3, 4]
    assert server.get(f"/runs/{one}/metrics").json() == {"metrics": []}
    assert server.get("/runs").json()["last_event_id"] == ids[-1] + 1


def test_a_run_is_deleted_with_its_files_once_it_has_ended(server: Server) -> None:
    run_id, other = server.write_run("in_progress", pid=1, pid_started_at=1.0), server.write_run()
    gone = server.folder / "output" / "checkpoints" / f"run_{other}" / "last.pt"
    stays = server.folder / "output" / "checkpoints" / f"run_{other}1" / "last.pt"
    for path in (gone, stays):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    server.write_event(other)
    unwritten = server.folder / "output" / "results" / f"unwritten_events_{other}.jsonl"
    unwritten.write_text("{}")
    assert httpx.delete(f"{server.url}/runs/{other}").status_code == 204
    assert not gone.parent.exists()
    assert not unwritten.exists()
    assert stays.exists()
    assert_error(server.get(f"/runs/{other}"), 404, "run_id")
    assert server.query(f"SELECT * FROM event WHERE run_id = {other}") == []
    # A process that does not live is found out, and its run is interrupted, which is an end.
    server.wait_for(run_id, "interrupted")
    queued = server.write_run("queued", dataset_path="nowhere")
    answer = httpx.delete(f"{server.url}/runs/{queued}")
    if answer.status_code == 409:
        assert answer.json()["status"] in ("queued", "preparing")


def test_prometheus_can_read_the_figures(server: Server) -> None:
    alive = {"pid": os.getpid(), "pid_started_at": started_at(os.getpid())}
    run_id = server.write_run("in_progress", **alive)
    with_metrics = f"INSERT INTO run_metrics (run_id, epoch, val_auroc) VALUES ({run_id}, 1, 0.75)"
    with sqlite3.connect(server.database) as database:
        database.execute(with_metrics)
    database.close()
    server.write_event(run_id)
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    label = '[a-z_]+="[^"]*"'
    sample = re.compile(rf"^[a-z_]+(\{{{label}(,{label})*\}})? -?[0-9.e+-]+$")
    lines = answer.text.splitlines()
    assert all(line.startswith("# ") or sample.match(line) for line in lines), answer.text
    assert 'pneumoscope_runs{status="in_progress"} 1' in lines
    assert f'pneumoscope_val_auroc{{run_id="{run_id}"}} 0.75' in lines
    assert "pneumoscope_events_total 1" in lines
    assert "pneumoscope_sockets 0" in lines


def test_answers_do_not_wait_for_acknowledgements(shared: Server) -> None:
    with httpx.Client(base_url=shared.url) as client:

        def are_quick() -> bool:
            times = []
            for _ in range(30):
                began = time.perf_counter()
                client.get("/runs")
                times.append(time.perf_counter() - began)
            return sorted(times)[15] < 0.03  # 0.044 with Nagle's algorithm

        wait_until(are_quick)  # not at once on a machine that does much else


def test_an_idle_server_is_light(shared: Server) -> None:
    shared.get("/runs")
    shared.get("/openapi.json")
    assert shared.memory() < 64e6


def test_the_description_is_json_that_names_no_path_of_the_machine(shared: Server) -> None:
    text = json.dumps(shared.get("/openapi.json").json())
    assert str(Path.home()) not in text
    assert str(shared.folder) not in text
