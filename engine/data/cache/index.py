"""The index of an entry: one line an image, each with a checksum of its own."""

from __future__ import annotations

import dataclasses
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

INDEX, PIXELS = "images.jsonl", "images.u8"  # the files of an entry


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
    bits: int | None = None  # that white was taken to have; None where the file decides
    clipped: float = 0.0  # share of the pixels above white
    facts: dict[str, str] = field(default_factory=dict)  # of a DICOM header


@dataclass(frozen=True, slots=True)
class Stored:
    """An image of the entry: what was found, and the CRC-32 of its pixels in `images.u8`."""

    scan: Scan
    checksum: int


FIELDS = [field.name for field in dataclasses.fields(Scan)]


def format_line(row: int, stored: Stored) -> str:
    """The line of one row; ASCII, whatever the image's mode or name holds."""
    values = {name: getattr(stored.scan, name) for name in FIELDS}
    text = json.dumps([row, stored.checksum, values])
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def read_index(path: Path, rows: int | None = None) -> dict[int, Stored]:
    """Row -> image of every valid line, the last one of a row; empty where there is no file.

    Damaged, half-written and foreign lines are left out, and rows from `rows` on.
    """
    found: dict[int, Stored] = {}
    try:
        with path.open("rb") as file:
            for line in file:
                checksum, _, text = line.partition(b" ")
                if line.endswith(b"\n") and checksum == b"%08x" % zlib.crc32(text[:-1]):
                    row, pixels, values = json.loads(text)
                    found[row] = Stored(Scan(**values), pixels)
    except OSError:
        pass  # missing, evicted meanwhile, or a damaged disk: what was read is valid
    return found if rows is None else {row: image for row, image in found.items() if row < rows}
