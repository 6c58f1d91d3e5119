"""Memory as the benchmarks measure it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MB = 1_000_000
HOLDERS = """
import multiprocessing, os
from benchmarks.lib.usage import anonymous_bytes, peak_bytes
before = anonymous_bytes(os.getpid())
held = bytearray(os.urandom(1) * 200_000_000)
fork = multiprocessing.get_context("fork")
here, there = fork.Pipe()
def hold():
    own = bytearray(os.urandom(1) * 100_000_000)
    there.send(True)
    there.recv()
fork.Process(target=hold, daemon=True).start()
here.recv()
print(anonymous_bytes(os.getpid()) - before, peak_bytes(os.getpid()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_a_process_and_its_child_counts_shared_pages_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    anonymous, peak = map(int, done.stdout.split())
    assert 300 * MB <= anonymous < 330 * MB  # the 200 that both have once, and the child's own
    assert peak >= 200 * MB
