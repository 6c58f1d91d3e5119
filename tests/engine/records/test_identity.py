"""A run's number and its files belong to one run of one database."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from config import ConfigManager, UserError
from engine.records import identity
from engine.records.claim import claim_stored
from engine.records.database import create_run_sync, get_run_sync, update_run_sync
from engine.records.identity import MARKER
from engine.records.store import Store


def config_in(folder: Path, database: str = "pneumoscope.db") -> dict[str, Any]:
    overrides = {
        "output.checkpoint_dir": str(folder / "checkpoints"),
        "output.log_dir": str(folder / "logs"),
        "output.results_dir": str(folder / "results"),
        "output.cache_dir": str(folder / "cache"),
        "output.database": str(folder / database),
    }
    return ConfigManager.load(overrides=overrides, environ={}).to_dict()


def create(folder: Path, database: str = "pneumoscope.db", **fields: Any) -> int:
    config = config_in(folder, database)
    return create_run_sync(folder / database, run_name="a", config=config, **fields)


def marker(folder: Path, run_id: int) -> Any:
    return json.loads((folder / "checkpoints" / f"run_{run_id}" / MARKER).read_text())


def test_a_new_run_takes_a_number_whose_files_are_free(tmp_path: Path) -> None:
    assert create(tmp_path) == 1
    row = get_run_sync(tmp_path / "pneumoscope.db", 1)
    assert row is not None
    assert marker(tmp_path, 1)["run_uid"] == row["run_uid"]
    (tmp_path / "checkpoints" / "run_1" / "last.pt").touch()
    # The database is moved away, as the program advises for a damaged one.
    (tmp_path / "pneumoscope.db").rename(tmp_path / "old.db")
    assert create(tmp_path) == 2
    assert create(tmp_path, "other.db") == 3  # another database with the same folders
    (tmp_path / "results" / "result_4.json").touch()  # of a run that an older version made
    (tmp_path / "logs" / "run_5.log").touch()
    assert create(tmp_path) == 6
    assert create(tmp_path) == 7


KILLED = """
import os, sys
from pathlib import Path
from engine.records import database
from tests.engine.records.test_identity import create

def die(fields):
    os.kill(os.getpid(), 9)

database.insert_run = die  # after the number has been taken, before the database has the run
create(Path(sys.argv[1]))
"""


def test_a_number_taken_by_a_killed_process_is_free_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, check=False)
    assert done.returncode == -9
    assert (tmp_path / "checkpoints" / "run_1" / MARKER).exists()
    assert create(tmp_path) == 1
    row = get_run_sync(tmp_path / "pneumoscope.db", 1)
    assert row is not None
    assert marker(tmp_path, 1)["run_uid"] == row["run_uid"]
    assert create(tmp_path, "other.db") == 2


def _create_some(folder: Path, database: str, count: int) -> list[int]:
    return [create(folder, database) for _ in range(count)]


def test_of_many_runs_created_at_once_each_has_a_number_of_its_own(tmp_path: Path) -> None:
    jobs = [(tmp_path, f"{n % 2}.db", 10) for n in range(4)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = [number for numbers in pool.starmap(_create_some, jobs) for number in numbers]
    assert sorted(found) == list(range(1, 41))


async def _create_in_store(folder: Path) -> int:
    async with await Store.open(folder / "pneumoscope.db") as store, store.transaction():
        return await store.create_run(run_name="a", config=config_in(folder), status="queued")


def test_the_server_s_runs_take_free_numbers_too(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "run_1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "run_1" / "best_model.pt").touch()
    assert asyncio.run(_create_in_store(tmp_path)) == 2
    assert marker(tmp_path, 2)["run_id"] == 2


def test_a_run_that_could_not_be_recorded_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        create(tmp_path, wrong_column=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "1" in path.name] == []
    assert not (tmp_path / "checkpoints" / "run_1").exists()


def test_the_files_of_another_run_are_not_touched(tmp_path: Path) -> None:
    run_id = create(tmp_path, status="queued")
    config = ConfigManager.load(
        overrides={f"output.{k}": v for k, v in config_in(tmp_path)["output"].items()}, environ={}
    )
    update_run_sync(tmp_path / "pneumoscope.db", run_id, run_uid="another")
    with pytest.raises(UserError, match=r"run\.json belongs to another run of the number 1"):
        claim_stored(tmp_path / "pneumoscope.db", run_id, config, resume=False)
    (tmp_path / "checkpoints" / "run_1" / MARKER).unlink()
    with pytest.raises(UserError, match=r"manifest_1\.json belongs to another run"):
        claim_stored(tmp_path / "pneumoscope.db", run_id, config, resume=False)
    (tmp_path / "results" / "manifest_1.json").write_text("{}")
    with pytest.raises(UserError, match=r"has not begun, but .*manifest_1\.json exists"):
        claim_stored(tmp_path / "pneumoscope.db", run_id, config, resume=False)
    row = get_run_sync(tmp_path / "pneumoscope.db", run_id)
    assert row is not None
    assert row["status"] == "queued"


def test_the_server_s_thread_makes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def reserve(*arguments: Any) -> int:
        threads.append(threading.current_thread())
        return identity.reserve(*arguments)

    monkeypatch.setattr("engine.records.database.reserve", reserve)
    assert asyncio.run(_create_in_store(tmp_path)) == 1
    assert threads
    assert threading.main_thread() not in threads
