"""The server under load: a thousand sockets, a large database, a 5 GB upload.

`python -m benchmarks.server [sockets] [runs] [upload] [training]`: all of them if none is named.
The server is a process of its own, the clients are in this one; both on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.lib.record import write_result
from benchmarks.lib.usage import resident_bytes
from engine.data.phantoms import write_demo_dataset
from engine.records.database import create_run_sync

SOCKETS, EVENTS, EVERY = 1000, 60, 0.25  # seconds between two events
RUNS, EPOCHS, RATE, SECONDS = 10_000, 100, 200, 15
UPLOAD = 5_000_000_000  # bytes
ROUNDS = 6  # of two epochs alone and two with listeners


class Server:
    """`python -m server` in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "server", "--port", "0", "--max-sockets", "3000"]
        root = Path(__file__).parents[1]
        environ = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert found
        self.address = found.group(0)
        self.database = folder / "output" / "pneumoscope.db"
        while True:
            try:
                httpx.get(f"http://{self.address}/healthz")
                return
            except httpx.TransportError:
                time.sleep(0.05)

    def memory(self) -> int:
        """Resident bytes."""
        return resident_bytes(self.process.pid)

    def cpu(self) -> float:
        """Seconds of processor time."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def stop(self) -> None:
        """End the server; its workers are killed by the caller."""
        self.process.terminate()
        self.process.wait()


def percentiles(values: list[float]) -> dict[str, float]:
    """Median, 99 % and largest, in milliseconds."""
    found = np.percentile(np.array(values) * 1000, [50, 99, 100])
    return dict(zip(("median_ms", "p99_ms", "max_ms"), map(float, found.round(1)), strict=True))


async def sockets(server: Server) -> dict[str, Any]:
    """Every event to every socket, and what an idle socket costs."""
    run_id = create_run_sync(server.database, run_name="sockets", status="completed", config={})
    before = server.memory()
    url = f"ws://{server.address}/ws/runs/{run_id}"
    open_ones = [
        await connect(url, compression=None, ping_interval=None).__aenter__()
        for _ in range(SOCKETS)
    ]
    await asyncio.sleep(1)
    each = (server.memory() - before) / SOCKETS
    waits: list[float] = []

    async def listen(one: ClientConnection) -> list[int]:
        seen = []
        for _ in range(EVENTS):
            event = json.loads(await one.recv())
            waits.append(time.time() - event["sent"])
            seen.append(event["n"])
        return seen

    listening = asyncio.gather(*(listen(one) for one in open_ones))
    busy = server.cpu()
    await asyncio.to_thread(write_events, server.database, run_id)
    async with asyncio.timeout(60):
        heard = await listening
    busy = server.cpu() - busy
    assert all(seen == list(range(EVENTS)) for seen in heard)
    for one in open_ones:
        await one.close()
    figures = {"sockets": SOCKETS, "events": EVENTS, "lost_or_repeated": 0, **percentiles(waits)}
    return figures | {
        "bytes_per_idle_socket": round(each),
        "server_ms_per_event": round(1000 * busy / EVENTS, 1),
    }


def write_events(database: Path, run_id: int) -> None:
    """As a worker's database sink does; each carries when it was written."""
    connection = sqlite3.connect(database, timeout=30, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")
    for n in range(EVENTS):
        figures = dict.fromkeys(("train_loss", "val_loss", "val_recall", "val_auroc"), 0.123456789)
        payload = json.dumps({"n": n, "epoch": n, "sent": time.time(), **figures})
        connection.execute(
            "INSERT INTO event (run_id, at, event, payload) VALUES (?, 'now', ?, ?)",
            (run_id, "training_metrics_update", payload),
        )
        time.sleep(EVERY)
    connection.close()


async def runs(server: Server) -> dict[str, Any]:
    """GET /runs at a steady rate on a large database, and how soon the page shows it."""
    fill(server.database)
    url = f"http://{server.address}/runs"
    waits: list[float] = []
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=64)) as client:
        await client.get(url)

        async def ask() -> None:
            began = time.perf_counter()
            answer = await client.get(url)
            waits.append(time.perf_counter() - began)
            assert answer.status_code == 200
            assert len(answer.json()["runs"]) == 50

        began = time.perf_counter()
        asking = []
        for n in range(RATE * SECONDS):
            await asyncio.sleep(max(0.0, began + n / RATE - time.perf_counter()))
            asking.append(asyncio.create_task(ask()))
        await asyncio.gather(*asking)
        took = time.perf_counter() - began
    return {
        "runs": RUNS,
        "metric_rows": RUNS * EPOCHS,
        "requests_per_second": round(RATE * SECONDS / took, 1),
        **percentiles(waits),
        "page_seconds": await asyncio.to_thread(page_seconds, server.address),
    }


def fill(database: Path) -> None:
    """RUNS completed runs with EPOCHS rows of metrics each."""
    config = json.dumps({"experiment": {"epochs": EPOCHS}})
    connection = sqlite3.connect(database, timeout=60)
    with connection:
        connection.executemany(
            "INSERT INTO run (run_name, status, created_at, config, best_epoch, dataset_path) "
            "VALUES (?, 'completed', '2026-11-01T00:00:00.000+00:00', ?, 50, '/data/images.zip')",
            ((f"run {n}", config) for n in range(RUNS)),
        )
        ids = [row[0] for row in connection.execute("SELECT run_id FROM run WHERE best_epoch")]
        connection.executemany(
            "INSERT INTO run_metrics (run_id, epoch, train_loss, val_loss, val_recall, "
            "val_specificity, val_f1, val_auroc) VALUES (?, ?, 0.5, 0.5, 0.9, 0.9, 0.9, 0.95)",
            ((run_id, epoch) for run_id in ids for epoch in range(1, EPOCHS + 1)),
        )
    connection.close()


def page_seconds(address: str) -> float | None:
    """From the address to the table of runs in headless Chromium; None where there is none."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return None
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            times = []
            for _ in range(5):
                page = browser.new_page()
                began = time.perf_counter()
                page.goto(f"http://{address}/")
                page.wait_for_selector("tbody tr:nth-child(50)")
                times.append(time.perf_counter() - began)
                page.close()
            browser.close()
            return round(statistics.median(times), 2)
    except Error:
        return None


async def upload(server: Server) -> dict[str, Any]:
    """A body made on the fly; how far the server's memory grows above its idle size."""
    before, peak, sent = server.memory(), 0, 0
    chunk = bytes(1 << 20)

    async def body() -> AsyncIterator[bytes]:
        nonlocal peak, sent
        while sent < UPLOAD:
            yield chunk
            sent += len(chunk)
            if sent % (64 << 20) == 0:
                peak = max(peak, server.memory())

    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=600) as client:
        answer = await client.put(f"http://{server.address}/datasets/zeros", content=body())
    assert answer.status_code == 422, answer.text  # zeros are no ZIP
    seconds = time.perf_counter() - began
    grown = max(peak, server.memory()) - before
    return {
        "bytes": sent,
        "grown_mb": round(grown / 1e6, 1),
        "mb_per_second": round(sent / seconds / 1e6),
    }


async def training(server: Server) -> dict[str, Any]:
    """Epochs of a real worker with and without a thousand listeners, in turns."""
    folder = server.database.parents[1]
    images = write_demo_dataset(folder / "data" / "images.zip", images=1000, patients=200, size=96)
    overrides = {
        "experiment.epochs": 1000,
        "experiment.early_stopping_patience": 1000,
        "model.weights": "none",
        "data.image_size": 64,
    }
    body = {"run_name": "t", "dataset_path": str(images), "config_overrides": overrides}
    url = f"http://{server.address}"
    async with httpx.AsyncClient(timeout=60) as client:
        run_id = (await client.post(f"{url}/experiments/centralized", json=body)).json()["run_id"]
        epochs: dict[str, list[float]] = {"alone": [], "watched": []}
        async with connect(f"ws://{server.address}/ws/runs/{run_id}?after=0") as first:
            await next_epoch(first)
            for _ in range(ROUNDS):
                epochs["alone"] += [await next_epoch(first) for _ in range(2)]
                async with Listeners(server.address, run_id):
                    await next_epoch(first)  # while they came
                    epochs["watched"] += [await next_epoch(first) for _ in range(2)]
                await next_epoch(first)
            await client.post(f"{url}/runs/{run_id}/cancel")
            while json.loads(await first.recv())["event"] != "training_stopped":
                pass
    medians = {name: statistics.median(values) for name, values in epochs.items()}
    return {
        "alone_s": [round(value, 2) for value in epochs["alone"]],
        "watched_s": [round(value, 2) for value in epochs["watched"]],
        "ratio": round(medians["watched"] / medians["alone"], 3),
    }


async def next_epoch(stream: ClientConnection) -> float:
    """The seconds of the next epoch."""
    while True:
        event = json.loads(await stream.recv())
        if event["event"] == "training_metrics_update":
            return float(event["epoch_seconds"])


class Listeners:
    """A thousand listeners in a process of their own, which costs as little as may be."""

    def __init__(self, address: str, run_id: int) -> None:
        self._command = [sys.executable, "-c", LISTENERS, address, str(run_id), str(SOCKETS)]

    async def __aenter__(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        await self._process.stdout.readline()

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()


# Bare sockets that only swallow: a listener's own work is not the server's.
LISTENERS = """
import os, select, socket, sys
host, _, port = sys.argv[1].partition(":")
head = (f"GET /ws/runs/{sys.argv[2]} HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\n"
    "Upgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n").encode()
poll, opened = select.epoll(), {}
os.nice(10)
for _ in range(int(sys.argv[3])):
    one = socket.create_connection((host, int(port)))
    one.sendall(head)
    opened[one.fileno()] = one
    poll.register(one, select.EPOLLIN)
print("open", flush=True)
while True:
    for number, _ in poll.poll():
        if not opened[number].recv(65536):
            poll.unregister(number)
"""
PARTS = {"sockets": sockets, "runs": runs, "upload": upload, "training": training}


def main() -> None:
    """Run the chosen parts, each with a server of its own, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    chosen = parser.parse_args().parts or list(PARTS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    figures = {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "data").mkdir()
            server = Server(Path(folder))
            idle = server.memory()
            try:
                found = asyncio.run(PARTS[name](server))
            finally:
                server.stop()
        figures[name] = {"idle_mb": round(idle / 1e6, 1), **found}
        print(name)
        for key, value in figures[name].items():
            print(f"  {key:24s} {value}")
    print("written to", write_result("server", {"parts": chosen}, figures))


if __name__ == "__main__":
    main()
