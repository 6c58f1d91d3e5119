"""The command line: an open server needs a token, and mistakes are named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from server.settings import Settings, check_exposure, is_loopback

from .conftest import ROOT, Server, wait_until


def start(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],
        ["--host", "::"],
        ["--allow-host", "localhost", "--allow-host", "xray.example"],
        ["--allow-host", "10.0.0.7"],
        ["--trusted-proxy", "127.0.0.1"],
    ],
)
def test_no_open_server_without_a_token(tmp_path: Path, arguments: list[str]) -> None:
    done = start(*arguments, "--port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "PNEUMOSCOPE_TOKEN" in done.stderr
    assert arguments[-1] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    done = start("--port", "0", folder=tmp_path, PNEUMOSCOPE_TOKEN="fifteen-letters")
    assert done.returncode == 2
    assert "16 at least" in done.stderr
    assert "fifteen-letters" not in done.stderr


def test_another_name_of_this_machine_needs_no_token() -> None:
    check_exposure(Settings(allowed_hosts=("localhost", "xray.localhost", "127.0.0.2", "[::1]")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--token-file", "none"], "--token-file none"),
        (["--token-file", "empty"], "is empty"),
        (["--host", "no.such.name.invalid"], "is no address"),
        (["--port", "99999"], "port 99999"),
        (["--trusted-proxy", "*"], "--trusted-proxy *"),
        (["--trusted-proxy", "10.0.0.7/8"], "--trusted-proxy 10.0.0.7/8"),
        (["--set", "experiment.epoch=3"], "experiment.epochs"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_at_the_start_are_named(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").write_text("\n")
    done = start(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(shared: Server, tmp_path: Path) -> None:
    done = start("--port", str(shared.port), folder=tmp_path)
    assert done.returncode == 2
    assert "choose another with --port" in done.stderr


def test_loopback_is_known() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.9.9.9")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.0.2.1")


def test_ctrl_c_ends_the_server_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[1]

    refused: list[OSError] = []
    # The default opener is made once in a process, with the proxies of that moment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        assert process.poll() is None, (process.returncode, process.communicate())
        try:
            with opener.open(f"{address}/healthz", timeout=60):
                return True
        except OSError as error:
            refused.append(error)
            return False

    wait_until(answers, state=lambda: refused[-1:])
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
