"""What the tests of whole runs share."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def query(folder: Path, text: str) -> list[tuple[Any, ...]]:
    """From the database of the runs in `folder`; empty as long as it has no tables."""
    path = folder / "output" / "pneumoscope.db"
    if not path.exists():
        return []
    database = sqlite3.connect(path, timeout=10)
    try:
        return database.execute(text).fetchall()
    except sqlite3.OperationalError:
        return []  # not made yet, or killed before they were
    finally:
        database.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of that many bytes in memory; skipped where that is not allowed."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the disk of `folder` up to `leave` bytes; the file to remove."""
    filler = folder / "filler"
    block = b"\0" * 65536
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(block)
    os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler
