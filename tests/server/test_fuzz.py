"""A fuzzer that reads the server's own description finds no fault."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from server.operations import RUN_ID

from .conftest import Server

CHECKS = ("not_a_server_error", "response_schema_conformance", "status_code_conformance")


def fuzz(server: Server, examples: int, seed: int, **run_id: Any) -> None:
    """Every route, with `run_id` as the schema of the runs in it; the description's own if none."""
    description = server.get("/openapi.json").text
    any_run = json.dumps(RUN_ID, separators=(",", ":"))
    path = server.folder / "openapi.json"
    path.write_text(description.replace(any_run, json.dumps(run_id or RUN_ID)))
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(path), "--url", server.url]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--no-color"]
    # One worker: in several, Python 3.11 may fail to parse a source at the same time (SystemError).
    command += ["--workers", "1", "--warnings", "off", "--phases", "coverage,fuzzing"]
    command += ["--checks", ",".join((*CHECKS, "content_type_conformance"))]
    done = subprocess.run(command, cwd=server.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
    print(re.findall(r"\d+ generated, \d+ passed", done.stdout))
    log = server.log.read_text()
    assert "Traceback" not in log, log[-3000:]


def test_the_description_is_true_and_nothing_fails(server: Server) -> None:
    for status in ("completed", "failed"):
        server.write_run(status)
    fuzz(server, examples=10, seed=1, enum=[1, 2])
    assert server.get("/runs/1").status_code == 404  # it came as far as deleting it


@pytest.mark.long
def test_long_fuzzing(server: Server) -> None:
    fuzz(server, examples=500, seed=2)
