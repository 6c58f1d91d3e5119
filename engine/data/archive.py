"""The files of a data set, in a folder or an archive, by their names."""

from __future__ import annotations

import os
import stat
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from pathlib import Path
from types import TracebackType

from engine.data import stores
from engine.data.names import is_ignored, is_image, is_safe, shown, unwrap
from engine.data.npz import is_npz, list_npz
from engine.data.problems import DatasetError, Problems, UnreadableFile
from engine.data.stores import WITHIN, Store, open_store
from engine.data.tarred import ENDINGS, is_tar, list_tar
from engine.data.zipped import list_zip

__all__ = ["DatasetError", "Reader", "UnreadableFile", "list_files", "read_file"]

MAX_FILE = 512_000_000  # bytes of one file, unpacked: it is held in memory
# What reading raises, also where an archive was replaced by another; zipfile raises RuntimeError
# for a member that is encrypted or compressed in another way.
GONE = (OSError, KeyError, zipfile.BadZipFile, tarfile.TarError)
BROKEN = (*GONE, EOFError, zlib.error, RuntimeError, ValueError)


class Reader:
    """Reads files by name; opens an archive on first use, so that it can be sent to a process."""

    def __init__(self, path: Path, members: dict[str, str]) -> None:
        self._path, self._members = path, members
        self._store: Store | None = None
        self._lock = threading.Lock()

    def read(self, name: str, limit: int = MAX_FILE) -> bytes:
        """The bytes of one file, of at most `limit` bytes. Raises UnreadableFile."""
        try:
            return self._open().read(self._members[name], limit)
        except (UnreadableFile, DatasetError):
            raise
        except BROKEN as error:
            raise UnreadableFile(f"it cannot be read: {error}") from error

    def head(self, name: str, count: int) -> bytes:
        """The first `count` bytes of one file. Raises UnreadableFile."""
        try:
            return self._open().head(self._members[name], count)
        except (UnreadableFile, DatasetError):
            raise
        except BROKEN as error:
            raise UnreadableFile(f"it cannot be read: {error}") from error

    def state(self, name: str) -> tuple[int, ...]:
        """What changes when the file does, without reading it; the size in bytes comes first.

        Its times and inode, in an archive those of the archive: nobody can set the time of change
        (ctime), so a file that was replaced by one of equal size and time is noticed. Zeros for one
        that has gone since it was listed: `read` says so.
        """
        try:
            return self._open().state(self._members[name])
        except GONE:
            return (0,)

    def _open(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = open_store(self._path)
            return self._store

    def close(self) -> None:
        """Close the archive, if one was opened."""
        if self._store is not None:
            self._store.close()
            self._store = None

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
        self.__init__(*state)  # type: ignore[misc]


def list_files(path: Path, max_unpacked: float) -> dict[str, str]:
    """Names below the single wrapping folders -> where the files are, as a store takes it.

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
        stored = _with_archives(path, {name: name for name in _walk(path)}, max_unpacked)
    elif stat.S_ISREG(mode) and is_archive(path):
        stored = _list_archive(path, max_unpacked)
    else:
        kinds = "a folder, a ZIP, a tar, a tar.gz or MedMNIST's NPZ"
        raise DatasetError(f"{path}: this is not {kinds}; give one of them")
    return unwrap(_usable(stored))


def is_archive(path: Path) -> bool:
    """Whether the file is an archive that can be read."""
    return is_tar(path) or zipfile.is_zipfile(path)


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """A regular file's bytes; does not wait for a pipe. Raises OSError."""
    return stores.read_file(path, limit)


def _list_archive(path: Path, max_unpacked: float) -> dict[str, str]:
    if is_tar(path):
        return list_tar(path, max_unpacked)
    return list_npz(path, max_unpacked) if is_npz(path) else list_zip(path, max_unpacked)


def _usable(stored: dict[str, str]) -> dict[str, str]:
    """Without what operating systems leave behind; macOS stores decomposed names."""
    return {
        unicodedata.normalize("NFC", name): where
        for name, where in stored.items()
        if not is_ignored(name)
    }


def _with_archives(folder: Path, files: dict[str, str], max_unpacked: float) -> dict[str, str]:
    """The files of a folder; where no image is among them, those in the archives beside, too.

    The files of `part.zip` are below `part/`.
    """
    if any(map(is_image, files)):
        return files
    found = dict(files)
    for name in files:
        if "/" in name or not name.lower().endswith((".zip", ".npz", *ENDINGS)):
            continue
        if is_ignored(name) or not is_archive(folder / name):
            continue
        del found[name]
        inner = unwrap(_usable(_list_archive(folder / name, max_unpacked)))
        top = name.partition(".")[0]
        found |= {f"{top}/{member}": f"{name}{WITHIN}{at}" for member, at in inner.items()}
    return found


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
