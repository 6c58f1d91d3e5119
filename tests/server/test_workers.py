"""Runs in processes of their own: real workers, started, adopted, cancelled, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from engine.process import started_at

from .conftest import ROOT, SMALL, Server, wait_until


def pid_of(server: Server, run_id: int) -> int:
    """The worker's process, once it trains."""
    server.wait_for(run_id, "in_progress")
    return int(server.query(f"SELECT pid FROM run WHERE run_id = {run_id}")[0][0])


def metrics_epochs(server: Server, run_id: int) -> list[int]:
    return [row["epoch"] for row in server.get(f"/runs/{run_id}/metrics").json()["metrics"]]


def test_a_run_from_its_start_to_its_files(server: Server) -> None:
    with server.socket() as stream:
        body = {
            "run_name": "first",
            "run_description": "a note",
            "dataset_path": "data/images.zip",
            "config_overrides": {**SMALL, "experiment": {"epochs": 2}},
        }
        answer = server.post("/experiments/centralized", body)
        assert answer.status_code == 202
        run_id = answer.json()["run_id"]
        assert answer.json() == {
            "run_id": run_id,
            "training_mode": "centralized",
            "status": "in_progress",
            "message": "the run has begun",
            "estimated_duration": None,
        }
        heard = []
        while not heard or heard[-1]["event"] != "training_complete":
            heard.append(json.loads(stream.recv(timeout=60)))
    names = [event["event"] for event in heard]
    assert names[0] == "training_started"
    assert names.count("training_metrics_update") == 2
    assert [event["event_id"] for event in heard] == sorted(event["event_id"] for event in heard)
    assert {event["run_id"] for event in heard} == {run_id}

    run = server.run(run_id)
    assert run["status"] == "completed"
    assert run["run_description"] == "a note"
    assert run["result"]["best_recall"] == heard[-1]["metrics"]["best_recall"]
    assert run["manifest"]["hardware"]["device"].startswith("cpu")
    assert not any(key.startswith("pid") for key in run)
    assert metrics_epochs(server, run_id) == [1, 2]
    names = {file["name"]: file["bytes"] for file in run["artifacts"]}
    assert {"checkpoint", "csv", "json", "log", "console", "scores"} <= set(names)
    checkpoint = server.get(f"/runs/{run_id}/artifacts/checkpoint")
    assert len(checkpoint.content) == names["checkpoint"]

    # The same once more has an estimate; a longer one a longer estimate; another size none.
    for change, expected in (
        ({}, 1.0),
        ({"experiment.epochs": 6}, 3.0),
        ({"data.image_size": 64}, 0),
    ):
        overrides = {**SMALL, "experiment.epochs": 2, **change}
        again = server.post("/experiments/centralized", body | {"config_overrides": overrides})
        estimate = again.json()["estimated_duration"]
        if expected:
            assert abs(estimate / run["training_time"] - expected) < 0.2
        else:
            assert estimate is None
        server.post(f"/runs/{again.json()['run_id']}/cancel")

    conflict = server.post(f"/runs/{run_id}/cancel")
    assert conflict.status_code == 409
    assert conflict.json()["status"] == "completed"
    assert server.post(f"/runs/{run_id}/resume").status_code == 409


def test_a_run_is_cancelled_gracefully_and_resumed(server: Server) -> None:
    run_id = server.begin(epochs=40)
    waiting = server.begin(epochs=2, name="waits")
    assert server.run(waiting)["status"] == "queued"
    wait_until(lambda: len(metrics_epochs(server, run_id)) >= 2)
    assert server.post(f"/runs/{waiting}/cancel").json()["status"] == "stopped"
    assert server.post(f"/runs/{waiting}/cancel").status_code == 409
    assert server.post(f"/runs/{run_id}/cancel").status_code == 202
    assert server.post(f"/runs/{run_id}/cancel").status_code in (202, 409)  # again harms nothing
    stopped = server.wait_for(run_id, "stopped")
    assert stopped["total_epochs_run"] == len(metrics_epochs(server, run_id)) < 40
    reason = server.get(f"/runs/{run_id}/events").json()["events"][-1]
    assert reason["event"] == "training_stopped"
    assert reason["reason"] == "stopped by SIGTERM"

    seen = len(metrics_epochs(server, run_id))
    assert server.post(f"/runs/{run_id}/resume").status_code == 202
    wait_until(lambda: len(metrics_epochs(server, run_id)) > seen)
    server.post(f"/runs/{run_id}/cancel")
    server.wait_for(run_id, "stopped")
    epochs = metrics_epochs(server, run_id)
    assert epochs == list(range(1, len(epochs) + 1))  # each once


