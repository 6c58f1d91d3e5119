"""The installed command: its parts, lazily; runs in the terminal; the backup of a database."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from config import UserError
from engine import runs
from engine.records.database import create_run_sync, get_run_sync

from .conftest import ROOT


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.command", *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_and_mistakes(tmp_path: Path) -> None:
    listed = command("--help", cwd=tmp_path)
    assert listed.returncode == 0
    for name in ("train", "check", "evaluate", "predict", "export", "report", "serve", "runs"):
        assert f"\n  {name} " in listed.stdout
    assert command(cwd=tmp_path).returncode == 2
    wrong = command("trian", cwd=tmp_path)
    assert (wrong.returncode, "unknown command trian" in wrong.stderr) == (2, True)
    assert command("--version", cwd=tmp_path).stdout.startswith("pneumoscope ")
    assert "pneumoscope train" in command("train", "--help", cwd=tmp_path).stdout
    assert command("serve", "--version", cwd=tmp_path).stdout.startswith("pneumoscope ")
    unknown = command("serve", "--prot", "1", cwd=tmp_path)
    assert (unknown.returncode, "--port" in unknown.stderr) == (2, True)


def test_a_command_imports_only_its_own_part() -> None:
    check = (
        "import sys; from server import command; sys.argv = ['pneumoscope', '--help']\n"
        "try:\n    command.main()\nexcept SystemExit:\n    pass\n"
        "found = {'torch', 'starlette', 'engine.train', 'server.app'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_runs_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "runs.db"
    option = ["--set", f"output.database={database}"]
    with pytest.raises(UserError, match="there is no database"):
        runs.main(option)
    low = create_run_sync(database, run_name="low", status="completed", best_epoch=2)
    high = create_run_sync(database, run_name="high\x1b[0m", status="failed", best_epoch=1)
    with sqlite3.connect(database) as connection:
        for run_id, epoch, auroc in ((low, 2, 0.5), (high, 1, 0.75)):
            connection.execute(
                "INSERT INTO run_metrics (run_id, epoch, val_auroc) VALUES (?, ?, ?)",
                (run_id, epoch, auroc),
            )
    connection.close()
    assert runs.main([*option, "--sort", "val_auroc"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == [str(high), "failed", "1"]
    assert "0.7500" in first
    assert "\x1b" not in first
    assert second.split()[-1] == "low"
    runs.main([*option, "--status", "completed", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["run_id"] == low


def test_a_backup_is_whole_while_others_write(tmp_path: Path) -> None:
    database, target = tmp_path / "runs.db", tmp_path / "backups" / "copy.db"
    run_id = create_run_sync(database, run_name="kept")
    writer = sqlite3.connect(database, isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE run SET run_name = 'not yet'")
        option = ["--set", f"output.database={database}", "--backup", str(target)]
        assert runs.main(option) == 0
        writer.execute("ROLLBACK")
    finally:
        writer.close()
    row = get_run_sync(target, run_id)
    assert row is not None
    assert row["run_name"] == "kept"
    with pytest.raises(UserError, match="exists already"):
        runs.main(option)
    assert [path.name for path in target.parent.glob(".*.tmp")] == []
