"""A database on a network file system is refused, by what the system itself says of its mounts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from config import ConfigManager, UserError
from engine import CentralizedTrainer
from engine.records.location import MOUNTS, check_local, file_system

# Lines of real machines.
MOUNTINFO = r"""22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
98 22 0:49 / /home rw,relatime shared:52 - nfs4 10.0.0.7:/export/home rw,vers=4.2,hard,proto=tcp
99 98 259:5 / /home/ann/scratch rw,noatime shared:53 - xfs /dev/nvme1n1 rw
130 22 0:60 / /mnt/my\040share rw,relatime shared:80 - cifs //nas/data rw,vers=3.1.1
131 22 0:61 / /lustre rw,flock shared:81 master:1 - lustre 10.1.0.1@o2ib:/work rw,lazystatfs
132 22 0:62 / /scratch rw shared:82 - lustre 10.1.0.1@o2ib:/old rw
133 22 8:1 / /scratch rw shared:83 - ext4 /dev/sda1 rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO)
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ann/a/b.db", "nfs4"),
        ("/home/ann/scratch/b.db", "xfs"),
        ("/homes/b.db", "ext4"),
        ("/mnt/my share/b.db", "cifs"),
        ("/lustre/project/b.db", "lustre"),
        ("/scratch/b.db", "ext4"),  # mounted over another
    ],
)
def test_the_innermost_mount_decides(mounts: Path, path: str, kind: str) -> None:
    assert file_system(Path(path), mounts) == kind


def test_a_network_file_system_is_named_with_the_way_out(mounts: Path) -> None:
    database = Path("/home/ann/a.db")
    with pytest.raises(UserError, match=r"\(nfs4\).*output\.database=/local.*allow_network"):
        check_local(database, mounts=mounts)
    check_local(database, allow_network=True, mounts=mounts)
    check_local(Path("/home/ann/scratch/a.db"), mounts=mounts)
    check_local(database, mounts=mounts / "absent")


def test_this_machine_says_what_it_mounts(tmp_path: Path) -> None:
    if not MOUNTS.exists():
        pytest.skip("no mountinfo here")
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert file_system(tmp_path / "a" / "b.db") == "tmpfs"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_run_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("22 1 0:1 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr("engine.records.location.MOUNTS", mounts)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="network file system"):
        CentralizedTrainer(ConfigManager.load()).train("absent.zip")
    assert list(tmp_path.iterdir()) == [mounts]
