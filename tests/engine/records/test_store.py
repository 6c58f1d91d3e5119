"""The database under several processes, old versions, damage and kills."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from config import UserError
from engine.process import is_alive, started_at
from engine.records import migrations
from engine.records.database import (
    claim_run_sync,
    connect,
    create_run_sync,
    get_run_sync,
    update_run_sync,
)
from engine.records.log import METRIC_COLUMNS
from engine.records.store import Store

ROOT = Path(__file__).parents[3]
EPOCH = "training_metrics_update"


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def row(epoch: int, value: float = 0.5) -> dict[str, Any]:
    return {**dict.fromkeys(METRIC_COLUMNS, value), "epoch": epoch, "is_best": False}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pneumoscope.db"


def test_a_run_is_read_back_as_it_was_written(path: Path) -> None:
    run_id = create_run_sync(path, run_name="ü", config={"a": [1, None]}, status="queued")
    update_run_sync(path, run_id, manifest={"b": 2}, best_epoch=3)
    found = get_run_sync(path, run_id)
    assert found is not None
    assert (found["run_name"], found["config"], found["manifest"]) == (
        "ü",
        {"a": [1, None]},
        {"b": 2},
    )
    assert (found["training_mode"], found["best_epoch"]) == ("centralized", 3)
    assert get_run_sync(path, 99) is None


def test_the_log_has_no_gap_and_no_repeat(path: Path) -> None:
    async def use() -> None:
        async with await Store.open(path) as store:
            run_id = await store.create_run(run_name="a")
            names = ("training_progress", "training_progress", EPOCH, "training_progress")
            ids = [
                await store.add_event(run_id, "now", name, {"epoch": 1, "step": n})
                for n, name in enumerate(names)
            ]
            assert ids == sorted(set(ids))  # type: ignore[type-var]
            events = await store.events_after(0, run_id)
            assert [event["event"] for event in events] == [EPOCH, "training_progress"]
            seen: list[int] = []
            while page := await store.events_after(seen[-1] if seen else 0, limit=1):
                seen += [event["event_id"] for event in page]
            assert seen == [event["event_id"] for event in events]

    asyncio.run(use())


def test_an_epoch_has_one_row(path: Path) -> None:
    async def use() -> None:
        async with await Store.open(path) as store:
            run_id = await store.create_run(run_name="a")
            for value in (0.1, 0.2):
                await store.record(run_id, "now", EPOCH, row(1, value))
            assert [found["val_recall"] for found in await store.metrics(run_id)] == [0.2]
            await store.delete_run(run_id, ["queued"])
            assert await store.metrics(run_id) == []

    asyncio.run(use())


@pytest.mark.parametrize("version", range(len(migrations.MIGRATIONS)))
def test_every_earlier_version_is_brought_forward(path: Path, version: int) -> None:
    with sqlite3.connect(path) as database:
        for script in migrations.MIGRATIONS[:version]:
            database.executescript(script)
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    with connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone()[0] == len(migrations.MIGRATIONS)
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert database.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_newer_version_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(UserError, match=r"pneumoscope\.db.*newer"):
        create_run_sync(path, run_name="a")


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(UserError, match=r"pneumoscope\.db is damaged"):
        create_run_sync(path, run_name="a")
    assert path.read_bytes() == b"rubbish" * 1000


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from engine.records.database import create_run_sync
    from engine.records.log import METRIC_COLUMNS
    from engine.records.store import Store

    async def write():
        run_id = create_run_sync(Path(sys.argv[1]), run_name="writer")
        async with await Store.open(Path(sys.argv[1])) as store:
            for n in range(int(sys.argv[2])):
                row = dict.fromkeys(METRIC_COLUMNS, 0.5) | {"epoch": n, "is_best": False}
                await store.record(run_id, "now", "training_metrics_update", row)
        print("done")
    asyncio.run(write())
"""


def test_five_processes_write_at_once(path: Path) -> None:
    writers = [start(WRITER, path, 200) for _ in range(5)]
    assert [writer.communicate(timeout=120)[0] for writer in writers] == ["done\n"] * 5
    with connect(path) as database:
        assert database.execute("SELECT count(*) FROM event").fetchone()[0] == 1000
        assert database.execute("SELECT count(*) FROM run_metrics").fetchone()[0] == 1000


def test_a_killed_writer_leaves_log_and_metrics_that_agree(path: Path) -> None:
    for wait in (0.0, 0.03, 0.1):
        writer = start(WRITER, path, 100_000)
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait + 0.3)
        writer.kill()
        writer.communicate()
        with connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            events = database.execute("SELECT count(*) FROM event").fetchone()[0]
            rows = database.execute("SELECT count(*) FROM run_metrics").fetchone()[0]
            assert events == rows


def test_a_connection_left_behind_by_an_error_does_not_hang_the_exit(path: Path) -> None:
    script = """
        import asyncio, sys
        from pathlib import Path
        from engine.records.store import Store

        async def use():
            async with await Store.open(Path(sys.argv[1])) as store:
                raise RuntimeError("in the middle")
        try:
            asyncio.run(use())
        except RuntimeError:
            print("over")
    """
    process = start(script, path)
    assert process.communicate(timeout=20)[0] == "over\n"


