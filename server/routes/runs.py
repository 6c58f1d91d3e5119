"""Runs: start, list, look at, cancel, resume, delete, and what they left behind."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from config import Config
from engine.files import csv_table, jsonable
from engine.records.database import LIVE
from engine.records.identity import has_snapshot, run_folder
from engine.records.liveness import host_name, is_running, this_host
from engine.records.log import METRIC_COLUMNS
from server.artifacts import artifacts, delete_files, existing, read_json
from server.download import REPORT_POLICY, Download
from server.errors import ApiError
from server.hub import encode_all
from server.listing import choice_of, settings_of
from server.parsing import (
    MAX_ID,
    changed_tags,
    get_run,
    number_of,
    read_change,
    read_start,
)
from server.routes.datasets import drop_unused
from server.supervisor import ENDED, RESUMABLE, output_of

PAGE, LARGEST_PAGE = 50, 500
SEEN_RUNS = 3  # from which a duration is estimated, at most
# What decides how long an epoch takes, beside data and device.
COSTS = (
    *("system.batch_size", "system.precision", "system.compile", "system.deterministic"),
    *("system.device", "model.backbone", "model.freeze_epochs", "data.image_size"),
)


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


async def list_runs(request: Request) -> Response:
    """GET /runs: a page of runs, the newest first, each with its figures and its progress."""
    store = request.state.store
    limit = number_of(request, "limit", PAGE, 1, LARGEST_PAGE) or PAGE
    choice, keys = choice_of(request, limit), settings_of(request)
    last_event_id = await store.last_event_id()  # first: what comes later is in the stream
    rows = await store.find_runs(choice, keys)
    progress = await store.progress([row["run_id"] for row in rows])
    runs = [
        _readable({name: value for name, value in row.items() if name not in keys})
        | {"progress": _progress(progress.get(row["run_id"]))}
        | {"settings": {key: row[key] for key in keys}}
        for row in rows
    ]
    return JSONResponse(
        {
            "runs": jsonable(runs),
            "next_before": rows[-1]["run_id"] if len(rows) == limit else None,
            "total": await store.count_chosen(choice),
            "counts": await store.count_runs(),
            "last_event_id": last_event_id,
        }
    )


async def list_groups(request: Request) -> Response:
    """GET /groups: completed runs that differ in their seeds alone, with mean and spread."""
    limit = number_of(request, "limit", PAGE, 1, LARGEST_PAGE) or PAGE
    rows = await request.state.store.run_groups(choice_of(request, limit))
    for row in rows:
        row["run_ids"] = sorted(int(run_id) for run_id in str(row["run_ids"]).split(","))
    return JSONResponse({"groups": jsonable(rows)})


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
    progress = await store.progress([run_id])
    files = artifacts(row, request.state.settings.config)
    found = await run_in_threadpool(existing, files, run_id)
    result = await run_in_threadpool(read_json, files["result"])
    row = _readable({key: value for key, value in row.items() if not key.startswith("pid")})
    more = {
        "progress": _progress(progress.get(run_id)),
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
    events = encode_all(await request.state.store.events_after(after, row["run_id"], limit))
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


async def estimated_duration(store: Any, dataset: Path, config: Config) -> float | None:
    """Seconds that all epochs would take, from earlier runs like it; None where there is none.

    Like it: the same data, device and settings that decide the speed. Early stopping may end it
    sooner.
    """
    wanted = config.to_dict()
    seconds = []
    for row in await store.completed_with(str(dataset)):
        same = isinstance(row["config"], dict) and all(
            _setting(row["config"], key) == _setting(wanted, key) for key in COSTS
        )
        if same and row["total_epochs_run"] and row["training_time"]:
            seconds.append(row["training_time"] / row["total_epochs_run"])
        if len(seconds) == SEEN_RUNS:
            break
    return round(median(seconds) * config.experiment.epochs, 1) if seconds else None


def _setting(config: dict[str, Any], key: str) -> Any:
    section, name = key.split(".")
    values = config.get(section)
    return values.get(name) if isinstance(values, dict) else None


async def _conflict(request: Request, detail: str) -> None:
    row = await get_run(request, request.state.store)
    detail = f"run {row['run_id']} is {row['status']}: {detail}"
    raise ApiError(409, detail, field="run_id", more={"status": row["status"]})


async def _state(request: Request, message: str) -> Response:
    row = await get_run(request, request.state.store)
    answer = {"run_id": row["run_id"], "status": row["status"], "message": message}
    return JSONResponse(answer, status_code=202)


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """SQLite has no booleans."""
    early = row["early_stopped"]
    tags = row["tags"] if isinstance(row["tags"], list) else []
    return row | {"early_stopped": None if early is None else bool(early), "tags": tags}


def _progress(event: dict[str, Any] | None) -> dict[str, Any] | None:
    if event is None or not isinstance(event["payload"], dict):
        return None
    return event["payload"] | {"at": event["at"]}


async def _lost_snapshots(state: Any, row: dict[str, Any]) -> bool:
    """Whether a run has trained and left nothing to resume from."""
    trained = bool(await state.store.metrics(row["run_id"]))
    output = output_of(row, state.settings.config)
    return trained and not await run_in_threadpool(has_snapshot, output, row["run_id"])
