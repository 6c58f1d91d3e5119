"""The pixels of an entry: read by offset, never mapped, so that a damaged file is an error."""

from __future__ import annotations

import fcntl
import os
import weakref
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from config import UserError
from engine.data.cache.index import PIXELS, Stored

BLOCK = 4 << 20  # bytes that one thread verifies at a time


class CachedImages:
    """Images uint8 [N, S, S]; indexing with rows reads them.

    A map would end the process by a signal where the file is cut short; reads cost 2 us an image
    more and raise UserError. The file is open and locked (shared) as long as this object lives:
    an entry that a run reads is never evicted. Pickled as path and shape, and opened again.
    """

    def __init__(self, path: Path, count: int, size: int) -> None:
        """Raises UserError where the file cannot be opened or is too short."""
        self.shape, self.dtype, self._path = (count, size, size), np.dtype(np.uint8), path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from error
        weakref.finalize(self, os.close, self._file).atexit = False
        fcntl.flock(self._file, fcntl.LOCK_SH)
        if os.fstat(self._file).st_size < count * size * size:
            raise self._gone("it is too short")

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedImages, (self._path, self.shape[0], self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """One image [S, S] for an integer, else [K, S, S] for a slice or an array of rows."""
        if isinstance(rows, int | np.integer):
            return self._read([int(rows)])[0]
        if isinstance(rows, slice):
            return self._read(range(*rows.indices(len(self))))
        return self._read(np.asarray(rows).tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self, rows: list[int] | range) -> np.ndarray:
        count, size, _ = self.shape
        area = size * size
        images = np.empty((len(rows), size, size), np.uint8)
        for place, row in enumerate(rows):
            if not 0 <= row < count:
                raise IndexError(f"row {row} of {count}")
            try:
                got = os.preadv(self._file, [images[place]], row * area)
            except OSError as error:
                raise self._gone(error.strerror or str(error)) from error
            if got != area:
                raise self._gone("it was cut short while it was in use")
        return images

    def _gone(self, why: str) -> UserError:
        return UserError(
            f"{self._path}: the decode cache cannot be read ({why}); start or resume the run "
            "again, and the images are decoded again"
        )


def valid_rows(
    folder: Path, size: int, index: dict[int, Stored], progress: Callable[[int], None]
) -> set[int]:
    """The rows whose stored pixels have their checksum; calls `progress` with how many so far."""
    try:
        file = os.open(folder / PIXELS, os.O_RDONLY)
    except OSError:
        return set()
    area = size * size

    def verify(rows: list[int]) -> list[int]:
        first = rows[0]
        block = bytearray((rows[-1] - first + 1) * area)
        try:
            os.preadv(file, [block], first * area)
        except OSError:
            return []
        view = memoryview(block)
        starts = ((row, (row - first) * area) for row in rows)
        return [r for r, at in starts if zlib.crc32(view[at : at + area]) == index[r].checksum]

    valid: set[int] = set()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for rows in pool.map(verify, _blocks(sorted(index), max(1, BLOCK // area))):
            valid.update(rows)
            progress(len(valid))
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(file)
    return valid


def _blocks(rows: list[int], most: int) -> Iterator[list[int]]:
    """Ascending rows in groups that span at most `most` rows."""
    block: list[int] = []
    for row in rows:
        if block and row - block[0] >= most:
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def open_pixels(folder: Path, size: int, count: int, valid: set[int], replace: bool) -> int:
    """A descriptor to write `count` images by offset; the file has its full length.

    With `replace` it is a new file with the valid rows: a run may be reading the old one, and
    nothing that was handed out is changed or, where it was cut short, becomes black.
    """
    path, area = folder / PIXELS, size * size
    old = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not replace:
            os.ftruncate(old, count * area)
            return os.dup(old)
        fresh = path.with_suffix(".new")
        new = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.ftruncate(new, count * area)
            for row in valid:
                os.pwrite(new, os.pread(old, area, row * area), row * area)
            os.fsync(new)
            fresh.rename(path)
        except BaseException:
            os.close(new)
            raise
        return new
    finally:
        os.close(old)
