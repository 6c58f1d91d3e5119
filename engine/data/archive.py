"""The files of a data set, in a ZIP or a folder. Nothing is ever unpacked to the disk."""

from __future__ import annotations

import itertools
import os
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from types import TracebackType

from config import UserError

LOCAL_HEADER = 30  # bytes before a member's name and content
MAX_MEMBER = 2 << 30  # bytes of one file, unpacked: it is held in memory
IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")
DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
SHOWN = 50  # problems in a message; `problems` has them all


class DatasetError(UserError):
    """What is wrong with a data set; `problems` lists everything that was found."""

    def __init__(self, summary: str, problems: list[str] | None = None) -> None:
        self.problems = problems if problems is not None else [summary]
        lines = [summary]
        if problems is not None:
            lines += [f"  {problem}" for problem in problems[:SHOWN]]
            if len(problems) > SHOWN:
                lines.append(f"  and {len(problems) - SHOWN} more")
        super().__init__("\n".join(lines))


class UnreadableFile(OSError):
    """One file of the data set cannot be read; the message says why."""


GONE = (OSError, KeyError, zipfile.BadZipFile)  # also where a ZIP was replaced by another


class Reader:
    """Reads files by name; opens its ZIP on first use, so that it can be sent to a process."""

    def __init__(self, path: Path, members: dict[str, str]) -> None:
        self._path, self._members = path, members
        self._zip: zipfile.ZipFile | None = None
        self._zip_stamp: tuple[int, ...] = ()

    def read(self, name: str) -> bytes:
        """The bytes of one file. Raises UnreadableFile."""
        try:
            if self._path.is_dir():
                return (self._path / self._members[name]).read_bytes()
            return self._open_zip().read(self._members[name])
        # NotImplementedError is zipfile's word for a compression it does not know.
        except (*GONE, EOFError, zlib.error, NotImplementedError) as error:
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
    if not path.exists():
        raise DatasetError(f"{path}: there is no such file or folder")
    if path.is_dir():
        stored = {_normal(name): name for name in _walk(path)}
    elif zipfile.is_zipfile(path):
        stored = _list_zip(path, max_unpacked)
    else:
        raise DatasetError(f"{path}: this is neither a folder nor a ZIP; give one of the two")
    kept = {name: where for name, where in stored.items() if not _is_ignored(name)}
    return _unwrap(kept)


def _walk(folder: Path) -> list[str]:
    """Every file below, links followed (the person's own), each folder once."""
    found: list[str] = []
    seen: set[str] = set()
    for where, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            below.clear()  # a link that leads in a circle
            continue
        seen.add(real)
        found += [(Path(where) / name).relative_to(folder).as_posix() for name in files]
    return sorted(found)


def _list_zip(path: Path, max_unpacked: float) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError, NotImplementedError) as error:
        raise DatasetError(f"{path}: the ZIP is damaged ({error}); make it again") from error
    problems = [f"{member.filename!r}: {why}" for member in members if (why := _refusal(member))]
    counts = Counter(member.filename for member in members)
    problems += [f"{name!r}: {n} members have this name" for name, n in counts.items() if n > 1]
    problems += [
        f"{name!r}: it shares its bytes with another member" for name in _overlaps(members)
    ]
    if problems:
        raise DatasetError(f"{path}: the ZIP has members that are not accepted:", problems)
    total = sum(member.file_size for member in members)
    if total > max_unpacked:
        raise DatasetError(
            f"{path}: unpacked it would have {total / 1e9:.1f} GB, and data.max_unpacked_gb allows "
            f"{max_unpacked / 1e9:g}; raise it if you trust the file"
        )
    return {_normal(_utf8_name(member)): member.filename for member in members}


def _refusal(member: zipfile.ZipInfo) -> str | None:
    """Why a member is not accepted; None where it is."""
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return "it has an absolute path"
    if ".." in parts:
        return "its path leads out of the ZIP"
    if any(part.split(".")[0].rstrip().lower() in DEVICES for part in parts):
        return "it has the name of a device"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a symbolic link"
    if member.flag_bits & 0x1:
        return "it is encrypted; make the ZIP without a password"
    if member.file_size > MAX_MEMBER:
        return f"it would unpack to {member.file_size / 1e9:.1f} GB"
    return None


def _overlaps(members: list[zipfile.ZipInfo]) -> list[str]:
    """Members that begin before the one before them has ended: so bombs come out of few bytes."""
    placed = sorted(members, key=lambda member: member.header_offset)
    return [
        later.filename
        for one, later in itertools.pairwise(placed)
        if later.header_offset < one.header_offset + LOCAL_HEADER + one.compress_size
    ]


def _utf8_name(member: zipfile.ZipInfo) -> str:
    """Many tools write UTF-8 without the flag that says so."""
    if not member.flag_bits & 0x800:
        try:
            return member.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    return member.filename


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS stores decomposed names


def _is_ignored(name: str) -> bool:
    return any(part in IGNORED or part.startswith(".") for part in PurePosixPath(name).parts)


def _unwrap(names: dict[str, str]) -> dict[str, str]:
    """Drop a single folder around everything, unless its name means something."""
    while names:
        tops = {name.partition("/")[0] for name in names}
        only = next(iter(tops))
        if len(tops) > 1 or only in names or not _is_wrapping(only, names):
            break
        names = {name.partition("/")[2]: where for name, where in names.items()}
    return names


def _is_wrapping(top: str, names: dict[str, str]) -> bool:
    """A folder is a wrapping only if something with a meaning lies in it, deeper than files."""
    inner = {name.partition("/")[2] for name in names}
    return any("/" in name for name in inner) or "metadata.csv" in {n.lower() for n in inner}
