"""The files of a data set, in a ZIP or a folder. Nothing is ever unpacked to the disk."""

from __future__ import annotations

import os
import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path
from types import TracebackType

from engine.data.names import is_ignored, is_safe, shown, unwrap
from engine.data.problems import DatasetError, Problems, UnreadableFile
from engine.data.zipped import list_zip, read_member

__all__ = ["DatasetError", "Reader", "UnreadableFile", "list_files", "read_file"]

MAX_FILE = 512_000_000  # bytes of one file, unpacked: it is held in memory
SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
GONE = (OSError, KeyError, zipfile.BadZipFile)  # also where a ZIP was replaced by another


class Reader:
    """Reads files by name; opens its ZIP on first use, so that it can be sent to a process."""

    def __init__(self, path: Path, members: dict[str, str]) -> None:
        self._path, self._members = path, members
        self._zip: zipfile.ZipFile | None = None
        self._zip_stamp: tuple[int, ...] = ()

    def read(self, name: str, limit: int = MAX_FILE) -> bytes:
        """The bytes of one file, of at most `limit` bytes. Raises UnreadableFile."""
        try:
            if self._path.is_dir():
                return read_file(self._path / self._members[name], limit)
            return read_member(self._open_zip(), self._members[name], limit)
        except UnreadableFile:
            raise
        # zipfile raises RuntimeError for a member that is encrypted or compressed in another way.
        except (*GONE, EOFError, zlib.error, RuntimeError) as error:
            raise UnreadableFile(f"it cannot be read: {error}") from error

    def head(self, name: str, count: int) -> bytes:
        """The first `count` bytes of one file. Raises UnreadableFile."""
        try:
            if self._path.is_dir():
                return read_file(self._path / self._members[name], count, whole=False)
            with self._open_zip().open(self._members[name]) as file:
                return file.read(count)
        except UnreadableFile:
            raise
        except (*GONE, EOFError, zlib.error, RuntimeError) as error:
            raise UnreadableFile(f"it cannot be read: {error}") from error

    def state(self, name: str) -> tuple[int, ...]:
        """What changes when the file does, without reading it; the size in bytes comes first.

        Its times and inode, of a ZIP those of the ZIP: nobody can set the time of change (ctime),
        so a file that was replaced by one of equal size and time is noticed. Zeros for one that has
        gone since it was listed: `read` says so.
        """
        try:
            if self._path.is_dir():
                return _stamp(self._path / self._members[name])
            member = self._open_zip().getinfo(self._members[name])
            return member.file_size, member.CRC, *self._zip_stamp
        except GONE:
            return (0,)

    def _open_zip(self) -> zipfile.ZipFile:
        if self._zip is None:
            self._zip_stamp = _stamp(
                self._path
            )  # before it is opened: never newer than what is read
            self._zip = zipfile.ZipFile(self._path)
        return self._zip

    def close(self) -> None:
        """Close the ZIP, if it was opened."""
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> tuple[Path, dict[str, str]]:
        return self._path, self._members

    def __setstate__(self, state: tuple[Path, dict[str, str]]) -> None:
        self._path, self._members = state
        self._zip = None


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def list_files(path: Path, max_unpacked: float) -> dict[str, str]:
    """Names below the single wrapping folders -> names as they are stored.

    `max_unpacked` in bytes. Raises DatasetError for what is missing, broken or hostile.
    """
    if not is_safe(str(path)):
        why = "this path has control characters or is not valid UTF-8; rename it"
        raise DatasetError(f"{shown(str(path))}: {why}")
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path}: there is no such file or folder ({reason})") from None
    if stat.S_ISDIR(mode):
        stored = {name: name for name in _walk(path)}
    elif stat.S_ISREG(mode) and zipfile.is_zipfile(path):
        stored = list_zip(path, max_unpacked)
    else:
        raise DatasetError(f"{path}: this is neither a folder nor a ZIP; give one of the two")
    # macOS stores decomposed names.
    return unwrap(
        {
            unicodedata.normalize("NFC", name): where
            for name, where in stored.items()
            if not is_ignored(name)
        }
    )


def _walk(folder: Path) -> list[str]:
    """Every file below, links followed (the person's own), each folder once."""
    found: list[str] = []
    seen: set[str] = set()
    problems = Problems()

    def cannot_be_listed(error: OSError) -> None:
        problems.add("folder", f"{shown(str(error.filename))}: {error.strerror}")

    for where, below, files in os.walk(folder, onerror=cannot_be_listed, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            below.clear()  # a link that leads in a circle
            continue
        seen.add(real)
        for file in files:
            name = (Path(where) / file).relative_to(folder).as_posix()
            if is_safe(name):
                found.append(name)
            elif not is_ignored(name):
                why = "its name has control characters or is not valid UTF-8; rename it"
                problems.add("name", f"{shown(name)}: {why}")
    if problems.count:
        raise DatasetError(f"{folder}: there are files that cannot be used:", problems)
    return sorted(found)


def read_file(path: Path, limit: int = MAX_FILE, whole: bool = True) -> bytes:
    """A regular file's bytes, or its first `limit`; does not wait for a pipe. Raises OSError."""
    _require_regular(path.stat().st_mode)  # before it is opened: opening can change a device
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(file)
        _require_regular(found.st_mode)
        if found.st_size > limit and whole:
            raise UnreadableFile(
                f"it has {found.st_size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB that are "
                "read of one file"
            )
        return opened.read(min(found.st_size, limit))


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = SPECIAL.get(stat.S_IFMT(mode), "something else")
        raise UnreadableFile(f"it is not a file but {what}")
