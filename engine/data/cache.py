"""Decode once: every image of a data set as one uint8 memory map, kept between runs.

An entry is a folder named by the images and the preprocessing: `images.u8` [N, S, S] and
`images.jsonl`, one line a image. It is filled under a lock in a `.partial` folder, which a later
start takes up, and gets its name when it is whole: with unreadable images it stays partial, and
they are tried again. Images that another entry holds are copied.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import UserError
from engine.data import decode
from engine.data.archive import Reader, UnreadableFile
from engine.data.source import Source
from engine.files import sync_folder

PREPROCESSING = "1"  # raise it where a image would be stored with other pixels than before
FLUSH_EVERY = 2.0  # seconds between steps that a crash cannot undo
SPARE = 64 << 20  # bytes of the disk that are left free
Progress = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True, slots=True)
class Scan:
    """What preparing one image has found."""

    content: str  # SHA-256 of the file
    pixels: str  # hash of the decoded grey pixels and their shape: equal images are equal here
    phash: int  # perceptual hash, 256 bits
    width: int
    height: int
    mode: str
    error: str | None  # why it is unreadable


@dataclass(frozen=True, slots=True)
class _CachedImage:
    """One line of an entry's index."""

    name: str
    size: int
    stamp: int  # CRC in a ZIP, time of change in a folder
    scan: Scan


def open_cache(
    source: Source,
    image_size: int,
    folder: Path,
    max_gb: float,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, list[Scan]]:
    """Every record's image, uint8 [N, S, S] on disk, and its Scan; decodes what is not there yet.

    The rows of unreadable images are zero. Decoding runs in threads: the codecs release the
    interpreter. Raises UserError where the disk or `max_gb` has no room.
    """
    names = [record.name for record in source.records]
    with source.reader() as reader:
        states = [reader.state(name) for name in names]
        key = _key(names, states, image_size)
        entry = folder / key
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{key}.lock"):
            if not entry.exists():
                _make_room(folder, key, len(names) * image_size**2, max_gb)
                entry = _fill(entry, reader, names, states, image_size, workers, progress)
            os.utime(entry)  # the least recently used entry goes first
            index = _read_index(entry / "images.jsonl")
    images = np.memmap(
        entry / "images.u8", np.uint8, "r", shape=(len(names), image_size, image_size)
    )
    return images, [index[row].scan for row in range(len(names))]