CLAIM = """
    import os, sys, time
    from pathlib import Path
    from config import UserError
    from engine.process import started_at
    from engine.records.database import claim_run_sync

    try:
        claim_run_sync(Path(sys.argv[1]), 1, os.getpid(), started_at(os.getpid()))
    except UserError as error:
        print(error)
    else:
        print("mine", flush=True)
        time.sleep(2)
"""


def test_one_of_many_gets_a_run_and_the_next_after_its_death(path: Path) -> None:
    create_run_sync(path, run_name="a", status="queued")
    printed = [
        process.communicate(timeout=60)[0] for process in [start(CLAIM, path) for _ in range(4)]
    ]
    assert sum(text == "mine\n" for text in printed) == 1
    assert sum("already being trained by process" in text for text in printed) == 3
    claim_run_sync(path, 1, os.getpid(), started_at(os.getpid()))  # the winner has ended
    update_run_sync(path, 1, status="completed")
    with pytest.raises(UserError, match="completed"):
        claim_run_sync(path, 1, os.getpid(), started_at(os.getpid()))
    with pytest.raises(UserError, match="no run 9"):
        claim_run_sync(path, 9, os.getpid(), None)


def test_a_process_is_known_by_number_and_start() -> None:
    process = start("import time; time.sleep(60)")
    began = started_at(process.pid)
    assert is_alive(process.pid, began)
    assert began is not None
    assert not is_alive(process.pid, began + 1)
    process.kill()
    deadline = time.monotonic() + 10
    while is_alive(process.pid, began) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(process.pid, began)  # not waited for yet: a zombie is not alive
    process.communicate()
    assert started_at(process.pid) is None


def test_damaged_pages_are_found_before_a_run_begins(path: Path) -> None:
    run_id = create_run_sync(path, run_name="a")
    with connect(path) as database:
        database.executemany(
            "INSERT INTO event (run_id, at, event, payload) VALUES (?, 'now', 'warning', ?)",
            ((run_id, "x" * 200) for _ in range(1000)),
        )
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xa5" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"pneumoscope\.db is damaged"):
        create_run_sync(path, run_name="b")
    with pytest.raises(UserError, match=r"pneumoscope\.db is damaged"):
        asyncio.run(Store.open(path))


def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE run (theirs)")
    database.close()
    with pytest.raises(UserError, match="another program"):
        create_run_sync(path, run_name="a")


def test_a_place_that_takes_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "a.db", tmp_path / "file" / "b" / "a.db", tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            create_run_sync(place, run_name="a")


def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    script = """
        import os, sys
        from pathlib import Path
        from config import UserError
        from engine.records.database import create_run_sync

        os.chdir(sys.argv[1])  # relative from here on: another user may not pass above
        if os.geteuid() == 0:
            os.seteuid(65534)  # root may write everywhere
        try:
            create_run_sync(Path("a.db"), run_name="a")
        except UserError as error:
            print(error)
    """
    tmp_path.chmod(0o555)
    said = start(script, tmp_path).communicate(timeout=20)[0]
    tmp_path.chmod(0o755)
    assert "a.db cannot be written" in said


def test_a_run_is_claimed_by_one_of_many_connections(path: Path) -> None:
    script = """
        import asyncio, os, sys
        from pathlib import Path
        from engine.records.store import Store

        async def claim():
            async with await Store.open(Path(sys.argv[1])) as store:
                print(await store.claim_run(1, os.getpid(), 1.0, ("queued",)))
        asyncio.run(claim())
    """
    create_run_sync(path, run_name="a", status="queued")
    claims = [start(script, path) for _ in range(5)]
    printed = sorted(claim.communicate(timeout=60)[0] for claim in claims)
    assert printed == ["False\n"] * 4 + ["True\n"]


def test_runs_are_listed_newest_first_by_page_and_by_status(path: Path) -> None:
    async def use() -> None:
        async with await Store.open(path) as store:
            for number in range(5):
                status = "failed" if number % 2 else "completed"
                await store.create_run(run_name=f"run {number}", status=status)
            first = await store.list_runs(limit=2)
            rest = await store.list_runs(limit=9, before=first[-1]["run_id"])
            assert [run["run_id"] for run in first + rest] == [5, 4, 3, 2, 1]
            assert [run["run_id"] for run in await store.list_runs(statuses=["failed"])] == [4, 2]
            assert await store.count_runs() == {"completed": 3, "failed": 2}

    asyncio.run(use())


def test_a_data_set_is_replaced_by_one_of_the_same_name(path: Path) -> None:
    async def use() -> None:
        async with await Store.open(path) as store:
            await store.put_dataset("a", "a.zip", None, {"images": 1})
            await store.put_dataset("b", "b.zip", None, {"images": 2})
            await store.put_dataset("a", "c.zip", "mark", {"images": 3})
            found = await store.get_dataset("a")
            assert found is not None
            assert (found["path"], found["fingerprint"]) == ("c.zip", "mark")
            assert found["report"] == {"images": 3}
            assert {row["name"] for row in await store.list_datasets()} == {"a", "b"}
            assert await store.get_dataset("c") is None

    asyncio.run(use())


def test_the_data_version_changes_when_another_connection_has_written(path: Path) -> None:
    async def use() -> None:
        async with await Store.open(path) as store:
            before = await store.data_version()
            assert await store.data_version() == before
            create_run_sync(path, run_name="a")
            assert await store.data_version() != before

    asyncio.run(use())