def test_one_that_does_not_end_is_killed_after_the_grace_time(folder: Path) -> None:
    server = Server(folder, "--cancel-grace", "1")
    try:
        run_id = server.begin(epochs=500)
        pid = pid_of(server, run_id)
        wait_until(lambda: len(metrics_epochs(server, run_id)) >= 2)
        os.kill(pid, signal.SIGSTOP)  # hears no SIGTERM
        server.post(f"/runs/{run_id}/cancel")
        run = server.wait_for(run_id, "stopped")
        last = server.get(f"/runs/{run_id}/events").json()["events"][-1]
        assert last["reason"] == "cancelled; killed after 1 s"
        epochs = len(metrics_epochs(server, run_id))
        assert last["total_epochs_run"] == run["total_epochs_run"] == epochs >= 2
        assert last["best_epoch"] == run["best_epoch"] is not None
        assert last["metrics"]["best_recall"] is not None
        assert last["training_time"] == run["training_time"] > 0
        assert started_at(pid) is None
    finally:
        server.end()


def test_a_killed_worker_is_a_failed_run_with_its_last_output(server: Server) -> None:
    run_id, waiting = server.begin(epochs=500), server.begin(epochs=1, name="next")
    wait_until(lambda: len(metrics_epochs(server, run_id)) >= 1)
    with server.socket(f"/ws/runs/{run_id}") as stream:
        os.kill(pid_of(server, run_id), signal.SIGKILL)
        while (event := json.loads(stream.recv(timeout=60)))["event"] != "training_failed":
            pass
    assert "SIGKILL" in event["error"]
    run = server.run(run_id)
    assert run["status"] == "failed"
    assert "its last output:" in run["error"]
    assert "epoch   train loss" in run["error"]
    server.wait_for(waiting, "completed")  # the others do not notice
    assert server.post(f"/runs/{run_id}/resume").status_code == 202
    server.wait_for(run_id, "in_progress")


def test_a_worker_that_cannot_train_fails_with_the_reason(server: Server) -> None:
    (server.folder / "data" / "empty").mkdir()
    body = {"run_name": "bad", "dataset_path": "data/empty"}
    run_id = server.post("/experiments/centralized", body).json()["run_id"]
    run = server.wait_for(run_id, "failed")
    assert "metadata.csv" in run["error"]


def test_a_run_from_the_command_line_streams_and_is_cancelled_like_any_other(
    server: Server,
) -> None:
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    command = [sys.executable, "-m", "engine.train", "--dataset", "data/images.zip"]
    command += ["--epochs", "500", *(word for item in settings for word in ("--set", item))]
    with server.socket() as stream:
        worker = subprocess.Popen(
            command,
            cwd=server.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while (event := json.loads(stream.recv(timeout=60)))["event"] != "training_metrics_update":
            pass
    waiting = server.begin(epochs=1)
    assert server.run(waiting)["status"] == "queued"  # it has the only slot
    assert server.post(f"/runs/{event['run_id']}/cancel").status_code == 202
    assert worker.wait(60) == 0
    assert server.run(event["run_id"])["status"] == "stopped"
    server.wait_for(waiting, "completed")


SHORT_DEMO = "import sys, server.demo; server.demo.SHORT = 1; "
SHORT_DEMO += "from server.__main__ import main; sys.exit(main(sys.argv[1:]))"


def test_the_demo_has_a_finished_run_and_one_to_watch(tmp_path: Path) -> None:
    server = Server(tmp_path, "--demo", command=(sys.executable, "-c", SHORT_DEMO))
    try:
        server.wait_for(1, "completed", seconds=240)
        server.wait_for(2, "in_progress")
        assert server.get("/datasets").json()["datasets"][0]["report"]["images"] == 640
    finally:
        server.end()
