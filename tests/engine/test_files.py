"""Files are written completely or not at all, and a full disk is waited for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from engine.files import insist, replacing, write_text

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_stop_ends_the_wait_for_a_full_disk() -> None:
    patience = [60.0]
    seen: list[OSError] = []

    def write() -> None:
        with FULL.open("wb", buffering=0) as disk:
            disk.write(b"x")

    threading.Timer(0.2, lambda: patience.__setitem__(0, 0.5)).start()
    began = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        insist(write, lambda: patience[0], seen.append)
    assert time.monotonic() - began < 30
    assert len(seen) == 1


def test_what_fails_while_it_is_written_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    write_text(path, "old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]
