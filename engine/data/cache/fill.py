"""Fill an entry: copy images whose content another entry holds, decode the rest in threads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from engine.data import decode
from engine.data.archive import Reader, UnreadableFile
from engine.data.cache.budget import MemoryBudget
from engine.data.cache.index import INDEX, PIXELS, Scan, Stored, format_line, read_index

FLUSH_EVERY = 2.0  # seconds between steps that a crash cannot undo
FILES_SHARE = 0.25  # of the memory: for files as they are stored; the rest is for decoding
_T = TypeVar("_T")
Progress = Callable[[int, int], None]  # images done, images in all


class Decoder:
    """Image files of one source -> pixels and what was found; its methods are for many threads."""

    def __init__(
        self,
        reader: Reader,
        size: int,
        copies: Copies,
        memory: int,
        patient_key: bytes,
        fit: str = "squash",
    ) -> None:
        self._patient_key, self._fit = patient_key, fit
        self._reader, self._size, self._copies = reader, size, copies
        # Two budgets, always taken in this order: nobody who decodes waits for anything.
        self._files = MemoryBudget(int(memory * FILES_SHARE))
        self._pixels = MemoryBudget(memory - self._files.total)
        self.bits: int | None = None  # that the 16-bit images of the data set use

    def prepare(self, name: str) -> tuple[Scan, np.ndarray | None]:
        """Scan and pixels uint8 [S, S] of one image, or a scan with its error and None."""
        content = ""
        try:
            with contextlib.ExitStack() as reserved:
                data = self._read(name, reserved)
                content = hashlib.sha256(data).hexdigest()
                copy = self._copies.of(content, self.bits)
                if copy is not None:
                    return copy
                return self._decode(data, name, content, self._reserve_pixels(reserved))
        except (UnreadableFile, decode.UnreadableImage) as error:
            return Scan(content, content or name, 0, 0, 0, "", str(error)), None

    def depth(self, name: str) -> decode.Depth | None:
        """How one image is scaled on its own; None where it is unreadable or its file decides."""
        try:
            with contextlib.ExitStack() as reserved:
                data = self._read(name, reserved)
                return decode.decode(data, name, reserve=self._reserve_pixels(reserved)).depth
        except (UnreadableFile, decode.UnreadableImage):
            return None

    def _read(self, name: str, reserved: contextlib.ExitStack) -> bytes:
        self._reserve(reserved, self._files, self._reader.state(name)[0], "its file has")
        return self._reader.read(name)

    def _decode(
        self, data: bytes, name: str, content: str, reserve: Callable[[int], None]
    ) -> tuple[Scan, np.ndarray]:
        """A function of its own: the decoded image is freed before its reservation ends."""
        image = decode.decode(
            data,
            name,
            at_least=self._size,
            reserve=reserve,
            bits=self.bits,
            patient_key=self._patient_key,
        )
        return _scan(image, content), decode.resize(image.pixels, self._size, self._fit)

    def _reserve_pixels(self, reserved: contextlib.ExitStack) -> Callable[[int], None]:
        return lambda needed: self._reserve(reserved, self._pixels, needed, "decoding it takes")

    def _reserve(
        self, reserved: contextlib.ExitStack, budget: MemoryBudget, needed: int, what: str
    ) -> None:
        try:
            reserved.enter_context(budget.reserve(needed))
        except MemoryError:
            raise decode.UnreadableImage(
                f"{what} {needed / 1e6:.0f} MB, and data.decode_memory_gb leaves "
                f"{budget.total / 1e6:.0f} MB for that; raise it if you trust the file"
            ) from None


def _scan(image: decode.Decoded, content: str) -> Scan:
    digest = hashlib.blake2b(image.pixels.data, digest_size=16, person=b"pixels")
    digest.update(f"{image.width}x{image.height}:{image.pixels.shape}".encode())
    phash = decode.perceptual_hash(image.pixels)
    bits, clipped = (image.depth.bits, image.depth.clipped) if image.depth else (None, 0.0)
    size = (image.width, image.height)
    return Scan(
        content, digest.hexdigest(), phash, *size, image.mode, None, bits, clipped, image.facts
    )


class Copies:
    """Images that other entries hold already, by the hash of their file."""

    def __init__(self, folder: Path, entries: str, size: int) -> None:
        """`entries` is the pattern of the names of entries with the same preprocessing."""
        self._size = size
        self._where: dict[str, tuple[Path, int, Stored]] = {}
        for entry in folder.glob(entries):
            for row, stored in read_index(entry / INDEX).items():
                self._where[stored.scan.content] = (entry / PIXELS, row, stored)

    def of(self, content: str, bits: int | None) -> tuple[Scan, np.ndarray] | None:
        """Scan and pixels uint8 [S, S] of a file with this SHA-256, where they are undamaged.

        `bits` is what this data set uses: an image that another one scaled otherwise is no copy.
        """
        if content not in self._where:
            return None
        path, row, stored = self._where[content]
        if stored.scan.bits not in (None, bits):
            return None
        area = self._size**2
        try:
            grey = np.fromfile(path, np.uint8, area, offset=row * area)
        except OSError:
            return None  # evicted meanwhile
        if grey.size != area or zlib.crc32(grey.data) != stored.checksum:
            return None
        return stored.scan, grey.reshape(self._size, self._size)


def fill(
    folder: Path,
    pixels: int,
    names: dict[int, str],
    decoder: Decoder,
    workers: int | None,
    progress: Callable[[int], None],
) -> dict[int, Scan]:
    """Prepare the rows `names` of an entry; what was found for each.

    `pixels` is the open pixel file. `progress` is called with how many are done. An image gets a
    line in the index when its pixels are on the disk; an unreadable one gets none. Raises OSError.
    """
    found: dict[int, Scan] = {}

    def prepare(row: int) -> tuple[int, Scan, int | None]:
        scan, grey = decoder.prepare(names[row])
        if grey is None:
            return row, scan, None
        _write(pixels, grey.tobytes(), row * grey.size)
        return row, scan, zlib.crc32(grey.data)

    with _open_to_append(folder / INDEX) as index:
        flushed, waiting = time.monotonic(), list[str]()
        for row, scan, checksum in _in_threads(prepare, list(names), workers):
            found[row] = scan
            if checksum is not None:
                waiting.append(format_line(row, Stored(scan, checksum)))
            if time.monotonic() - flushed > FLUSH_EVERY:
                _commit(pixels, index, waiting)
                flushed = time.monotonic()
            progress(len(found))
        _commit(pixels, index, waiting)
    return found


def _open_to_append(path: Path) -> Any:
    """The index, open for text; a last line that a crash has cut short is ended."""
    with path.open("ab+") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")
    return path.open("a", encoding="ascii")


def _write(file: int, data: bytes, offset: int) -> None:
    """All of it, by offset and not through a map: a full disk is then an error and no signal."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _commit(pixels: int, index: Any, waiting: list[str]) -> None:
    """First the pixels, then the lines that say they are there."""
    os.fsync(pixels)
    index.writelines(waiting)
    index.flush()
    os.fsync(index.fileno())
    waiting.clear()


def _in_threads(work: Callable[[int], _T], rows: list[int], workers: int | None) -> Iterator[_T]:
    """Results as they come, with a few in flight per thread: memory stays bounded."""
    count = workers or os.cpu_count() or 1
    pending: set[Future[_T]] = set()
    with ThreadPoolExecutor(count) as pool:
        try:
            for row in rows:
                pending.add(pool.submit(work, row))
                if len(pending) >= 4 * count:
                    ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ready)
            while pending:
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
        finally:
            for future in pending:
                future.cancel()
