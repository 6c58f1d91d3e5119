"""Lists of runs: a page of them, groups of seeds, a comparison, and what earlier ones foretell."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from config import Config
from engine.files import jsonable
from server.artifacts import artifacts
from server.listing import choice_of, run_ids_of, settings_of
from server.parsing import number_of, read_start

PAGE, LARGEST_PAGE = 50, 500
COMPARED = (
    *("run_id", "run_name", "status", "best_epoch", "training_time", "dataset_path"),
    *("dataset_fingerprint", "config"),
)
SEEN_RUNS = 3  # from which a duration is estimated, at most
# What decides how long an epoch takes, beside data and device.
COSTS = (
    *("system.batch_size", "system.precision", "system.compile", "system.deterministic"),
    *("system.device", "model.backbone", "model.freeze_epochs", "data.image_size"),
)


async def list_runs(request: Request) -> Response:
    """GET /runs: a page of runs, the newest first, each with its figures and its progress."""
    store = request.state.store
    limit = number_of(request, "limit", PAGE, 1, LARGEST_PAGE) or PAGE
    choice, keys = choice_of(request, limit), settings_of(request)
    last_event_id = await store.last_event_id()  # first: what comes later is in the stream
    rows = await store.find_runs(choice, keys)
    latest = await store.progress([row["run_id"] for row in rows])
    runs = [
        readable({name: value for name, value in row.items() if name not in keys})
        | {"progress": progress(latest.get(row["run_id"]))}
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


async def compare_runs(request: Request) -> Response:
    """GET /compare: what a comparison of several runs needs; unknown ones are left out."""
    store, run_ids = request.state.store, run_ids_of(request)
    last_event_id = await store.last_event_id()
    metrics = await store.metrics_of(run_ids)
    rows, config = await store.get_runs(run_ids), request.state.settings.config
    scored = await run_in_threadpool(
        lambda: [artifacts(row, config)["scores"].is_file() for row in rows]
    )
    runs = [
        {name: row[name] for name in COMPARED}
        | {"device": _device(row["manifest"]), "metrics": metrics[row["run_id"]], "scores": found}
        for row, found in zip(rows, scored, strict=True)
    ]
    return JSONResponse({"runs": jsonable(runs), "last_event_id": last_event_id})


def _device(manifest: Any) -> Any:
    hardware = manifest.get("hardware") if isinstance(manifest, dict) else None
    return hardware.get("device") if isinstance(hardware, dict) else None


async def estimate_run(request: Request) -> Response:
    """POST /estimate: how long a run would take that is not started."""
    state = request.state
    wanted = await read_start(request, state.settings, state.store)
    seconds = await estimated_duration(state.store, wanted.dataset, wanted.config)
    return JSONResponse({"estimated_duration": seconds})


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


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """SQLite has no booleans."""
    early = row["early_stopped"]
    tags = row["tags"] if isinstance(row["tags"], list) else []
    return row | {"early_stopped": None if early is None else bool(early), "tags": tags}


def progress(event: dict[str, Any] | None) -> dict[str, Any] | None:
    """A run's latest progress as it travels; None where there is none."""
    if event is None or not isinstance(event["payload"], dict):
        return None
    return event["payload"] | {"at": event["at"]}
