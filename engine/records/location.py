"""Whether the database lies on a local disk: SQLite's WAL mode is unsafe on a network file system.

Several hosts would each have their own view of its shared memory and could destroy it.
"""

from __future__ import annotations

import re
from pathlib import Path

from config import UserError

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "davfs", "fuse.sshfs"),
        *("lustre", "gpfs", "beegfs", "fhgfs_nodev", "ceph", "fuse.ceph", "fuse.ceph-fuse"),
        *("glusterfs", "fuse.glusterfs", "pvfs2", "orangefs", "panfs", "wekafs", "ocfs2", "gfs2"),
        *("fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs", "fuse.mfs", "fuse.davfs"),
    )
)


def check_local(database: Path, allow_network: bool = False, mounts: Path | None = None) -> None:
    """Raise UserError where the database would lie on a network file system.

    `mounts` is a file in the format of Linux's mountinfo; None: that of this process. Where there
    is none (macOS), nothing is known and nothing is refused.
    """
    kind = None if allow_network else file_system(database, mounts)
    if kind in NETWORK:
        raise UserError(
            f"output.database: {database} lies on a network file system ({kind}), where SQLite "
            "can lose data; name a file on a local disk with --set output.database=/local/path.db "
            "(results and checkpoints may stay where they are), or set "
            "output.allow_network_database=true where only one machine ever uses it"
        )


def file_system(path: Path, mounts: Path | None = None) -> str | None:
    """The type of the file system that holds `path`, which need not exist; None where unknown."""
    try:
        text = (mounts or MOUNTS).read_text(encoding="utf-8", errors="surrogateescape")
        place = path.resolve()
    except (OSError, RuntimeError):
        return None
    found, depth = None, -1
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        if not separator:
            continue
        point = Path(_unescaped(before.split()[4]))
        if place.is_relative_to(point) and len(point.parts) >= depth:  # the last one is on top
            found, depth = after.split()[0], len(point.parts)
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
