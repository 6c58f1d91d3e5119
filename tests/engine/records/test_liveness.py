"""Whether a run is alive: in this process's reach by its pid, elsewhere by its heartbeat."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config import UserError
from engine.process import started_at
from engine.records.database import claim_run_sync, create_run_sync, get_run_sync, update_run_sync
from engine.records.liveness import SILENCE_SECONDS, is_running, this_host

ROOT = Path(__file__).parents[3]
ELSEWHERE = "other/boot/1"


def beat(seconds_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()


def row(**fields: Any) -> dict[str, Any]:
    own = {"pid": os.getpid(), "pid_started_at": started_at(os.getpid()), "host": this_host()}
    return own | {"heartbeat_at": beat(0)} | fields


@pytest.mark.parametrize(
    ("fields", "alive"),
    [
        ({"heartbeat_at": None}, True),  # the pid decides on its own host
        ({"heartbeat_at": beat(1e6)}, True),
        ({"pid_started_at": 1.0}, False),
        ({"host": ELSEWHERE, "pid_started_at": 1.0}, True),
        ({"host": ELSEWHERE, "heartbeat_at": beat(SILENCE_SECONDS + 1)}, False),
        ({"host": ELSEWHERE, "heartbeat_at": None}, False),
        ({"host": ELSEWHERE, "heartbeat_at": "yesterday"}, False),
        ({"host": ELSEWHERE, "heartbeat_at": "2026-01-01T00:00:00"}, False),  # no time zone
        ({"host": None, "heartbeat_at": None}, True),  # of a version without hosts
        ({"host": None, "pid_started_at": 1.0, "heartbeat_at": beat(1e6)}, False),
    ],
)
def test_pid_decides_on_its_host_and_heartbeat_elsewhere(
    fields: dict[str, Any], alive: bool
) -> None:
    assert is_running(row(**fields)) is alive


def test_a_run_alive_elsewhere_is_claimed_only_after_its_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    run_id = create_run_sync(path, run_name="a", status="in_progress", pid=1, pid_started_at=1.0)
    update_run_sync(path, run_id, host=ELSEWHERE, heartbeat_at=beat(1))
    with pytest.raises(UserError, match="run 1 is already being trained by process 1 on other;"):
        claim_run_sync(path, run_id, os.getpid(), started_at(os.getpid()))
    # the same pid in another container is another process
    update_run_sync(path, run_id, pid=os.getpid(), pid_started_at=started_at(os.getpid()))
    with pytest.raises(UserError, match="on other;"):
        claim_run_sync(path, run_id, os.getpid(), started_at(os.getpid()))
    update_run_sync(path, run_id, heartbeat_at=beat(SILENCE_SECONDS + 1))
    claim_run_sync(path, run_id, os.getpid(), started_at(os.getpid()))
    run = get_run_sync(path, run_id)
    assert run is not None
    assert run["host"] == this_host()
    assert is_running(run)


def test_another_pid_namespace_is_another_host(tmp_path: Path) -> None:
    unshare = [shutil.which("unshare") or "unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespace can be made here")
    path = tmp_path / "a.db"
    script = """
        import os, sys
        from pathlib import Path
        from engine.process import started_at
        from engine.records.database import create_run_sync
        pid = os.getpid()
        create_run_sync(
            Path(sys.argv[1]), run_name="a", status="in_progress", pid=pid,
            pid_started_at=started_at(pid),
        )
    """
    command = [*unshare, sys.executable, "-c", textwrap.dedent(script), str(path)]
    subprocess.run(command, cwd=ROOT, check=True)
    run = get_run_sync(path, 1)
    assert run is not None
    assert run["host"] != this_host()
    with pytest.raises(UserError, match="already being trained"):
        claim_run_sync(path, 1, os.getpid(), started_at(os.getpid()))
