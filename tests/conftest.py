"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dev_data() -> Path:
    """The folder of the development data; the test is skipped where it is absent."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("PNEUMOSCOPE_DEV_DATA", default)).resolve()
    if not (folder / "chest_xray_dev.zip").exists():
        pytest.skip(f"no development data in {folder} (PNEUMOSCOPE_DEV_DATA)")
    return folder
