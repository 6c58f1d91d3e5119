"""The client side of the child process that holds models: started on need, restarted when it dies.

The server itself never imports torch: images go to the child as files, answers come back as lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from server.errors import RETRY, ApiError
from server.launcher import SECRETS

MOST_PENDING = 64  # requests at once: with more, the next ones are answered 503
PATIENCE = 120.0  # seconds for an answer, the start of the child and a model's loading included
LINE_BYTES = 32 << 20  # of an answer at most
END_SECONDS = 5.0  # that the child has to end when its input does

log = logging.getLogger("pneumoscope")


class Inference:
    """Asks the child; there is at most one."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self.folder = Path(tempfile.mkdtemp(prefix="pneumoscope-"))  # of images on their way

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def ask(self, **request: Any) -> dict[str, Any]:
        """The child's answer with status 200. Raises ApiError for every other one."""
        if len(self._pending) >= MOST_PENDING:
            detail = f"{MOST_PENDING} images are waiting already; try again"
            raise ApiError(503, detail, headers=RETRY)
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            async with asyncio.timeout(PATIENCE):
                process = await self._running()
                assert process.stdin is not None
                process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
                await process.stdin.drain()
                found: dict[str, Any] = await answer
        except (ConnectionError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self._kill()
            raise _gone() from None
        finally:
            del self._pending[number]
            answer.cancel()
        status = found.pop("status")
        if status != 200:
            if status == 500:
                log.error("prediction failed: %s", found["detail"])
                raise ApiError(500, "the server has failed at this; its log says why")
            raise ApiError(status, found["detail"], field=found["field"])
        return found

    async def close(self) -> None:
        """End the child and remove the images."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), END_SECONDS)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._reader is not None:
            await asyncio.wait([self._reader])
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def _running(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                environment = {k: v for k, v in os.environ.items() if k not in SECRETS}
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "engine.inference.serve", "--device", self._device),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=environment,
                    limit=LINE_BYTES,
                )
                self._reader = asyncio.create_task(self._read(self._process))
            return self._process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand out answers until the child ends; what was asked of it is then answered 503."""
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                found = json.loads(line)
                answer = self._pending.get(found.pop("id"))
                if answer is not None and not answer.done():
                    answer.set_result(found)
        except ValueError as error:  # no line of ours: the child is of no use any more
            log.error("the process that holds models: %s", error)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        if self._process is process:
            self._process = None
            log.error("the process that holds models ended with %s; the next request starts it "
                      "again", code)  # fmt: skip
        for answer in list(self._pending.values()):
            if not answer.done():
                answer.set_exception(_gone())

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


def _gone() -> ApiError:
    detail = "the process that holds models has ended or hangs; it is started again: try again"
    return ApiError(503, detail, headers=RETRY)
