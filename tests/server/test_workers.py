"""Runs in processes of their own: real workers, started, adopted, cancelled, killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config import ConfigManager
from engine.process import is_alive, started_at
from engine.records import spool
from engine.records.database import create_run_sync, now, update_run_sync
from engine.records.store import Store
from server import launcher
from server.launcher import Worker, find_slots
from server.settings import Settings
from server.supervisor import Supervisor

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


STILL_ENDING = """
import ctypes, os, threading, time
threading.Thread(target=lambda: (time.sleep(3), os.kill(os.getpid(), 9))).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_worker_whose_threads_still_end_is_not_yet_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its main thread has ended, so it looks like a zombie, and it has no exit code yet."""
    database = tmp_path / "runs.db"
    settings = Settings(ConfigManager.load(overrides={"output.database": str(database)}))
    run_id = create_run_sync(
        database, run_name="ending", status="queued", config=settings.config.to_dict()
    )

    worker = subprocess.Popen([sys.executable, "-c", STILL_ENDING])

    async def follow() -> tuple[str, str]:
        async with await Store.open(database) as store:
            supervisor = Supervisor(store, settings, [""])
            started = Worker(worker.pid, started_at(worker.pid), 0, worker, claimed=False)
            monkeypatch.setattr(launcher, "start", lambda *_: started)
            await supervisor.look()
            wait_until(lambda: started_at(worker.pid) is None)
            await supervisor.look()
            during = await store.get_run(run_id)
            worker.wait()
            await supervisor.look()
            return during["status"], (await store.get_run(run_id))["error"]

    status, error = asyncio.run(follow())
    assert status == "preparing"
    assert "SIGKILL" in error


def test_a_worker_that_cannot_train_fails_with_the_reason(server: Server) -> None:
    (server.folder / "data" / "empty").mkdir()
    body = {"run_name": "bad", "dataset_path": "data/empty"}
    run_id = server.post("/experiments/centralized", body).json()["run_id"]
    run = server.wait_for(run_id, "failed")
    assert "metadata.csv" in run["error"]


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


def test_a_secret_does_not_reach_the_workers(folder: Path) -> None:
    server = Server(folder, PNEUMOSCOPE_TOKEN="very-secret-token")
    try:
        headers = {"authorization": "Bearer very-secret-token"}
        body = {
            "run_name": "a",
            "dataset_path": "data/images.zip",
            "config_overrides": {**SMALL, "experiment.epochs": 500},
        }
        server.post("/experiments/centralized", body, headers=headers)
        wait_until(lambda: bool(server.query("SELECT 1 FROM run WHERE pid IS NOT NULL")))
        ((pid,),) = server.query("SELECT pid FROM run")
        assert b"very-secret-token" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert "very-secret-token" not in server.log.read_text()
    finally:
        server.end()


def fake_nvidia_smi(folder: Path, *uuids: str) -> None:
    """A command that answers the one question that the server asks, as the real one does."""
    folder.mkdir(exist_ok=True)
    fake = folder / "nvidia-smi"
    fake.write_text(f'#!/bin/sh\n[ "$1" = --query-gpu=uuid ] && echo "{" ".join(uuids)}"\n')
    fake.chmod(0o755)


@pytest.mark.parametrize(
    ("visible", "slots"),
    [
        (None, ["GPU-aa", "GPU-bb", "GPU-cc"]),
        ("2,0", ["2", "0"]),  # CUDA's own numbers, whatever order nvidia-smi has
        ("GPU-b", ["GPU-b"]),
        ("1,-1,0", ["1"]),  # CUDA reads no further than the first that is none
        ("", [""]),
        ("7", [""]),
        ("MIG-1/2/3", ["MIG-1/2/3"]),
    ],
)
def test_slots_are_the_gpus_that_cuda_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, slots: list[str]
) -> None:
    fake_nvidia_smi(tmp_path, "GPU-aa", "GPU-bb", "GPU-cc")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_slots() == slots


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU")
def test_a_slot_is_one_gpu_for_torch() -> None:
    for uuid in find_slots():
        code = "import torch; print(torch.cuda.device_count(), "
        code += "torch.cuda.get_device_properties(0).uuid)"
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        assert found.stdout.split() == ["1", uuid.removeprefix("GPU-")]


def test_each_gpu_is_a_slot(folder: Path) -> None:
    fake_nvidia_smi(folder / "bin", "GPU-aa", "GPU-bb")
    server = Server(folder, PATH=f"{folder / 'bin'}:{os.environ['PATH']}")
    try:
        runs = [server.begin(epochs=500, name=str(n)) for n in range(3)]
        seen = set()
        for run_id in runs[:2]:
            pid = server.query(f"SELECT pid FROM run WHERE run_id = {run_id}")[0][0]
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            seen |= {entry for entry in environ if entry.startswith(b"CUDA_VISIBLE_DEVICES=")}
            assert b"PNEUMOSCOPE_SHARE=2" in environ
        assert seen == {b"CUDA_VISIBLE_DEVICES=GPU-aa", b"CUDA_VISIBLE_DEVICES=GPU-bb"}
        assert server.run(runs[2])["status"] == "queued"
        for run_id in runs[::-1]:
            server.post(f"/runs/{run_id}/cancel")
        for run_id in runs:
            server.wait_for(run_id, "stopped")
    finally:
        server.end()


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
