"""Where the files of a data set lie: a folder, a ZIP, a tar, an NPZ, or a folder of archives."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
from pathlib import Path
from typing import Protocol

from engine.data.npz import NpzReader, is_npz
from engine.data.problems import UnreadableFile
from engine.data.tarred import TarReader, is_tar
from engine.data.zipped import read_member

WITHIN = "\0"  # between an archive's name and that of its member, in a folder of archives
SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Store(Protocol):
    """Reads files by where they are; every method may raise what its archive's module raises."""

    def read(self, where: str, limit: int) -> bytes:
        """All bytes of a file, of at most `limit`. Raises UnreadableFile."""

    def head(self, where: str, count: int) -> bytes:
        """The first bytes."""

    def state(self, where: str) -> tuple[int, ...]:
        """The size in bytes, and what changes when the file does."""

    def close(self) -> None:
        """Close what was opened."""


def open_store(path: Path) -> Store:
    """The store at `path`. Raises OSError, zipfile.BadZipFile or tarfile.TarError."""
    if path.is_dir():
        return FolderStore(path)
    if is_tar(path):
        return TarStore(path)
    return NpzStore(path) if is_npz(path) else ZipStore(path)


class FolderStore:
    """Files of a folder, and members of the archives in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archives: dict[str, Store] = {}
        self._lock = threading.Lock()

    def read(self, where: str, limit: int) -> bytes:
        """See Store."""
        if WITHIN in where:
            archive, member = self._archive(where)
            return archive.read(member, limit)
        return read_file(self._path / where, limit)

    def head(self, where: str, count: int) -> bytes:
        """See Store."""
        if WITHIN in where:
            archive, member = self._archive(where)
            return archive.head(member, count)
        return read_file(self._path / where, count, whole=False)

    def state(self, where: str) -> tuple[int, ...]:
        """See Store."""
        if WITHIN in where:
            archive, member = self._archive(where)
            return archive.state(member)
        return stamp(self._path / where)

    def close(self) -> None:
        """See Store."""
        for archive in self._archives.values():
            archive.close()
        self._archives.clear()

    def _archive(self, where: str) -> tuple[Store, str]:
        name, _, member = where.partition(WITHIN)
        with self._lock:
            if name not in self._archives:
                self._archives[name] = open_store(self._path / name)
        return self._archives[name], member


class ZipStore:
    """Members of a ZIP."""

    def __init__(self, path: Path) -> None:
        self._stamp = stamp(path)  # before it is opened: never newer than what is read
        self._zip = zipfile.ZipFile(path)

    def read(self, where: str, limit: int) -> bytes:
        """See Store."""
        return read_member(self._zip, where, limit)

    def head(self, where: str, count: int) -> bytes:
        """See Store."""
        with self._zip.open(where) as file:
            return file.read(count)

    def state(self, where: str) -> tuple[int, ...]:
        """See Store."""
        member = self._zip.getinfo(where)
        return member.file_size, member.CRC, *self._stamp

    def close(self) -> None:
        """See Store."""
        self._zip.close()


class NpzStore:
    """Images of MedMNIST's NPZ."""

    def __init__(self, path: Path) -> None:
        self._stamp = stamp(path)
        self._reader = NpzReader(path)

    def read(self, where: str, limit: int) -> bytes:
        """See Store."""
        return self._reader.read(where)

    def head(self, where: str, count: int) -> bytes:
        """See Store."""
        return self._reader.read(where)[:count]

    def state(self, where: str) -> tuple[int, ...]:
        """See Store."""
        return *self._reader.state(where), *self._stamp

    def close(self) -> None:
        """See Store."""
        self._reader.close()


class TarStore:
    """Members of a tar, compressed with gzip or not."""

    def __init__(self, path: Path) -> None:
        self._stamp = stamp(path)
        self._reader = TarReader(path)

    def read(self, where: str, limit: int) -> bytes:
        """See Store."""
        size = self._reader.size(where)
        if size > limit:
            raise too_large(size, limit)
        return self._reader.read(where)

    def head(self, where: str, count: int) -> bytes:
        """See Store."""
        return self._reader.read(where, count)

    def state(self, where: str) -> tuple[int, ...]:
        """See Store."""
        return self._reader.size(where), *self._stamp

    def close(self) -> None:
        """See Store."""
        self._reader.close()


def stamp(path: Path) -> tuple[int, ...]:
    """Size, times and inode of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def read_file(path: Path, limit: int, whole: bool = True) -> bytes:
    """A regular file's bytes, or its first `limit`; does not wait for a pipe. Raises OSError."""
    _require_regular(path.stat().st_mode)  # before it is opened: opening can change a device
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(file)
        _require_regular(found.st_mode)
        if found.st_size > limit and whole:
            raise too_large(found.st_size, limit)
        return opened.read(min(found.st_size, limit))


def too_large(size: int, limit: int) -> UnreadableFile:
    """The error of a file that is not read because of its size; both in bytes."""
    return UnreadableFile(
        f"it has {size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB that are read of one file"
    )


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = SPECIAL.get(stat.S_IFMT(mode), "something else")
        raise UnreadableFile(f"it is not a file but {what}")
