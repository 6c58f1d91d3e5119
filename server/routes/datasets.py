"""Data sets: upload, list, look at, delete."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from engine.records.database import LIVE
from server.check_dataset import check, make_page
from server.download import REPORT_POLICY, Download
from server.errors import NO_SPACE, ApiError
from server.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PART = ".upload-"  # how the names of unfinished uploads begin
CHUNK = 1 << 20  # bytes handed to the disk at once
UNFINISHED = ("queued", *LIVE)


async def put_dataset(request: Request) -> Response:
    """PUT /datasets/{name}: a ZIP as the raw body, kept only where it is a good data set.

    The file's name holds its content's hash: a later upload of the same name does not change the
    data of runs that have the earlier one.
    """
    state, name = request.state, name_of(request)
    folder: Path = state.settings.upload_dir
    try:
        async with _new_part(folder) as (part, file):
            fingerprint = await _receive(request, file, state.settings)
            found = await check(part, f"{name}.zip", state.settings.config)
            if "problems" in found:
                problems = {"problems": found["problems"], "count": found["count"]}
                raise ApiError(422, found["detail"], more=problems)
            path = (folder / f"{name}-{fingerprint[:16]}.zip").resolve()
            try:
                async with state.writer.transaction():  # a deletion of the same file has to wait
                    before = await state.writer.get_dataset(name)
                    await run_in_threadpool(part.replace, path)
                    await state.writer.put_dataset(name, str(path), fingerprint, found["report"])
            except BaseException:
                await drop_unused(state, str(path))
                raise
    except OSError as error:
        raise _storage_error(error) from error
    if before is not None and before["path"] != str(path):
        await drop_unused(state, before["path"])
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


async def show_report(request: Request) -> Response:
    """GET /datasets/{name}/report: the page of `engine.check`, made when it is first asked for."""
    state, name = request.state, name_of(request)
    row = await state.store.get_dataset(name)
    if row is None:
        raise ApiError(404, f"there is no data set {name}", field="name")
    path = Path(row["path"])
    page = page_of(path)
    if not await run_in_threadpool(page.exists):
        if why := await make_page(path, f"{name}.zip", state.settings.config, page):
            raise ApiError(409, why, field="name")
        if not await run_in_threadpool(path.exists):  # deleted meanwhile
            await run_in_threadpool(page.unlink, missing_ok=True)
    try:
        return await run_in_threadpool(Download, page, f"{name}.html", REPORT_POLICY)
    except FileNotFoundError:
        raise ApiError(404, f"there is no data set {name} any more", field="name") from None


def page_of(path: Path) -> Path:
    """Where the page of an uploaded file lies."""
    return path.with_suffix(".html")


async def delete_dataset(request: Request) -> Response:
    """DELETE /datasets/{name}: the data set and its uploaded file, unless a run needs it now.

    Runs that have ended keep their results; they cannot be resumed without the file.
    """
    state, name = request.state, name_of(request)
    async with state.writer.transaction():
        row = await state.writer.get_dataset(name)
        if row is None:
            raise ApiError(404, f"there is no data set {name}", field="name")
        if run_id := await state.writer.run_of_dataset(row["path"], UNFINISHED):
            detail = f"run {run_id} uses the data set {name}: cancel it first, or wait for its end"
            raise ApiError(409, detail, field="name", more={"run_id": run_id})
        await state.writer.delete_dataset(name)
        await _unlink(state, row["path"])
    return Response(status_code=204)


async def drop_unused(state: Any, path: str | None) -> None:
    """Delete an uploaded file that no data set and no run names any more."""
    if path is None or not _is_upload(state.settings, path):
        return
    async with state.writer.transaction():  # no run can be given it meanwhile
        if await state.writer.dataset_is_used(path):
            return
        if any(row["path"] == path for row in await state.writer.list_datasets()):
            return
        await _unlink(state, path)


async def _unlink(state: Any, path: str) -> None:
    if _is_upload(state.settings, path):
        for file in (Path(path), page_of(Path(path))):
            await run_in_threadpool(file.unlink, missing_ok=True)


def _is_upload(settings: Settings, path: str) -> bool:
    """Whether the file was uploaded; any other belongs to a person."""
    return Path(path).parent == settings.upload_dir.resolve()


def name_of(request: Request) -> str:
    """The data set in the path. Raises ApiError 422."""
    name: str = request.path_params["name"]
    if not NAME.fullmatch(name):
        detail = "a name has up to 64 letters, digits, dots, dashes and underscores, and begins "
        raise ApiError(422, f"{detail}with a letter or a digit", field="name")
    return name


def clear_unfinished(folder: Path) -> None:
    """Remove what uploads left whose server was killed; another server may be receiving others."""
    for part in folder.glob(f"{PART}*"):
        with contextlib.suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its server holds it until the end
            part.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _new_part(folder: Path) -> AsyncIterator[tuple[Path, BinaryIO]]:
    """An unfinished upload's file, locked while it is one; deleted unless it was renamed."""
    path, file = await run_in_threadpool(_create_part, folder)
    try:
        with file:
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def _create_part(folder: Path) -> tuple[Path, BinaryIO]:
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor, text = tempfile.mkstemp(prefix=PART, dir=folder)
        file = os.fdopen(descriptor, "wb")
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if Path(text).exists():  # else a server that just started has removed it
                return Path(text), file
        except BaseException:
            Path(text).unlink(missing_ok=True)
            file.close()
            raise
        file.close()


async def _receive(request: Request, file: BinaryIO, settings: Settings) -> str:
    """Write the body to the file, in constant memory; its SHA-256. Raises ApiError, OSError."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:19]) > settings.max_upload:
        raise _too_large(settings)
    try:
        return await _stream_to(file, request, settings)
    except ClientDisconnect:
        raise ApiError(400, "the upload broke off") from None
    except TimeoutError:
        raise ApiError(408, "the upload stood still for too long") from None


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
