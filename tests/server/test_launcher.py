"""Worker processes: which GPU they get, what they inherit, when they count as ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from config import ConfigManager
from engine.process import started_at
from engine.records.database import create_run_sync
from engine.records.store import Store
from server import launcher
from server.launcher import Worker, find_slots
from server.settings import Settings
from server.supervisor import Supervisor

from .conftest import SMALL, Server, wait_until


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
        assert seen == {b"CUDA_VISIBLE_DEVICES=GPU-aa", b"CUDA_VISIBLE_DEVICES=GPU-bb"}
        assert server.run(runs[2])["status"] == "queued"
        for run_id in runs[::-1]:
            server.post(f"/runs/{run_id}/cancel")
        for run_id in runs:
            server.wait_for(run_id, "stopped")
    finally:
        server.end()


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


def test_a_run_cancelled_before_its_claim_is_written_ends_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "runs.db"
    settings = Settings(ConfigManager.load(overrides={"output.database": str(database)}))
    run_id = create_run_sync(
        database, run_name="early", status="queued", config=settings.config.to_dict()
    )
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = Worker(worker.pid, started_at(worker.pid), 0, worker, claimed=False)
    monkeypatch.setattr(launcher, "start", lambda *_: started)

    async def cancel() -> str:
        async with await Store.open(database) as store:
            supervisor = Supervisor(store, settings, [""])
            with monkeypatch.context() as broken:

                async def locked(*_: object) -> bool:
                    raise sqlite3.OperationalError("database is locked")

                broken.setattr(store, "claim_run", locked)
                await supervisor.look()
                assert worker.poll() is None
                assert await supervisor.cancel(run_id)
            await asyncio.to_thread(worker.wait, 60)
            await supervisor.look()
            assert not supervisor.is_running(run_id)
            return (await store.get_run(run_id))["status"]

    try:
        assert asyncio.run(cancel()) == "stopped"
    finally:
        worker.kill()
        worker.wait()
