"""What several test files share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_configure() -> None:
    """The usual signals: a shell that starts the tests in the background, or nohup, ignores them,
    and every process that a test starts would do so too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def dev_data() -> Path:
    """The folder of the development data; the test is skipped where it is absent."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("PNEUMOSCOPE_DEV_DATA", default)).resolve()
    if not (folder / "chest_xray_dev.zip").exists():
        pytest.skip(f"no development data in {folder} (PNEUMOSCOPE_DEV_DATA)")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of that many bytes in memory; skipped where that is not allowed."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture
def operations() -> Callable[[Callable[[], object]], list[str]]:
    """Names of the torch operations of a call, without those that only make another view."""
    from torch.utils._python_dispatch import TorchDispatchMode

    views = ("view", "unsqueeze", "slice", "select", "unbind", "expand", "empty", "detach")
    names: list[str] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = str(function).removeprefix("aten.")
            if not name.startswith(views):
                names.append(name)
            return function(*args, **(kwargs or {}))

    def count(call: Callable[[], object]) -> list[str]:
        with Counting():
            call()
        return names

    return count
