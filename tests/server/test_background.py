"""The background tasks: nothing that the database holds, and no fault of their own, ends them."""

from __future__ import annotations

import asyncio
import json
import sqlite3

import pytest

from config import ConfigManager
from server import background
from server.background import Faults, keep_running

from .conftest import SMALL, Server, wait_until


def test_a_task_that_dies_is_started_again_and_its_fault_is_over_once_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "FIRST_WAIT", 0.01)
    faults, seen = Faults("example"), []

    async def work() -> None:
        seen.append(faults.present())
        if len(seen) < 3:
            raise KeyError("no such thing")
        for _ in range(2):
            faults.end_round()
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keep_running(work, faults))
    assert seen[0] == []
    assert "KeyError" in seen[1][0]
    assert len(seen[2]) == 1  # the same fault twice is one
    assert faults.present() == []


RUBBISH = (
    ("in_progress", "{half", "no pid", "yesterday", b"\xff\xfe"),
    ("preparing", "[]", -1, 1e300, "\x00"),
    ("queued", '{"output": 3}', None, None, None),
    ("queued", None, None, None, "nowhere"),
)


def write_rubbish(server: Server) -> None:
    """What no program of ours writes: wrong types, no JSON, half characters."""
    with sqlite3.connect(server.database, timeout=30) as database:
        for status, config, pid, started, dataset in RUBBISH:
            database.execute(
                "INSERT INTO run (run_name, status, created_at, config, pid, pid_started_at, "
                "heartbeat_at, dataset_path) VALUES (?, ?, 'x', ?, ?, ?, 'never', ?)",
                ("rubbish", status, config, pid, started, dataset),
            )
        for payload in ("{half", "[1]", "NaN", '{"loss": NaN}', '{"text": "\\ud800"}', b"\xff", 3):
            database.execute(
                "INSERT INTO event (run_id, at, event, payload) VALUES (1, 'now', 'warning', ?)",
                (payload,),
            )
    database.close()


def test_rubbish_in_the_database_stops_neither_the_stream_nor_the_queue(server: Server) -> None:
    with server.socket() as stream:
        write_rubbish(server)
        config = ConfigManager.load(overrides={**SMALL, "experiment.epochs": 1}).to_dict()
        images = str(server.folder / "data" / "images.zip")
        good = server.write_run("queued", config=config, dataset_path=images)
        event_id = server.write_event(good, code="after the rubbish")
        while json.loads(stream.recv(timeout=60))["event_id"] != event_id:
            pass
    server.wait_for(good, "completed")
    statuses = {run["run_id"]: run["status"] for run in server.get("/runs").json()["runs"]}
    assert [statuses[n] for n in (1, 2, 3, 4)] == ["interrupted", "interrupted", "failed", "failed"]
    with server.socket(f"/ws?after={event_id - 1}") as again:
        assert json.loads(again.recv(timeout=60))["event_id"] == event_id
    for path in ("", "/events", "/metrics"):
        assert server.get(f"/runs/1{path}").status_code == 200
    for path in ("/metrics", "/healthz"):
        assert server.get(path).status_code == 200
    wait_until(lambda: server.get("/healthz").json()["status"] == "ok")


def test_health_is_degraded_while_a_task_fails_and_ok_again_after_it(server: Server) -> None:
    assert server.get("/healthz").json() == {
        "status": "ok",
        "tasks": {"hub": [], "supervisor": []},
    }
    change(server, "ALTER TABLE run RENAME COLUMN pid TO lost")
    wait_until(lambda: server.get("/healthz").json()["status"] == "degraded")
    assert "no such column" in server.get("/healthz").json()["tasks"]["supervisor"][0]
    change(server, "ALTER TABLE run RENAME COLUMN lost TO pid")
    wait_until(lambda: server.get("/healthz").json()["status"] == "ok")
    assert server.log.read_text().count("Traceback") <= 3  # not one for each try


def change(server: Server, statement: str) -> None:
    database = sqlite3.connect(server.database, timeout=30)
    database.execute(statement)
    database.close()
