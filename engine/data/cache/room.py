"""Who may use the cache folder: one process prepares an entry, and no entry in use is evicted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from config import UserError
from engine.data.cache.index import PIXELS

SPARE = 64 << 20  # bytes of the disk that are left free
POLL = 0.1  # seconds between two attempts to get a lock
PATIENCE = 0.5  # seconds of waiting that are not worth a message


@contextlib.contextmanager
def preparing(path: Path, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of an entry; a killed process has lost its own.

    `while_waiting` is called 10 times a second and may raise to give up; stderr says what is
    waited for.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        began, said = time.monotonic(), False
        while not _try_lock(lock):
            if not said and time.monotonic() - began > PATIENCE:
                said = True
                _say(f"another run ({_owner(lock)}) prepares this data set; waiting for it")
            while_waiting()
            time.sleep(POLL)
        with contextlib.suppress(OSError):  # only for the message above
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def make_room(entry: Path, needed: int, max_gb: float) -> None:
    """Evict the least recently used entries that no run uses, until `needed` bytes fit.

    Raises UserError where `max_gb` or the disk has no room.
    """
    folder, key = entry.parent, entry.stem
    if needed > max_gb * 1e9:
        raise UserError(
            f"the decoded images need {needed / 1e9:.1f} GB, and data.cache_max_gb is {max_gb:g}"
            "; raise it or lower data.image_size"
        )
    others = [path for path in folder.glob("*px-*") if path.is_dir() and path.stem != key]
    sizes = {path: disk_usage(path) for path in others}
    for path in sorted(others, key=_used):
        if sum(sizes.values()) + needed <= max_gb * 1e9:
            break
        if _evict(path):
            del sizes[path]
    if sum(sizes.values()) + needed > max_gb * 1e9:
        raise UserError(
            f"the decoded images need {needed / 1e9:.2f} GB, and other runs use "
            f"{sum(sizes.values()) / 1e9:.2f} GB of the {max_gb:g} GB of data.cache_max_gb; raise "
            "it, or start when they have ended"
        )
    free = shutil.disk_usage(folder).free + disk_usage(entry)
    if needed + SPARE > free:
        raise UserError(
            f"{folder}: the decoded images need {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
            "free; make room, choose another output.cache_dir, or lower data.image_size"
        )


def disk_usage(folder: Path) -> int:
    """Bytes that an entry takes of the disk; a partial one is sparse. 0 where there is none."""
    try:
        return sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    except OSError:
        return 0


def _evict(path: Path) -> bool:
    """Remove an entry unless a process prepares or reads it."""
    held: list[int] = []
    try:
        held.append(os.open(path.parent / f"{path.stem}.lock", os.O_RDWR | os.O_CREAT, 0o644))
        if (path / PIXELS).exists():
            held.append(os.open(path / PIXELS, os.O_RDWR))  # NFS locks need a file open to write
        if not all(_try_lock(file) for file in held):
            return False
        evicted = path.with_suffix(".evicted")  # never half an entry under its own name
        if path != evicted:
            shutil.rmtree(evicted, ignore_errors=True)
            path.rename(evicted)
        shutil.rmtree(evicted)
    except OSError:
        return False  # another user's
    finally:
        for file in held:
            os.close(file)
    return True


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: int) -> str:
    text = os.pread(lock, 200, 0).decode(errors="replace").partition("\n")[0]
    return text if text.isprintable() and text else "an unknown process"


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr is closed
        print(text, file=sys.stderr, flush=True)
