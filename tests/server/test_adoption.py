"""Runs that another server, another host or another database has to do with."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from config import ConfigManager
from engine.process import is_alive, started_at
from engine.records import spool
from engine.records.database import now, update_run_sync

from .conftest import SMALL, Server, wait_until
from .test_workers import metrics_epochs, pid_of


def test_a_new_server_adopts_live_workers_and_interrupts_the_runs_of_dead_ones(
    server: Server,
) -> None:
    run_id = server.begin(epochs=500)
    pid = pid_of(server, run_id)
    started = started_at(pid)
    server.stop(signal.SIGKILL)
    assert is_alive(pid, started)  # the server's end is not the run's
    # Dead: its number now belongs to another process, which must be left alone.
    dead = server.write_run("in_progress", pid=os.getpid(), pid_started_at=1.0)
    config = ConfigManager.load(overrides={**SMALL, "experiment.epochs": 1})
    images = str(server.folder / "data" / "images.zip")
    queued = server.write_run("queued", dataset_path=images, config=config.to_dict())
    server.start()
    assert server.run(dead)["status"] == "interrupted"
    assert server.run(run_id)["status"] == "in_progress"
    assert server.query(f"SELECT pid FROM run WHERE run_id = {run_id}") == [(pid,)]
    time.sleep(1.5)
    assert server.run(queued)["status"] == "queued"  # the only slot is taken
    assert server.post(f"/runs/{run_id}/cancel").status_code == 202
    server.wait_for(run_id, "stopped")
    server.wait_for(queued, "completed")


def test_a_new_run_never_continues_from_the_checkpoints_of_another_database(
    server: Server,
) -> None:
    """The database was moved away, so the ids begin again; the other's files are still there."""
    lost = server.folder / "output" / "checkpoints" / "run_1"
    lost.mkdir(parents=True)
    for name in ("last.pt", "previous.pt", "best_model.pt"):
        (lost / name).write_bytes(b"of another run 1")
    run_id = server.begin(epochs=2)
    server.wait_for(run_id, "completed")
    assert metrics_epochs(server, run_id) == [1, 2]
    assert (lost / "last.pt").read_bytes() == b"of another run 1"


def test_a_run_that_lost_its_checkpoints_is_not_begun_again(server: Server) -> None:
    run_id = server.write_run("failed", started_at="2026-01-01T00:00:00.000+00:00")
    add_epoch(server, run_id)
    answer = server.post(f"/runs/{run_id}/resume")
    assert answer.status_code == 409
    assert str(Path("output", "checkpoints", f"run_{run_id}")) in answer.json()["detail"]
    assert server.run(run_id)["status"] == "failed"


def test_a_server_in_another_folder_finds_and_resumes_the_runs_of_its_database(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_id = server.begin(epochs=500)
    wait_until(lambda: len(metrics_epochs(server, run_id)) >= 2)
    server.post(f"/runs/{run_id}/cancel")
    server.wait_for(run_id, "stopped")
    server.stop()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    other = Server(elsewhere, "--set", f"output.database={server.database}")
    try:
        assert other.get(f"/runs/{run_id}/artifacts/checkpoint").status_code == 200
        seen = len(metrics_epochs(other, run_id))
        assert other.post(f"/runs/{run_id}/resume").status_code == 202
        wait_until(lambda: len(metrics_epochs(other, run_id)) > seen)
        other.post(f"/runs/{run_id}/cancel")
        other.wait_for(run_id, "stopped")
        epochs = metrics_epochs(other, run_id)
        assert epochs == list(range(1, len(epochs) + 1))
        assert not (elsewhere / "output" / "checkpoints").exists()
    finally:
        other.end()


def test_a_run_of_another_host_lives_by_its_heartbeat(server: Server) -> None:
    fields = {"host": "elsewhere/boot/1", "pid": 1, "pid_started_at": 1.0}
    run_id = server.write_run("in_progress", **fields, heartbeat_at=now())
    lost = server.write_run("in_progress", **fields, heartbeat_at="2026-01-01T00:00:00+00:00")
    server.wait_for(lost, "interrupted")
    assert server.run(run_id)["status"] == "in_progress"
    answer = server.post(f"/runs/{run_id}/cancel")
    assert answer.status_code == 409
    assert "elsewhere" in answer.json()["detail"]
    waiting = server.begin(epochs=500)  # it takes no slot here
    server.wait_for(waiting, "in_progress")
    # Paused for so long that it was given up, and alive again: not for a second process.
    update_run_sync(server.database, run_id, status="interrupted", heartbeat_at=now())
    assert server.post(f"/runs/{run_id}/resume").status_code == 409
    last = server.get(f"/runs/{lost}/events").json()["events"][-1]
    assert last["event"] == "training_interrupted"


def test_what_a_worker_could_not_write_is_recorded_before_its_end_is_judged(
    server: Server,
) -> None:
    run_id = server.write_run("in_progress", run_uid="ab", pid=os.getpid(), pid_started_at=1.0)
    payload = {"metrics": {}, "best_epoch": 1, "total_epochs_run": 3, "training_time": 9.0}
    payload |= {"early_stopped": False, "best_model_path": None}
    at = "2026-01-01T00:00:00.000+00:00"
    server.stop()
    update_run_sync(server.database, run_id, status="in_progress", heartbeat_at=at)
    spool.keep(
        server.folder / "output" / "results", run_id, "ab", [(at, "training_complete", payload)]
    )
    server.start()
    run = server.wait_for(run_id, "completed", "interrupted")
    assert (run["status"], run["total_epochs_run"]) == ("completed", 3)


def add_epoch(server: Server, run_id: int) -> None:
    """One finished epoch, in the table alone."""
    with sqlite3.connect(server.database, timeout=30) as database:
        database.execute("INSERT INTO run_metrics (run_id, epoch) VALUES (?, 1)", (run_id,))
    database.close()


def test_a_server_that_stops_leaves_its_worker_to_end_well(server: Server) -> None:
    run_id = server.begin(epochs=3)
    pid = pid_of(server, run_id)
    server.stop()
    wait_until(lambda: started_at(pid) is None)
    server.start()
    assert server.run(run_id)["status"] == "completed"
