"""Runs: start, list, look at, cancel, resume, delete, and what they left behind."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from engine.files import csv_table, jsonable
from engine.records.database import LIVE
from engine.records.identity import has_snapshot, run_folder
from engine.records.liveness import host_name, is_running, this_host
from engine.records.log import METRIC_COLUMNS
from server.artifacts import artifacts, delete_files, existing, read_json
from server.download import REPORT_POLICY, Download
from server.errors import ApiError
from server.hub import encode_all
from server.parsing import (
    MAX_ID,
    changed_tags,
    get_run,
    number_of,
    read_change,
    read_start,
)
from server.routes.datasets import drop_unused
from server.routes.lists import estimated_duration, progress, readable
from server.supervisor import ENDED, RESUMABLE, output_of


async def start_run(request: Request) -> Response:
    """POST /experiments/centralized: queue a run, and start it where a slot is free."""
    state = request.state
    wanted = await read_start(request, state.settings, state.store)
    estimate = await estimated_duration(state.store, wanted.dataset, wanted.config)
    async with state.writer.transaction():
        # Inside: an upload that replaces the data set deletes its file in a transaction, too.
        if not await run_in_threadpool(wanted.dataset.exists):
            raise ApiError(409, "the data set has been replaced or deleted", field="dataset_id")
        run_id = await state.writer.create_run(
            run_name=wanted.run_name,
            run_description=wanted.run_description,
            tags=wanted.tags,
            config=wanted.config.absolute().to_dict(),
            dataset_path=str(wanted.dataset),
            status="queued",
        )
    await state.supervisor.look()
    running = state.supervisor.is_running(run_id)
    return JSONResponse(
        {
            "run_id": run_id,
            "training_mode": "centralized",
            "status": "in_progress" if running else "queued",
            "message": "the run has begun" if running else "the run waits for a free device",
            "estimated_duration": estimate,
        },
        status_code=202,
    )


async def change_run(request: Request) -> Response:
    """PATCH /runs/{run_id}: its name, its description, its tags."""
    state = request.state
    changes = await read_change(request, state.settings)
    async with state.writer.transaction():
        row = await get_run(request, state.writer)  # inside: tags are added to what is there now
        tags = changed_tags(row["tags"], changes)
        fields = {key: changes[key] for key in ("run_name", "run_description") if key in changes}
        await state.writer.update_run(row["run_id"], **fields, tags=tags)
    row = await get_run(request, state.store)
    shown = ("run_id", "run_name", "run_description", "tags")
    return JSONResponse({key: row[key] for key in shown})


async def metrics_csv(request: Request) -> Response:
    """GET /runs/{run_id}/metrics.csv: a row for each epoch, as a table."""
    row = await get_run(request, request.state.store)
    rows = await request.state.store.metrics(row["run_id"])
    text = csv_table(METRIC_COLUMNS, ([one[name] for name in METRIC_COLUMNS] for one in rows))
    name = f"metrics_{row['run_id']}.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


async def show_run(request: Request) -> Response:
    """GET /runs/{run_id}: all that is known of one run."""
    store = request.state.store
    last_event_id = await store.last_event_id()
    row = await get_run(request, store)
    run_id = row["run_id"]
    latest = await store.progress([run_id])
    files = artifacts(row, request.state.settings.config)
    found = await run_in_threadpool(existing, files, run_id)
    result = await run_in_threadpool(read_json, files["result"])
    row = readable({key: value for key, value in row.items() if not key.startswith("pid")})
    more = {
        "progress": progress(latest.get(run_id)),
        "result": result,
        "artifacts": found,
        "last_event_id": last_event_id,
    }
    return JSONResponse(jsonable(row | more))


async def run_metrics(request: Request) -> Response:
    """GET /runs/{run_id}/metrics: a row for each epoch."""
    row = await get_run(request, request.state.store)
    rows = await request.state.store.metrics(row["run_id"])
    return JSONResponse({"metrics": jsonable(rows)})


async def run_events(request: Request) -> Response:
    """GET /runs/{run_id}/events?after=: the log of one run."""
    row = await get_run(request, request.state.store)
    after = number_of(request, "after", 0, 0, MAX_ID)
    limit = number_of(request, "limit", 1000, 1, 1000)
    kind = request.query_params.get("event")
    rows = await request.state.store.events_after(after, row["run_id"], limit, kind)
    events = encode_all(rows)
    return Response(f'{{"events":[{",".join(events)}]}}', media_type="application/json")


async def cancel_run(request: Request) -> Response:
    """POST /runs/{run_id}/cancel: stop gracefully, then by force."""
    row = await get_run(request, request.state.store)
    if not await request.state.supervisor.cancel(row["run_id"]):
        row = await get_run(request, request.state.store)
        if row["status"] in LIVE and row["host"] not in (None, this_host()):
            await _conflict(request, f"its process is on {host_name(row['host'])}; stop it there")
        await _conflict(request, "only a queued or a running run can be cancelled")
    return await _state(request, "the run is being stopped")


async def resume_run(request: Request) -> Response:
    """POST /runs/{run_id}/resume: queue a run that ended early; it continues exactly."""
    state = request.state
    row = await get_run(request, state.store)
    elsewhere = row["host"] not in (None, this_host())
    if row["status"] == "interrupted" and elsewhere and is_running(row):
        await _conflict(
            request, f"its process on {host_name(row['host'])} still shows signs of life"
        )
    if row["status"] in RESUMABLE and await _lost_snapshots(state, row):
        folder = run_folder(output_of(row, state.settings.config), row["run_id"])
        raise ApiError(
            409,
            f"run {row['run_id']} cannot be resumed: it has trained, and there is no last.pt or "
            f"previous.pt in {folder}; put them back, or start a new run",
            field="run_id",
            more={"status": row["status"]},
        )
    async with state.writer.transaction():
        queued = await state.writer.requeue_run(row["run_id"], RESUMABLE)
    if not queued:
        await _conflict(request, "only an interrupted, stopped or failed run can be resumed")
    await state.supervisor.look()
    return await _state(request, "the run continues from its last checkpoint")


async def delete_run(request: Request) -> Response:
    """DELETE /runs/{run_id}: the run, its events and its files, once it has ended."""
    state = request.state
    row = await get_run(request, state.store)
    async with state.writer.transaction():
        deleted = await state.writer.delete_run(row["run_id"], ENDED)
    if not deleted:
        await _conflict(request, "only a run that has ended can be deleted")
    await run_in_threadpool(delete_files, row, state.settings.config)
    await drop_unused(state, row["dataset_path"])
    return Response(status_code=204)


async def artifact(request: Request) -> Response:
    """GET /runs/{run_id}/artifacts/{name}: one file, whole or in ranges."""
    row = await get_run(request, request.state.store)
    run_id, name = row["run_id"], request.path_params["name"]
    config = request.state.settings.config
    files = artifacts(row, config)
    if name not in files:
        raise ApiError(404, f"the artifacts are {', '.join(files)}", field="name")
    path = files[name]
    of_folder = path.parent == run_folder(output_of(row, config), run_id)
    try:
        return await run_in_threadpool(
            Download,
            path,
            f"run_{run_id}_{path.name}" if of_folder else path.name,
            REPORT_POLICY if name == "report" else None,
        )
    except (FileNotFoundError, NotADirectoryError):
        raise ApiError(404, f"run {run_id} has no {name} yet", field="name") from None


async def _conflict(request: Request, detail: str) -> None:
    row = await get_run(request, request.state.store)
    detail = f"run {row['run_id']} is {row['status']}: {detail}"
    raise ApiError(409, detail, field="run_id", more={"status": row["status"]})


async def _state(request: Request, message: str) -> Response:
    row = await get_run(request, request.state.store)
    answer = {"run_id": row["run_id"], "status": row["status"], "message": message}
    return JSONResponse(answer, status_code=202)


async def _lost_snapshots(state: Any, row: dict[str, Any]) -> bool:
    """Whether a run has trained and left nothing to resume from."""
    trained = bool(await state.store.metrics(row["run_id"]))
    output = output_of(row, state.settings.config)
    return trained and not await run_in_threadpool(has_snapshot, output, row["run_id"])
