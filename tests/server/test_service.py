"""What runs beside the routes: the log's form, retention, notifications, figures, deployment."""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from config import ConfigManager, UserError
from engine.records.database import create_run_sync
from engine.records.store import Store
from server.notify import Notifier, check_url, find_address, signature
from server.retention import Retention
from server.settings import Settings

from .conftest import ROOT, Server, outputs, wait_until

TOKEN = "correct-horse-battery"
DEPLOY = ROOT / "server" / "deploy"


def settings_in(folder: Path, **fields: Any) -> Settings:
    overrides = {f"output.{key}": str(folder / value) for key, value in outputs().items()}
    overrides["output.database"] = str(folder / "runs.db")
    return Settings(ConfigManager.load(overrides=overrides, environ={}), **fields)


def test_a_log_of_json_has_a_line_for_each_failed_login(folder: Path) -> None:
    server = Server(folder, "--log-format", "json", PNEUMOSCOPE_TOKEN=TOKEN)
    try:
        server.get("/runs", headers={"authorization": "Bearer wrong"})
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        (failed,) = [line for line in lines if "wrong token" in line["message"]]
        assert (failed["level"], failed["logger"]) == ("warning", "pneumoscope")
        assert datetime.fromisoformat(failed["at"]).tzinfo is not None
    finally:
        server.end()


def test_old_runs_go_but_not_the_best_and_not_the_kept(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, keep_days=30, keep_best=1)
    now = datetime.now(UTC)
    config = settings.config.to_dict()

    def create(days: float, status: str = "completed", **fields: Any) -> int:
        at = (now - timedelta(days=days)).isoformat()
        fields = {"run_name": "a", "dataset_path": "x", "config": config, **fields}
        return create_run_sync(settings.database, status=status, completed_at=at, **fields)

    best = create(99, best_epoch=1)
    old, kept, young = create(40, best_epoch=1), create(40, tags=["keep"]), create(20)
    running = create(99, "in_progress")
    other = create(50, dataset_path="y", best_epoch=1)

    async def look() -> tuple[list[int], list[int]]:
        async with await Store.open(settings.database) as store:
            for run_id, auroc in ((best, 0.9), (old, 0.8), (other, 0.1)):
                await store.rows(
                    "INSERT INTO run_metrics (run_id, epoch, val_auroc) VALUES (?, 1, ?)",
                    (run_id, auroc),
                )
            deleted = await Retention(store, settings).look(now)
            return deleted, [row["run_id"] for row in await store.list_runs()]

    deleted, left = asyncio.run(look())
    assert deleted == [old]
    assert sorted(left) == sorted([best, kept, young, running, other])
    assert not (tmp_path / "output" / "checkpoints" / f"run_{old}").exists()


class Receiver(http.server.BaseHTTPRequestHandler):
    """Refuses the first request and takes the others."""

    seen: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.headers["x-pneumoscope-signature"], body))
        self.send_response(500 if len(self.seen) == 1 else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def receiver() -> Iterator[int]:
    Receiver.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_end_of_a_run_is_sent_signed_until_it_is_taken(tmp_path: Path, receiver: int) -> None:
    url = f"http://127.0.0.1:{receiver}/hook?a=1"
    settings = settings_in(tmp_path, notify=url, notify_secret="shared", notify_private=True)
    run_id = create_run_sync(settings.database, run_name="watched", status="completed")

    async def follow(run: bool) -> None:
        async with await Store.open(settings.database) as store:
            if run:
                await store.add_event(run_id, "then", "training_failed", {"error": "no disk"})
            task = asyncio.create_task(Notifier(store, settings, waits=(0.05,)).run())
            mark = settings.database.with_suffix(".notified")
            last = await store.last_event_id()
            await asyncio.to_thread(
                wait_until, lambda: mark.exists() and mark.read_text().strip() == str(last)
            )
            task.cancel()

    asyncio.run(follow(run=False))  # a first server begins at the end of the log
    assert Receiver.seen == []
    asyncio.run(follow(run=True))
    assert len(Receiver.seen) == 2
    for sign, body in Receiver.seen:
        assert sign == signature("shared", body)
        told = json.loads(body)
        assert (told["event"], told["run_id"], told["error"]) == ("training_failed", 1, "no disk")
        assert told["run_name"] == "watched"
    asyncio.run(follow(run=False))  # not sent again after a restart
    assert len(Receiver.seen) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "localhost"])
def test_notifications_go_to_no_private_address(host: str) -> None:
    with pytest.raises(UserError, match="private"):
        find_address(host, 80, private=False)
    assert find_address(host, 80, private=True)


@pytest.mark.parametrize("url", ["ftp://a/b", "http://", "a", "http://user:x@host/", "http://a:x/"])
def test_what_is_no_address_for_notifications(url: str) -> None:
    with pytest.raises(UserError, match="--notify"):
        check_url(url)


def test_series_of_requests_are_bounded(shared: Server) -> None:
    for n in range(30):
        shared.get(f"/runs/{n}")
        shared.get(f"/nothing/{n}")
    text = shared.get("/metrics").text
    routes = set(re.findall(r'_count\{route="([^"]*)"', text))
    assert "/runs/{run_id}" in routes
    assert "other" in routes
    assert not any(re.search(r"\d", route) for route in routes)
    (count,) = re.findall(
        r'_count\{route="/runs/\{run_id\}",method="GET",status="4xx"\} (\d+)', text
    )
    assert int(count) >= 30
    buckets = re.findall(r'route="other",method="GET",status="4xx",le="([^"]+)"\} (\d+)', text)
    values = [int(value) for _, value in buckets]
    assert values == sorted(values)
    assert buckets[-1][0] == "+Inf"
    for name in ("queue_depth", "slots", "free_slots", "disk_free_bytes", "task_faults"):
        assert re.search(rf"^pneumoscope_{name} \d+$", text, re.M), name


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on this machine")
def test_nginx_takes_its_example(tmp_path: Path) -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    text = re.sub(r"\n *ssl_certificate.*", "", text).replace("443 ssl", "127.0.0.1:18443")
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid; events {{}}\nhttp {{\n{text}\n}}\n")
    command = ["nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_takes_its_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "pneumoscope.service").read_text().replace("/opt/pneumoscope/bin/", "/bin/")
    unit = tmp_path / "pneumoscope.service"
    unit.write_text(text.replace("/bin/pneumoscope", "/bin/true"))
    command = ["systemd-analyze", "verify", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_options_of_the_deployment_exist() -> None:
    from server.__main__ import parser

    known = {option for action in parser()._actions for option in action.option_strings}
    for path in DEPLOY.iterdir():
        lines = [line for line in path.read_text().splitlines() if "pneumoscope" in line]
        lines = [line for line in lines if "serve" in line]
        assert lines, path
        for line in lines:
            assert set(re.findall(r"--[a-z-]+", line)) <= known, line
