"""A locked database, a full disk, a database that is none: answers in the one shape."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from config import ConfigManager
from engine.records.database import create_run_sync
from server import app
from server.settings import Settings

from .conftest import serving
from .test_start import start

BODY = {"run_name": "a", "dataset_path": "data/images.zip"}


@contextlib.contextmanager
def serving_in(folder: Path, images: Path) -> Iterator[httpx.Client]:
    """A client of a server whose database and outputs lie in `folder`."""
    names = ("checkpoint_dir", "log_dir", "results_dir", "cache_dir")
    overrides = {f"output.{name}": str(folder / name) for name in names}
    overrides["output.database"] = str(folder / "runs.db")
    settings = Settings(
        config=ConfigManager.load(overrides=overrides),
        data_dirs=(images.parent,),
        upload_dir=folder / "uploads",
    )
    with (
        serving(app.create_app(settings)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield client


def test_a_locked_database_is_503(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "BUSY_SECONDS", 0.2)
    with serving_in(tmp_path, images) as client:
        run_id = create_run_sync(tmp_path / "runs.db", run_name="a", status="in_progress", pid=1)
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for path in ("/experiments/centralized", f"/runs/{run_id}/cancel"):
            answer = client.post(path, json={**BODY, "dataset_path": str(images)})
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            assert set(answer.json()) == {"error", "detail", "field"}
        assert client.get("/runs").status_code == 200
        other.execute("ROLLBACK")
        other.close()
        assert client.post(f"/runs/{run_id}/cancel").status_code in (202, 409)


def test_a_full_disk_is_507(small_disk: Callable[[int], Path], images: Path) -> None:
    folder = small_disk(2_000_000)
    with serving_in(folder, images) as client:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        for _ in range(3):
            body = {**BODY, "dataset_path": str(images), "run_description": "x" * 10_000}
            answer = client.post("/experiments/centralized", json=body)
            assert answer.status_code == 507, answer.text
            assert set(answer.json()) == {"error", "detail", "field"}
        assert client.get("/runs").json()["runs"] == []
        filler.unlink()
        run_id = create_run_sync(folder / "runs.db", run_name="a", status="completed")
        assert client.delete(f"/runs/{run_id}").status_code == 204


@pytest.mark.parametrize("content", [b"no database" * 1000, None])
def test_a_database_that_cannot_be_used_is_named_at_the_start(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "runs.db"
    if content is None:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 9999")
        database.close()
    else:
        path.write_bytes(content)
    done = start("--port", "0", "--set", f"output.database={path}", folder=tmp_path)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "overrides",
    [
        {"x" * 500_000: 1},
        {"output." + "x" * 500_000: 1},
        {f"key{n}": 1 for n in range(50_000)},
        {"experiment": {f"key{n}": 1 for n in range(50_000)}},
    ],
)
def test_many_or_long_keys_are_refused_in_a_short_answer(
    tmp_path: Path, images: Path, overrides: dict[str, object]
) -> None:
    with serving_in(tmp_path, images) as client:
        body = {"run_name": "a", "dataset_path": str(images), "config_overrides": overrides}
        answer = client.post("/experiments/centralized", json=body)
        assert answer.status_code in (403, 422)
        assert len(answer.text) < 1000
        assert answer.json()["field"].startswith("config_overrides")
        assert len(client.post("/experiments/centralized", json=overrides).text) < 1000
