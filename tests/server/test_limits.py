"""File descriptors: the limit is raised at the start, and a shortage does not fill the log."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import Server, wait_until

NO_FILES = resource.RLIMIT_NOFILE


def limited(soft: int, hard: int) -> tuple[str, ...]:
    """The command of a server that begins with these limits of open files."""
    program = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
        "; sys.argv[0] = 'server'; runpy.run_module('server', run_name='__main__', alter_sys=True)"
    )
    return (sys.executable, "-c", program)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_limit_is_raised_as_far_as_the_sockets_need(folder: Path) -> None:
    _, hard = resource.getrlimit(NO_FILES)
    server = Server(folder, "--max-sockets", "3000", command=limited(256, hard))
    try:
        text = Path(f"/proc/{server.process.pid}/limits").read_text()
        found = re.search(r"Max open files +(\d+)", text)
        assert found
        assert int(found.group(1)) >= min(3000 + 512, hard)
    finally:
        server.end()


@pytest.mark.parametrize("files", [64, 200])
def test_without_descriptors_the_log_stays_short(folder: Path, files: int) -> None:
    """More idle connections than files: they end by themselves, and others are answered again."""
    server = Server(folder, command=limited(files, files))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect(("127.0.0.1", server.port))
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{server.url}/healthz", timeout=3)
        wait_until(server.answers, 60)
        text = server.log.read_text()
        assert f"{files} open files are allowed" in text
        assert "Traceback" not in text
        assert text.count("new connections wait") == 1
        assert len(text) < 5_000, text[:3000]
    finally:
        server.end()
