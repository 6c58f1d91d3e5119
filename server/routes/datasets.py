"""Data sets: upload, list, look at."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from server.check_dataset import check
from server.errors import ApiError
from server.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PART = ".upload-"  # how the names of unfinished uploads begin
CHUNK = 1 << 20  # bytes handed to the disk at once
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


async def put_dataset(request: Request) -> Response:
    """PUT /datasets/{name}: a ZIP as the raw body, kept only where it is a good data set.

    The file's name holds its content's hash: a later upload of the same name does not change the
    data of runs that have the earlier one.
    """
    state, name = request.state, name_of(request)
    folder: Path = state.settings.upload_dir
    try:
        await run_in_threadpool(folder.mkdir, parents=True, exist_ok=True)
        part, fingerprint = await _receive(request, state.settings)
    except OSError as error:
        raise _storage_error(error) from error
    try:
        found = await check(part, f"{name}.zip", state.settings.config)
        if "problems" in found:
            raise ApiError(422, found["detail"], more={"problems": found["problems"]})
        path = (folder / f"{name}-{fingerprint[:16]}.zip").resolve()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    before = await state.store.get_dataset(name)
    async with state.writer.transaction():
        await state.writer.put_dataset(name, str(path), fingerprint, found["report"])
    if before is not None and before["path"] != str(path):
        await _drop_unused(state, before["path"])
    row = await state.store.get_dataset(name)
    return JSONResponse(row, status_code=200 if before is not None else 201)


async def list_datasets(request: Request) -> Response:
    """GET /datasets: the newest first, each with its report."""
    return JSONResponse({"datasets": await request.state.store.list_datasets()})


async def show_dataset(request: Request) -> Response:
    """GET /datasets/{name}."""
    name = name_of(request)
    row = await request.state.store.get_dataset(name)
    if row is None:
        raise ApiError(404, f"there is no data set {name}", field="name")
    return JSONResponse(row)


def name_of(request: Request) -> str:
    """The data set in the path. Raises ApiError 422."""
    name: str = request.path_params["name"]
    if not NAME.fullmatch(name):
        detail = "a name has up to 64 letters, digits, dots, dashes and underscores, and begins "
        raise ApiError(422, f"{detail}with a letter or a digit", field="name")
    return name


def clear_unfinished(folder: Path) -> None:
    """Remove what uploads left that a killed server did not finish."""
    for part in folder.glob(f"{PART}*"):
        part.unlink(missing_ok=True)


async def _receive(request: Request, settings: Settings) -> tuple[Path, str]:
    """The body in a file of its own, and its SHA-256. In constant memory; nothing half is left."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:19]) > settings.max_upload:
        raise _too_large(settings)
    descriptor, text = tempfile.mkstemp(prefix=PART, dir=settings.upload_dir)
    part = Path(text)
    try:
        with os.fdopen(descriptor, "wb") as file:
            digest = await _stream_to(file, request, settings)
        return part, digest
    except BaseException as error:
        part.unlink(missing_ok=True)  # noqa: ASYNC240  at once, even where it is cancelled
        if isinstance(error, ClientDisconnect):
            raise ApiError(400, "the upload broke off") from None
        if isinstance(error, TimeoutError):
            raise ApiError(408, "the upload stood still for too long") from None
        raise


async def _stream_to(file: BinaryIO, request: Request, settings: Settings) -> str:
    digest, size, waiting = hashlib.sha256(), 0, bytearray()

    def write(content: bytearray) -> None:
        digest.update(content)
        file.write(content)

    body = aiter(request.stream())
    while True:
        async with asyncio.timeout(settings.body_timeout):
            chunk = await anext(body, None)
        if chunk is None:
            break
        size += len(chunk)
        if size > settings.max_upload:
            raise _too_large(settings)
        waiting += chunk
        if len(waiting) >= CHUNK:
            await run_in_threadpool(write, waiting)
            waiting = bytearray()
    await run_in_threadpool(write, waiting)
    await run_in_threadpool(_sync, file)
    return digest.hexdigest()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _too_large(settings: Settings) -> ApiError:
    return ApiError(
        413, f"a data set may have {settings.max_upload / 1e9:g} GB at most (data.max_unpacked_gb)"
    )


def _storage_error(error: OSError) -> ApiError:
    if error.errno in NO_SPACE:
        return ApiError(507, "the server's disk is full; nothing of the upload was kept")
    return ApiError(507, f"the upload folder cannot be written ({error.strerror})")


async def _drop_unused(state: Any, path: str) -> None:
    """A replaced data set that no run was given."""
    if not await state.store.dataset_is_used(path):
        await run_in_threadpool(Path(path).unlink, missing_ok=True)
