"""Events that reach no database go to a file; the next start writes them into the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.process import started_at
from engine.records import spool
from engine.records.database import connect, create_run_sync, get_run_sync, update_run_sync

FAILED = ("2026-01-01T00:00:01", "training_failed", {"error": "it broke", "hint": None})
WARNED = ("2026-01-01T00:00:00", "warning", {"code": "a", "message": "b"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    create_run_sync(path, run_name="a", status="in_progress")
    return path


def uid(path: Path) -> str:
    run = get_run_sync(path, 1)
    assert run is not None
    return str(run["run_uid"])


def logged(path: Path) -> list[str]:
    with connect(path) as database:
        return [row[0] for row in database.execute("SELECT event FROM event ORDER BY event_id")]


def test_kept_events_are_replayed_once(path: Path) -> None:
    spool.keep(path.parent, 1, uid(path), [WARNED])
    file = spool.keep(path.parent, 1, uid(path), [FAILED])
    text = file.read_text()
    assert spool.replay(path, path.parent) == [1]
    assert not file.exists()
    run = get_run_sync(path, 1)
    assert run is not None
    assert (run["status"], run["error"]) == ("failed", "it broke")
    file.write_text(text)  # killed between the commit and the removal
    assert spool.replay(path, path.parent) == [1]
    assert logged(path) == ["warning", "training_failed"]
    assert spool.replay(path, path.parent) == []


def test_events_of_another_databases_run_or_of_a_running_one_wait(path: Path) -> None:
    file = spool.keep(path.parent, 1, "another", [FAILED])
    assert spool.replay(path, path.parent) == []
    file.unlink()
    file = spool.keep(path.parent, 1, uid(path), [FAILED])
    update_run_sync(path, 1, pid=1, pid_started_at=started_at(1), heartbeat_at=None)
    assert spool.replay(path, path.parent) == []
    assert file.exists()
    assert logged(path) == []


@pytest.mark.parametrize("text", ["", "{half", "[1]\n", '{"run_id": 1}\n'])
def test_a_damaged_file_is_named_and_left(
    path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = path.parent / "unwritten_events_1.jsonl"
    file.write_text(text)
    assert spool.replay(path, path.parent) == []
    assert "unwritten_events_1.jsonl cannot be read" in capsys.readouterr().err
    assert file.exists()


def test_events_of_one_millisecond_are_all_replayed(path: Path) -> None:
    other = (WARNED[0], "warning", {"code": "c", "message": "d"})
    spool.keep(path.parent, 1, uid(path), [WARNED, other, FAILED])
    spool.replay(path, path.parent)
    assert logged(path) == ["warning", "warning", "training_failed"]


def test_a_file_that_cannot_be_read_stops_no_other(path: Path) -> None:
    (path.parent / "unwritten_events_0.jsonl").mkdir()  # reading it is an OSError
    spool.keep(path.parent, 1, uid(path), [FAILED])
    assert spool.replay(path, path.parent) == [1]
