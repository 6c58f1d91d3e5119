"""Runs: start, list, look at, cancel, resume, delete, and what they left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from config import Config
from server.errors import ApiError
from server.hub import flat
from server.parsing import MAX_ID, get_run, number_of, read_start, statuses_of
from server.supervisor import ENDED, RESUMABLE, checkpoint_folder

PAGE, LARGEST_PAGE = 50, 500
SEEN_RUNS = 3  # from which a duration is estimated, at most
# What decides how long an epoch takes, beside data and device.
COSTS = (
    *("system.batch_size", "system.precision", "system.compile", "system.deterministic"),
    *("system.device", "model.backbone", "model.freeze_epochs", "data.image_size"),
)
ARTIFACTS = {
    "checkpoint": ("checkpoints", "best_model.pt"),
    "last": ("checkpoints", "last.pt"),
    "csv": ("results", "metrics_{}.csv"),
    "json": ("results", "metrics_{}.json"),
    "result": ("results", "result_{}.json"),
    "scores": ("results", "scores_{}.csv"),
    "scores_test": ("results", "scores_test_{}.csv"),
    "validation": ("results", "validation_{}.json"),
    "manifest": ("results", "manifest_{}.json"),
    "report": ("results", "report_{}.html"),
    "log": ("logs", "run_{}.log"),
    "console": ("logs", "run_{}.console.log"),
}


async def start_run(request: Request) -> Response:
    """POST /experiments/centralized: queue a run, and start it where a slot is free."""
    state = request.state
    wanted = await read_start(request, state.settings, state.store)
    estimate = await estimated_duration(state.store, wanted.dataset, wanted.config)
    async with state.writer.transaction():
        run_id = await state.writer.create_run(
            run_name=wanted.run_name,
            run_description=wanted.run_description,
            config=wanted.config.to_dict(),
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
    limit = number_of(request, "limit", PAGE, 1, LARGEST_PAGE)
    before = number_of(request, "before", None, 1, MAX_ID)
    last_event_id = await store.last_event_id()  # first: what comes later is in the stream
    rows = await store.list_runs(
        statuses_of(request), request.query_params.get("name", ""), limit, before
    )
    progress = await store.progress([row["run_id"] for row in rows])
    return JSONResponse(
        {
            "runs": [
                _readable(row) | {"progress": _progress(progress.get(row["run_id"]))}
                for row in rows
            ],
            "next_before": rows[-1]["run_id"] if len(rows) == limit else None,
            "counts": await store.count_runs(),
            "last_event_id": last_event_id,
        }
    )


async def show_run(request: Request) -> Response:
    """GET /runs/{run_id}: all that is known of one run."""
    store = request.state.store
    last_event_id = await store.last_event_id()
    row = await get_run(request, store)
    run_id = row["run_id"]
    progress = await store.progress([run_id])
    files = artifacts(row)
    existing = await run_in_threadpool(_existing, files, run_id)
    result = await run_in_threadpool(_read_json, files["result"])
    row = _readable({key: value for key, value in row.items() if not key.startswith("pid")})
    return JSONResponse(
        row
        | {
            "progress": _progress(progress.get(run_id)),
            "result": result,
            "artifacts": existing,
            "last_event_id": last_event_id,
        }
    )


async def run_metrics(request: Request) -> Response:
    """GET /runs/{run_id}/metrics: a row for each epoch."""
    row = await get_run(request, request.state.store)
    return JSONResponse({"metrics": await request.state.store.metrics(row["run_id"])})


async def run_events(request: Request) -> Response:
    """GET /runs/{run_id}/events?after=: the log of one run."""
    row = await get_run(request, request.state.store)
    after = number_of(request, "after", 0, 0, MAX_ID)
    limit = number_of(request, "limit", 1000, 1, 1000)
    events = await request.state.store.events_after(after, row["run_id"], limit)
    return JSONResponse({"events": [flat(event) for event in events]})


async def cancel_run(request: Request) -> Response:
    """POST /runs/{run_id}/cancel: stop gracefully, then by force."""
    row = await get_run(request, request.state.store)
    if not await request.state.supervisor.cancel(row["run_id"]):
        await _conflict(request, "only a queued or a running run can be cancelled")
    return await _state(request, "the run is being stopped")


async def resume_run(request: Request) -> Response:
    """POST /runs/{run_id}/resume: queue a run that ended before its time; it goes on exactly."""
    state = request.state
    row = await get_run(request, state.store)
    async with state.writer.transaction():
        queued = await state.writer.requeue_run(row["run_id"], RESUMABLE)
    if not queued:
        await _conflict(request, "only an interrupted, stopped or failed run can be resumed")
    await state.supervisor.look()
    return await _state(request, "the run goes on from its last checkpoint")


async def delete_run(request: Request) -> Response:
    """DELETE /runs/{run_id}: the run, its events and its files, once it has ended."""
    state = request.state
    row = await get_run(request, state.store)
    async with state.writer.transaction():
        deleted = await state.writer.delete_run(row["run_id"], ENDED)
    if not deleted:
        await _conflict(request, "only a run that has ended can be deleted")
    await run_in_threadpool(_delete_files, row)
    return Response(status_code=204)


async def artifact(request: Request) -> Response:
    """GET /runs/{run_id}/artifacts/{name}: one file, whole or in ranges."""
    row = await get_run(request, request.state.store)
    run_id, name = row["run_id"], request.path_params["name"]
    files = artifacts(row)
    if name not in files:
        raise ApiError(404, f"the artifacts are {', '.join(files)}", field="name")
    path = files[name]
    if not await run_in_threadpool(path.is_file):
        raise ApiError(404, f"run {run_id} has no {name} yet", field="name")
    plain = path.name if path.parent != checkpoint_folder(row) else f"run_{run_id}_{path.name}"
    # It may grow at any time: a browser must ask each time.
    return FileResponse(path, filename=plain, headers={"cache-control": "no-cache"})


def artifacts(row: dict[str, Any]) -> dict[str, Path]:
    """Every file that a run can leave, by the name it has in its route."""
    output = row["config"]["output"]
    folders = {
        "checkpoints": checkpoint_folder(row),
        "results": Path(output["results_dir"]),
        "logs": Path(output["log_dir"]),
    }
    return {
        name: folders[folder] / file.format(row["run_id"])
        for name, (folder, file) in ARTIFACTS.items()
    }


async def estimated_duration(store: Any, dataset: Path, config: Config) -> float | None:
    """Seconds that all epochs would take, from earlier runs like it; None where there is none.

    Like it: the same data, device and settings that decide the speed. Early stopping may end it
    sooner.
    """
    wanted = config.to_dict()
    seconds = []
    for row in await store.completed_with(str(dataset)):
        same = all(_setting(row["config"], key) == _setting(wanted, key) for key in COSTS)
        if same and row["total_epochs_run"] and row["training_time"]:
            seconds.append(row["training_time"] / row["total_epochs_run"])
        if len(seconds) == SEEN_RUNS:
            break
    return round(median(seconds) * config.experiment.epochs, 1) if seconds else None


def _setting(config: dict[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return config.get(section, {}).get(name)


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
    return row | {"early_stopped": None if early is None else bool(early)}


def _progress(event: dict[str, Any] | None) -> dict[str, Any] | None:
    return event["payload"] | {"at": event["at"]} if event is not None else None


def _existing(files: dict[str, Path], run_id: int) -> list[dict[str, Any]]:
    found = []
    for name, path in files.items():
        if path.is_file():
            url = f"/runs/{run_id}/artifacts/{name}"
            found.append({"name": name, "bytes": path.stat().st_size, "url": url})
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _delete_files(row: dict[str, Any]) -> None:
    for path in artifacts(row).values():
        path.unlink(missing_ok=True)
    shutil.rmtree(checkpoint_folder(row), ignore_errors=True)
