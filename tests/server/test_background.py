"""The background tasks: nothing that the database holds, and no fault of their own, ends them."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from server import background
from server.background import Faults, keep_running

from .conftest import Server, wait_until


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
