"""Decoding within a budget of memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from engine.data.cache.budget import MemoryBudget

ROOT = Path(__file__).parents[3]

PEAK = """
import sys
from pathlib import Path
from config.schema import Data
from engine.data import decode
from engine.data.cache import open_cache
from engine.data.source import open_source

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

before = peak()
found = open_cache(open_source(sys.argv[1], Data()), 32, Path(sys.argv[2]), 1, 0.1, workers=6)
print(peak() - before)
for scan in found.scans:
    print(scan.error)
"""


def grey_and_alpha(width: int, height: int) -> bytes:
    """A black PNG, made without holding it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(2 * width + 1)) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 4, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_decoding_threads_share_a_memory_budget(tmp_path: Path) -> None:
    large, too_large = grey_and_alpha(3000, 3000), grey_and_alpha(4000, 4000)
    rows = ["filename,label"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number in range(7):
            archive.writestr(f"images/{number}.png", too_large if number == 0 else large)
            rows.append(f"{number}.png,{number % 2}")
        archive.writestr("metadata.csv", "\n".join(rows))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "set.zip"), str(tmp_path / "cache")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, refused, *others = done.stdout.splitlines()
    assert int(peak) < 125_000_000, "six threads at once would take 300 MB"
    assert "data.decode_memory_gb" in refused
    assert others == ["None"] * 6


def test_a_budget_lets_waiting_threads_in_when_memory_is_free() -> None:
    budget, most, held = MemoryBudget(10), 0, 0
    lock = threading.Lock()

    def take() -> None:
        nonlocal most, held
        with budget.reserve(4):
            with lock:
                held += 4
                most = max(most, held)
            time.sleep(0.01)
            with lock:
                held -= 4

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 8
    with pytest.raises(MemoryError), budget.reserve(11):
        pass
