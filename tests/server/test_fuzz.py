"""A fuzzer that reads the server's own description finds no fault."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import Server

CHECKS = ("not_a_server_error", "response_schema_conformance", "status_code_conformance")


def fuzz(server: Server, examples: int, seed: int) -> None:
    for status in ("completed", "failed"):
        server.write_run(status)
    (server.folder / "schemathesis.toml").write_text("[parameters]\nrun_id = [1, 2]\n")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--no-color"]
    command += ["--workers", "4", "--warnings", "off", "--phases", "coverage,fuzzing"]
    command += ["--checks", ",".join((*CHECKS, "content_type_conformance"))]
    done = subprocess.run(command, cwd=server.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
    assert server.get("/runs/1").status_code == 404  # it came as far as deleting it
    log = server.log.read_text()
    assert "Traceback" not in log, log[-3000:]


def test_the_description_is_true_and_nothing_fails(server: Server) -> None:
    fuzz(server, examples=10, seed=1)


@pytest.mark.long
def test_long_fuzzing(server: Server) -> None:
    fuzz(server, examples=500, seed=2)
