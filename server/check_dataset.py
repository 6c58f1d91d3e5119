"""`python -m server.check_dataset FILE`: check an uploaded data set, in a process of its own.

A hostile ZIP costs the server no memory and none of its time. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from config import Config
from engine.data.source import DatasetError, open_source

CHECK_SECONDS = 300.0
_one_at_a_time = asyncio.Semaphore(1)  # the processor is the training's


async def check(path: Path, name: str, config: Config) -> dict[str, Any]:
    """What `main` prints, for a file that people know as `name`."""
    async with _one_at_a_time:
        return await _check(path, name, config)


async def _check(path: Path, name: str, config: Config) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.check_dataset", str(path), name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            output, _ = await process.communicate(json.dumps(config.to_dict()).encode())
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            return _failed(f"{name} could not be checked in {CHECK_SECONDS:g} s")
        raise
    if process.returncode != 0:
        return _failed(f"{name} could not be checked; is it a ZIP with metadata.csv?")
    found: dict[str, Any] = json.loads(output)
    return found


def _failed(detail: str) -> dict[str, Any]:
    return {"detail": detail, "problems": [detail]}


def main(path: str, name: str, config: Config) -> dict[str, Any]:
    """{"report": ...} of a good data set, {"detail", "problems"} of another."""
    try:
        source = open_source(path, config.data)
    except DatasetError as error:
        problems = [problem.replace(path, name) for problem in error.problems]
        return {"detail": str(error).replace(path, name), "problems": problems}
    labels = Counter(source.label_names[record.label] for record in source.records)
    patients = {record.patient for record in source.records if record.patient}
    report = {
        "kind": source.kind,
        "images": len(source.records),
        "counts": dict(labels),
        "patients": len(patients) or None,
        "label_names": list(source.label_names),
        "missing": sorted(source.missing),
        "warnings": [message for _, message in source.warnings],
    }
    return {"report": report}


if __name__ == "__main__":
    found = main(sys.argv[1], sys.argv[2], Config.from_dict(json.load(sys.stdin)))
    print(json.dumps(found))
