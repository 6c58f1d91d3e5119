"""What the tests of whole runs share."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

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
