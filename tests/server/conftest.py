"""A real server on a real port, and what the tests do with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.types import ASGIApp
from websockets.sync.client import connect

from engine.data.phantoms import write_demo_dataset
from engine.records.database import create_run_sync
from server.__main__ import uvicorn_config

ROOT = Path(__file__).parents[2]
SMALL = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "data.image_size": 32,
    "system.batch_size": 16,
    "system.precision": "fp32",
    "system.num_workers": 0,
}
SHOTS = Path(os.environ.get("PNEUMOSCOPE_SCREENSHOTS", "screenshots"))  # not in the repository
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MILLISECONDS = 120_000  # a machine that does much else may take so long for a state
ENDED = ("completed", "stopped", "failed", "interrupted")

expect.set_options(timeout=MILLISECONDS)


class Server:
    """`python -m server` in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        command: tuple[str, ...] = (sys.executable, "-m", "server"),
        **environ: str,
    ) -> None:
        self.folder, self.arguments, self.command = folder, arguments, command
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
        self.log = folder / "server.log"
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, again on the same port, and wait until it answers."""
        command = [*self.command, "--port", str(self.port), *self.arguments]
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)", line)
        assert found, f"{line!r} {self.log.read_text()}"
        self.port = int(found.group(1))
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code < 500
        except httpx.TransportError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.folder / "output" / "pneumoscope.db"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def socket(self, path: str = "/ws", **options: Any) -> connect:
        """A context manager that gives an open socket."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", **options)

    def begin(self, epochs: int = 2, name: str = "test", **overrides: Any) -> int:
        """A small run on `data/images.zip`; its id."""
        body = {
            "run_name": name,
            "dataset_path": "data/images.zip",
            "config_overrides": {**SMALL, "experiment.epochs": epochs, **overrides},
        }
        answer = self.post("/experiments/centralized", body)
        assert answer.status_code == 202, answer.text
        return int(answer.json()["run_id"])

    def run(self, run_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/runs/{run_id}").json()
        return found

    def wait_for(self, run_id: int, *statuses: str, seconds: float = 120) -> dict[str, Any]:
        """The run once it has one of these states."""
        wait_until(
            lambda: self.run(run_id)["status"] in statuses, seconds, lambda: self.run(run_id)
        )
        return self.run(run_id)

    def write_event(self, run_id: int, event: str = "warning", **payload: Any) -> int:
        """As another process would, straight into the log; its id."""
        with sqlite3.connect(self.database, timeout=30) as database:
            cursor = database.execute(
                "INSERT INTO event (run_id, at, event, payload) VALUES (?, 'now', ?, ?)",
                (run_id, event, json.dumps(payload)),
            )
        database.close()
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def write_run(self, status: str = "completed", **fields: Any) -> int:
        """A run as another process would have left it."""
        config = {"experiment": {"epochs": 3}, "output": outputs()}
        fields = {"run_name": "written", "status": status, "config": config, **fields}
        output = {
            key: str(self.folder / value) if isinstance(value, str) else value
            for key, value in fields["config"]["output"].items()
        }
        fields["config"] = {**fields["config"], "output": output}
        return create_run_sync(self.database, **fields)

    def query(self, text: str) -> list[tuple[Any, ...]]:
        database = sqlite3.connect(self.database, timeout=30)
        try:
            return database.execute(text).fetchall()
        finally:
            database.close()

    def memory(self) -> int:
        """Resident bytes of the server's process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found.group(1)) * 1024

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> None:
        """Stop the server and whatever worker it may have left."""
        if self.process.poll() is None:
            self.stop()
        if self.database.exists():
            for (pid,) in self.query("SELECT pid FROM run WHERE status NOT IN ('completed')"):
                kill_worker(pid)


def outputs() -> dict[str, str]:
    return {
        "checkpoint_dir": "output/checkpoints",
        "results_dir": "output/results",
        "log_dir": "output/logs",
    }


def kill_worker(pid: int | None) -> None:
    """SIGKILL, if that process is a worker of a test."""
    try:
        if pid and b"engine.train" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def wait_until(
    true: Callable[[], bool], seconds: float = 60, state: Callable[[], object] = lambda: ""
) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {state()}"
        time.sleep(0.05)


@contextlib.contextmanager
def serving(app: ASGIApp, **limits: int) -> Iterator[int]:
    """The port of a server with our protocols in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn_config(app, "warning", **limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, 60)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of synthetic images."""
    path = tmp_path_factory.mktemp("images") / "images.zip"
    return write_demo_dataset(path, images=64, patients=32, size=48)


@pytest.fixture
def folder(tmp_path: Path, images: Path) -> Path:
    """A folder for a server, with data/images.zip."""
    return prepare_folder(tmp_path, images)


def prepare_folder(folder: Path, images: Path) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "images.zip").write_bytes(images.read_bytes())
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """A server of its own for a test that stops or kills it."""
    server = Server(folder)
    yield server
    server.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Server]:
    """One server for the tests of a file that only talk to it."""
    server = Server(prepare_folder(tmp_path_factory.mktemp("shared"), images))
    yield server
    server.end()
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; the tests are skipped where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may log no error: the strict policy, too, speaks there."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.set_default_timeout(MILLISECONDS)
    yield page
    page.close()
    # What the server refuses or a server that is away shows up here as well.
    away = ("status of 4", "ERR_CONNECTION", "Connection closed before")
    assert [e for e in errors if not any(words in e for words in away)] == []


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
