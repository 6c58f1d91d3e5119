"""Members of a ZIP: which are accepted, and their bytes, in bounded memory."""

from __future__ import annotations

import io
import itertools
import stat
import struct
import zipfile
from collections import Counter
from pathlib import Path

from engine.data.names import is_ignored, is_safe, shown
from engine.data.problems import DatasetError, Problems, UnreadableFile

LOCAL_HEADER = 30  # bytes before a member's name and content
DIRECTORY_ENTRY = b"PK\x01\x02"
MAX_FILES = 500_000
MAX_DIRECTORY = 128 << 20  # bytes of the list of members
CHUNK = 1 << 20  # bytes that are unpacked at a time
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks only these piece by piece
OTHER_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def list_zip(path: Path, max_unpacked: float) -> dict[str, str]:
    """Names of the members -> names as they are stored.

    `max_unpacked` in bytes. Raises DatasetError for a ZIP that is damaged or hostile.
    """
    try:
        with _Guarded(path) as file, zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if not m.filename.endswith("/")]
    except DatasetError:
        raise
    # What zipfile raises on damaged headers, beside its own error.
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error) as error:
        raise DatasetError(f"{path}: the ZIP is damaged ({error}); make it again") from error
    problems = Problems()
    for member in members:
        if why := _refusal(member):
            problems.add("member", f"{shown(member.filename)}: {why}")
    for name, count in Counter(member.filename for member in members).items():
        if count > 1:
            problems.add("name", f"{shown(name)}: {count} members have this name")
    for name in _overlaps(members):
        problems.add("overlap", f"{shown(name)}: it shares its bytes with another member")
    if problems.count:
        raise DatasetError(f"{path}: the ZIP has members that are not accepted:", problems)
    total = sum(member.file_size for member in members)
    if total > max_unpacked:
        raise DatasetError(
            f"{path}: unpacked it would have {total / 1e9:.1f} GB, and data.max_unpacked_gb allows "
            f"{max_unpacked / 1e9:g}; raise it if you trust the file"
        )
    return {_utf8_name(member): member.filename for member in members}


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Unpack one member, chunk by chunk: never more than its header declares, nor than `limit`.

    Raises UnreadableFile, and what zipfile raises.
    """
    member = archive.getinfo(name)
    if member.compress_type not in METHODS:  # the ZIP was replaced since it was listed
        raise UnreadableFile(_method(member))
    content = io.BytesIO()  # its getvalue() makes no copy
    with archive.open(member) as file:
        while chunk := file.read(CHUNK):
            content.write(chunk)
            if content.tell() > limit:
                raise UnreadableFile(
                    f"unpacked it has more than the {limit / 1e6:.0f} MB that are read of one file"
                )
    if content.tell() != member.file_size:
        raise UnreadableFile("it is shorter than the ZIP declares")
    return content.getvalue()


class _Guarded(io.FileIO):
    """A file of which zipfile reads no list of members that is too long to be held in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(-1 if size is None else min(size, MAX_DIRECTORY))
        if len(data) == MAX_DIRECTORY or data.count(DIRECTORY_ENTRY) > MAX_FILES:
            raise DatasetError(f"{self._path}: the ZIP has more than {MAX_FILES:,} files")
        return data


def _refusal(member: zipfile.ZipInfo) -> str | None:
    """Why a member is not accepted; None where it is."""
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if not name:
        return "it has no name"
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return "it has an absolute path"
    if ".." in parts:
        return "its path leads out of the ZIP"
    if any(part.split(".")[0].rstrip().lower() in DEVICES for part in parts):
        return "it has the name of a device"
    if not ((is_safe(member.orig_filename) and is_safe(_utf8_name(member))) or is_ignored(name)):
        return "its name has control characters; rename it"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a symbolic link"
    if member.flag_bits & 0x1:
        return "it is encrypted; make the ZIP without a password"
    return None if member.compress_type in METHODS else _method(member)


def _method(member: zipfile.ZipInfo) -> str:
    name = OTHER_METHODS.get(member.compress_type, f"method {member.compress_type}")
    return f"it is compressed with {name}; make the ZIP with deflate, the usual method"


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
