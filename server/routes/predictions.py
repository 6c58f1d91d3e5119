"""A run's model on an image that a client sends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from server.artifacts import artifacts
from server.errors import ApiError
from server.parsing import NAME_LENGTH, get_run

WRITTEN_AT_ONCE = 256 << 10  # bytes


async def predict(request: Request) -> Response:
    """POST /runs/{run_id}/predict: the score of one image, which is the body or a form's file.

    `?operating_point=` names one of the model's, `?heatmap=true` adds the image and its heat map,
    `?name=` is the file's name.
    """
    state, query = request.state, request.query_params
    row = await get_run(request, state.store)
    bundle = artifacts(row, state.settings.config)["checkpoint"]
    if not await run_in_threadpool(bundle.is_file):
        raise ApiError(409, f"run {row['run_id']} has no model yet", field="run_id")
    heatmap = query.get("heatmap", "false")
    if heatmap not in ("true", "false"):
        raise ApiError(422, "heatmap is true or false", field="heatmap")
    for name in ("operating_point", "name"):
        if len(query.get(name, "")) > NAME_LENGTH:
            raise ApiError(422, f"{name} has at most {NAME_LENGTH} characters", field=name)
    async with _received(request, state.inference.folder) as path:
        found = await state.inference.ask(
            bundle=str(bundle.absolute()),
            file=str(path),
            name=query.get("name", ""),
            content_type=request.headers.get("content-type", ""),
            operating_point=query.get("operating_point", ""),
            heatmap=heatmap == "true",
        )
    return JSONResponse(found)


@contextlib.asynccontextmanager
async def _received(request: Request, folder: Path) -> AsyncIterator[Path]:
    """The body as a file, in constant memory; removed behind the block. Raises ApiError."""
    settings, size, waiting = request.state.settings, 0, bytearray()
    number, name = await run_in_threadpool(tempfile.mkstemp, dir=folder)
    path = Path(name)
    try:
        try:
            async with asyncio.timeout(settings.body_timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > settings.max_image:
                        detail = f"an image may have {settings.max_image:,} bytes at most"
                        raise ApiError(413, detail)
                    waiting += chunk
                    if len(waiting) >= WRITTEN_AT_ONCE:
                        await run_in_threadpool(_write, number, bytes(waiting))
                        waiting.clear()
            await run_in_threadpool(_write, number, bytes(waiting))
        except TimeoutError:
            raise ApiError(408, "the image did not arrive in time") from None
        except ClientDisconnect:
            raise ApiError(400, "the client went away") from None
        finally:
            os.close(number)
        yield path
    finally:
        await run_in_threadpool(path.unlink, missing_ok=True)


def _write(number: int, data: bytes) -> None:
    while data:
        data = data[os.write(number, data) :]
