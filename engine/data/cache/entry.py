"""Open an entry of the decode cache: verify what is there, prepare what is not."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from config import UserError
from engine.data.bits import bits_in_use, bits_warning
from engine.data.cache.fill import Copies, Decoder, Progress, fill
from engine.data.cache.index import INDEX, PIXELS, Scan, read_index
from engine.data.cache.pixels import CachedImages, open_pixels, valid_rows
from engine.data.cache.room import make_room, preparing
from engine.data.headers import patient_key
from engine.data.source import Source
from engine.files import sync_folder

# Raise it where an image would be stored with other pixels than before, or another kind of line.
PREPROCESSING = "4"
TICK = 0.05  # seconds: two changes of a file within a tick of the clock have the same times


@dataclass(frozen=True)
class Opened:
    """The images of a source, as `Source.records` has them."""

    images: CachedImages  # uint8 [N, S, S]; zeros for unreadable ones
    scans: list[Scan]  # N
    warnings: list[tuple[str, str]] = field(default_factory=list)  # (code, message)


def open_cache(
    source: Source,
    image_size: int,
    folder: Path,
    max_gb: float,
    memory_gb: float = 0.25,
    workers: int | None = None,
    progress: Progress | None = None,
    fit: str = "squash",
) -> Opened:
    """Every record's image and scan; decodes what is not there yet, or damaged.

    Decoding runs in threads, which share `memory_gb`: the codecs release the interpreter.
    `progress` is also called while another process prepares the same data set, and may raise to
    give up. Raises UserError where the disk or `max_gb` has no room.
    """
    try:
        return _open(source, image_size, folder, max_gb, memory_gb, workers, progress, fit)
    except OSError as error:
        raise UserError(
            f"{folder}: the decode cache cannot be used ({error.strerror or error}); make room "
            "or choose another output.cache_dir"
        ) from error


def _open(
    source: Source,
    size: int,
    folder: Path,
    max_gb: float,
    memory_gb: float,
    workers: int | None,
    progress: Progress | None,
    fit: str,
) -> Opened:
    names = [record.name for record in source.records]

    def done(count: int) -> None:
        if progress is not None:
            progress(count, len(names))

    folder.mkdir(parents=True, exist_ok=True)
    with source.reader() as reader:
        states = [reader.state(name) for name in names]
        prefix = _prefix(size, fit)
        key = _key(names, states, prefix)
        with preparing(folder / f"{key}.lock", lambda: done(0)):
            entry = folder / key
            complete = entry.is_dir()
            where = entry if complete else folder / f"{key}.partial"
            index = read_index(where / INDEX, len(names))
            valid = valid_rows(where, size, index, done)
            damaged = (len(names) if complete else len(index)) - len(valid)
            scans = {row: index[row].scan for row in valid}
            if len(valid) < len(names):
                time.sleep(TICK)  # whatever is read from now on is as old as its times say
                make_room(where, len(names) * size**2, max_gb)
                where.mkdir(exist_ok=True)
                copies = Copies(folder, f"{prefix}*", size)
                memory, secret = int(memory_gb * 1e9), patient_key(folder)
                decoder = Decoder(reader, size, copies, memory, secret, fit)
                decoder.bits = bits_in_use(reader, names, decoder.depth, lambda: done(len(valid)))
                # Prepared when other images were readable, and scaled as those asked for.
                outdated = {row for row in valid if scans[row].bits not in (None, decoder.bits)}
                valid -= outdated
                so_far = len(valid)
                todo = {row: name for row, name in enumerate(names) if row not in valid}
                pixels = open_pixels(where, size, len(names), valid, bool(damaged or outdated))
                try:
                    scans |= fill(
                        where, pixels, todo, decoder, workers, lambda count: done(so_far + count)
                    )
                finally:
                    os.close(pixels)
                if not complete and not any(scan.error for scan in scans.values()):
                    where.rename(entry)
                    where = entry
                    sync_folder(folder)
            os.utime(where)  # the least recently used entry goes first
            images = CachedImages(where / PIXELS, len(names), size)
    warnings = []
    if damaged:
        message = f"{damaged} images of the decode cache were damaged and have been decoded again"
        warnings.append(("cache_repaired", message))
    in_order = [scans[row] for row in range(len(names))]
    bits, clipped = [scan.bits for scan in in_order], [scan.clipped for scan in in_order]
    if exceeded := bits_warning(names, bits, clipped):
        warnings.append(exceeded)
    return Opened(images, in_order, warnings)


def _key(names: list[str], states: list[tuple[int, ...]], prefix: str) -> str:
    text = json.dumps([names, states])
    return f"{prefix}{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _prefix(size: int, fit: str) -> str:
    return f"{size}px-{'' if fit == 'squash' else f'{fit}-'}v{PREPROCESSING}-"
