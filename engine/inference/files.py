"""The image files that a person names: paths, folders, archives, patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.data.archive import Reader, is_archive, list_files, read_file
from engine.data.names import IMAGE_ENDINGS

MOST_UNPACKED = 500e9  # bytes of an archive


@dataclass(frozen=True)
class ImageFile:
    """One file, not read yet."""

    path: Path  # of a file in an archive: the archive's path and the name in it
    reader: Reader | None = field(default=None, repr=False, compare=False)
    member: str = ""

    def read(self) -> bytes:
        """Its content. Raises OSError, or UnreadableFile in an archive."""
        if self.reader is not None:
            return self.reader.read(self.member)
        return read_file(self.path)  # of a pipe or a device it is an error


def image_files(paths: str | Path | Iterable[str | Path]) -> Iterator[ImageFile]:
    """Files as they are given; of a folder or an archive those with a known ending, in order.

    A name that is no file and has *, ? or [ is a pattern. Raises DatasetError for an archive that
    is broken or hostile.
    """
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given)
        if not path.exists() and glob.has_magic(str(path)):
            found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  absolute ones, too
            for name in found:
                yield from _of(Path(name))
        else:
            yield from _of(path)


def _of(path: Path) -> Iterator[ImageFile]:
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        yield from (ImageFile(one) for one in sorted(found))
    elif path.is_file() and is_archive(path):
        members = list_files(path, MOST_UNPACKED)
        reader = Reader(path, members)  # closed with the last file that names it
        for name in sorted(members):
            if Path(name).suffix.lower() in IMAGE_ENDINGS:
                yield ImageFile(path / name, reader, name)
    else:
        yield ImageFile(path)