def _key(names: list[str], states: list[tuple[int, int]], image_size: int) -> str:
    text = json.dumps([PREPROCESSING, image_size, names, states])
    return f"{image_size}px-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time prepares an entry; a killed one's lock is gone with it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(
    entry: Path,
    reader: Reader,
    names: list[str],
    states: list[tuple[int, int]],
    size: int,
    workers: int | None,
    progress: Progress | None,
) -> Path:
    """Make an entry: take up a partial one, copy what others hold, decode the rest; its folder."""
    partial = entry.with_name(entry.name + ".partial")
    partial.mkdir(exist_ok=True)
    index = partial / "images.jsonl"
    found = _read_index(index) if index.exists() else {}
    done = {row: image for row, image in found.items() if image.scan.error is None}
    copies = _Copies(entry.parent, size)
    # Written by offset, not through a map: a full disk is then an error and not a signal.
    pixels = os.open(partial / "images.u8", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(pixels, len(names) * size * size)
        with index.open("w", encoding="utf-8") as log:
            log.writelines(_line(row, image) for row, image in done.items())
            todo = [row for row in range(len(names)) if row not in done]

            def prepare(row: int) -> str:
                image, grey = _prepare(reader, names[row], states[row], size, copies)
                if grey is not None:
                    os.pwrite(pixels, grey.tobytes(), row * size * size)
                return _line(row, image)

            flushed, waiting = time.monotonic(), list[str]()
            for count, line in enumerate(_in_threads(prepare, todo, workers), len(done) + 1):
                waiting.append(line)
                if time.monotonic() - flushed > FLUSH_EVERY:
                    _commit(pixels, log, waiting)
                    flushed = time.monotonic()
                if progress is not None:
                    progress(count, len(names))
            _commit(pixels, log, waiting)
    except OSError as error:
        raise UserError(
            f"{partial}: the decode cache cannot be written ({error.strerror or error}); make room "
            "or choose another output.cache_dir"
        ) from error
    finally:
        os.close(pixels)
    if any(image.scan.error for image in _read_index(index).values()):
        return partial
    partial.rename(entry)
    sync_folder(entry.parent)
    return entry


def _commit(pixels: int, log: Any, waiting: list[str]) -> None:
    """First the pixels, then the lines that say they are there."""
    os.fsync(pixels)
    log.writelines(waiting)
    log.flush()
    os.fsync(log.fileno())
    waiting.clear()


def _in_threads(work: Callable[[int], str], rows: list[int], workers: int | None) -> Iterator[str]:
    """Results as they come, with a few in flight per thread: memory stays bounded."""
    count = workers or os.cpu_count() or 1
    pending: set[Future[str]] = set()
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


def _prepare(
    reader: Reader, name: str, state: tuple[int, int], size: int, copies: _Copies
) -> tuple[_CachedImage, np.ndarray | None]:
    """Scan and pixels uint8 [S, S] of one image, or a scan with its error."""
    known = copies.by_state(name, state)
    if known is not None:
        return known
    content = ""
    try:
        data = reader.read(name)
        content = hashlib.sha256(data).hexdigest()
        known = copies.by_content(content, name, state)
        if known is not None:
            return known
        image = decode.decode(data, name, at_least=size)
    except (UnreadableFile, decode.UnreadableImage) as error:
        return _CachedImage(
            name, *state, Scan(content, content or name, 0, 0, 0, "", str(error))
        ), None
    grey = decode.resize(image.pixels, size)
    shape = f"{image.width}x{image.height}:{image.pixels.shape}".encode()
    digest = hashlib.blake2b(image.pixels.tobytes(), digest_size=16, person=b"pixels")
    digest.update(shape)
    phash = decode.perceptual_hash(image.pixels)
    scan = Scan(content, digest.hexdigest(), phash, image.width, image.height, image.mode, None)
    return _CachedImage(name, *state, scan), grey


class _Copies:
    """Images that other entries of the same size hold already."""

    def __init__(self, folder: Path, size: int) -> None:
        self._size = size
        self._where: dict[tuple[str, int, int] | str, tuple[Path, int, _CachedImage]] = {}
        for index in folder.glob(f"{size}px-*/images.jsonl"):
            with contextlib.suppress(OSError):  # evicted meanwhile
                for row, image in _rows(index):
                    place = (index.parent / "images.u8", row, image)
                    self._where[image.name, image.size, image.stamp] = place
                    self._where[image.scan.content] = place

    def by_state(self, name: str, state: tuple[int, int]) -> tuple[_CachedImage, np.ndarray] | None:
        """By name, size and stamp: without reading the image."""
        return self._copy(self._where.get((name, *state)), name, state)

    def by_content(
        self, content: str, name: str, state: tuple[int, int]
    ) -> tuple[_CachedImage, np.ndarray] | None:
        """By the hash of the file."""
        return self._copy(self._where.get(content), name, state)

    def _copy(
        self, place: tuple[Path, int, _CachedImage] | None, name: str, state: tuple[int, int]
    ) -> tuple[_CachedImage, np.ndarray] | None:
        if place is None or place[2].scan.error is not None:
            return None
        path, row, image = place
        area = self._size**2
        try:
            grey = np.fromfile(path, np.uint8, area, offset=row * area)
        except OSError:
            return None  # evicted meanwhile
        if grey.size != area:
            return None
        return dataclasses.replace(image, name=name, size=state[0], stamp=state[1]), grey


def _make_room(folder: Path, key: str, needed: int, max_gb: float) -> None:
    """Evict the least recently used entries; a run that still maps one keeps its pages."""
    if needed > max_gb * 1e9:
        raise UserError(
            f"the decoded images need {needed / 1e9:.1f} GB, and data.cache_max_gb is {max_gb:g}"
            "; raise it or lower data.image_size"
        )
    others = [path for path in folder.glob("*px-*") if path.is_dir() and path.stem != key]
    sizes = {path: _bytes(path) for path in others}
    for path in sorted(others, key=_used):
        if sum(sizes.values()) + needed <= max_gb * 1e9:
            break
        if path.suffix == ".partial" and _is_locked(folder / f"{path.stem}.lock"):
            continue
        shutil.rmtree(path, ignore_errors=True)
        del sizes[path]
    partial = folder / f"{key}.partial"
    free = shutil.disk_usage(folder).free + (_bytes(partial) if partial.exists() else 0)
    if needed + SPARE > free:
        raise UserError(
            f"{folder}: the decoded images need {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
            "free; make room, choose another output.cache_dir, or lower data.image_size"
        )


def _is_locked(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _bytes(folder: Path) -> int:
    """What an entry takes of the disk; a partial one is sparse."""
    try:
        return sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    except OSError:
        return 0


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _line(row: int, image: _CachedImage) -> str:
    return json.dumps([row, dataclasses.asdict(image)], ensure_ascii=False) + "\n"


def _read_index(path: Path) -> dict[int, _CachedImage]:
    return dict(_rows(path))


def _rows(path: Path) -> Iterator[tuple[int, _CachedImage]]:
    """Rows of the pixel file with their images; a last half line is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            row, fields = json.loads(line)
            yield row, _CachedImage(**{**fields, "scan": Scan(**fields["scan"])})
