"""Members of a tar: which are accepted, and their bytes. Where it is compressed with gzip, it is
unpacked into a temporary file without a name, which goes with the process."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import threading
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from engine.data.names import is_safe, shown
from engine.data.problems import DatasetError, Problems

ENDINGS = (".tar", ".tar.gz", ".tgz")
MAX_FILES = 500_000
BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, OSError)


def is_tar(path: Path) -> bool:
    """By its name: every file of zeros is a tar."""
    return path.name.lower().endswith(ENDINGS)


def list_tar(path: Path, max_unpacked: float) -> dict[str, str]:
    """Names of the regular files -> the same names.

    `max_unpacked` in bytes. Raises DatasetError for a tar that is damaged or hostile.
    """
    names: dict[str, str] = {}
    problems, total = Problems(), 0
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                total += member.size
                if why := _refusal(member, names):
                    problems.add("member", f"{shown(member.name)}: {why}")
                names[_name(member)] = member.name
                if len(names) > MAX_FILES:
                    raise DatasetError(f"{path}: the tar has more than {MAX_FILES:,} files")
                if total > max_unpacked:
                    raise DatasetError(
                        f"{path}: unpacked it would have more than the {max_unpacked / 1e9:g} GB "
                        "that data.max_unpacked_gb allows; raise it if you trust the file"
                    )
    except BROKEN as error:
        raise DatasetError(f"{path}: the tar is damaged ({error}); make it again") from error
    if problems.count:
        raise DatasetError(f"{path}: the tar has members that are not accepted:", problems)
    return names


class TarReader:
    """Reads members in any order."""

    def __init__(self, path: Path) -> None:
        """Raises DatasetError where there is no room for what is compressed."""
        self._file: IO[bytes] = path.open("rb")
        if not path.name.lower().endswith(".tar"):
            packed, self._file = self._file, tempfile.TemporaryFile()  # noqa: SIM115
            try:
                with packed, gzip.open(packed) as unpacked:
                    shutil.copyfileobj(unpacked, self._file, 1 << 20)
            except OSError as error:
                self._file.close()
                raise DatasetError(
                    f"{path} is unpacked into a temporary file in {tempfile.gettempdir()}, and "
                    f"that failed ({error.strerror or error}); make room, set TMPDIR to another "
                    "folder, or give the data set as a ZIP"
                ) from error
            self._file.seek(0)
        with tarfile.open(fileobj=self._file) as archive:
            self._where = {m.name: (m.offset_data, m.size) for m in archive if m.isreg()}
        self._lock = threading.Lock()  # threads share the place in the file

    def size(self, name: str) -> int:
        """Bytes of a member. Raises KeyError."""
        return self._where[name][1]

    def read(self, name: str, count: int | None = None) -> bytes:
        """A member's bytes, or its first `count`. Raises KeyError, OSError."""
        start, size = self._where[name]
        with self._lock:
            self._file.seek(start)
            return self._file.read(size if count is None else min(count, size))

    def close(self) -> None:
        """Close the file; a temporary one is gone then."""
        self._file.close()


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def _refusal(member: tarfile.TarInfo, names: dict[str, str]) -> str | None:
    """Why a member is not accepted; None where it is."""
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "its path leads out of the tar"
    if not is_safe(member.name):
        return "its name has control characters; rename it"
    if not member.isreg():
        return "it is a link, a pipe or a device"
    if member.issparse():
        return "it is a sparse file; make the tar without --sparse"
    return "two members have this name" if _name(member) in names else None
