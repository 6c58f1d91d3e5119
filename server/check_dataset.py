"""`python -m server.check_dataset FILE NAME [PAGE]`: check an upload, in a process of its own.

Every image is decoded, into the decode cache that a run would fill, so that bad ones are found on
arrival and the run starts sooner. A hostile ZIP costs the server no memory and none of its time.
With PAGE, the page that `engine.check` makes is written there. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from config import Config, UserError
from engine.data.source import DatasetError, Source, open_source

CHECK_SECONDS = 300.0  # for any ZIP, and more for a large one:
BYTES_PER_SECOND = 1e6  # that are checked at least
NICENESS = 10  # training and the server itself come first
OUTPUT_BYTES = 4000  # of a failed check's output in the server's log

log = logging.getLogger("pneumoscope")
_one_at_a_time = asyncio.Semaphore(1)


async def check(path: Path, name: str, config: Config) -> dict[str, Any]:
    """What `main` returns, for a file that people know as `name`."""
    async with _one_at_a_time:
        return await _check(path, name, config)


async def make_page(path: Path, name: str, config: Config, page: Path) -> str | None:
    """Write the page of an uploaded data set, unless it is there; why it could not be made."""
    async with _one_at_a_time:
        if await asyncio.to_thread(page.exists):  # made while this one waited
            return None
        found = await _check(path, name, config, page)
        return found.get("detail")


async def _check(path: Path, name: str, config: Config, page: Path | None = None) -> dict[str, Any]:
    seconds = CHECK_SECONDS + path.stat().st_size / BYTES_PER_SECOND  # noqa: ASYNC240  one call
    with tempfile.TemporaryFile() as errors:  # not in memory: a decoder may warn of every image
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.check_dataset", str(path), name),
            *([] if page is None else [str(page)]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        try:
            async with asyncio.timeout(seconds):
                output, _ = await process.communicate(json.dumps(config.to_dict()).encode())
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                return _failed(f"{name} could not be checked in {seconds:.0f} s")
            raise
        if process.returncode != 0:
            errors.seek(max(0, errors.tell() - OUTPUT_BYTES))
            words = errors.read().decode(errors="replace")
            log.error("the check of %s ended with %s: %s", name, process.returncode, words)
            return _failed(f"{name} could not be checked; is it a ZIP with metadata.csv?")
    found: dict[str, Any] = json.loads(output)
    return found


def _failed(detail: str) -> dict[str, Any]:
    return {"detail": detail, "problems": [detail], "count": 1}


def main(path: str, name: str, config: Config) -> dict[str, Any]:
    """{"report": ...} of a good data set, {"detail", "problems", "count"} of another."""
    from engine.data.prepare import prepare  # with numpy and Pillow: not in the server's process

    try:
        report = _report(open_source(path, config.data))
        try:
            whole = prepare(path, config).report
        except DatasetError:
            raise
        except UserError as error:  # no room to decode, no split: other settings may do
            message = f"with the server's settings a run would fail: {error}"
            report["warnings"].append(message.replace(path, name))
        else:
            report["warnings"] = whole["warnings"]
            report["unreadable"] = whole["unreadable"]
    except DatasetError as error:
        return {
            "detail": str(error).replace(path, name),
            "problems": [problem.replace(path, name) for problem in error.problems],
            "count": error.count,
        }
    return {"report": report}


def write_page(path: str, name: str, config: Config, page: str) -> dict[str, Any]:
    """{} where the page has been written, {"detail"} where it could not be."""
    from engine.files import write_text
    from engine.report.checking import check_dataset  # with torch, for the augmented images

    try:
        write_text(Path(page), check_dataset(Path(path), name, config).page)
    except UserError as error:
        return {"detail": str(error).replace(path, name)}
    return {}


def _report(source: Source) -> dict[str, Any]:
    labels = Counter(source.label_names[record.label] for record in source.records)
    patients = {record.patient for record in source.records if record.patient}
    return {
        "kind": source.kind,
        "images": len(source.records),
        "counts": dict(labels),
        "patients": len(patients) or None,
        "label_names": list(source.label_names),
        "missing": sorted(source.missing),
        "unreadable": {},  # name -> reason
        "warnings": [message for _, message in source.warnings],
    }


if __name__ == "__main__":
    os.nice(NICENESS)
    path, name, *pages = sys.argv[1:]
    settings = Config.from_dict(json.load(sys.stdin))
    found = write_page(path, name, settings, pages[0]) if pages else main(path, name, settings)
    print(json.dumps(found))
