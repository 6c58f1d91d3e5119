"""The application: the table of routes, and what lives as long as the server."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from config import UserError
from engine.records import spool
from engine.records.location import check_local
from engine.records.store import Store
from server import errors
from server.background import keep_running
from server.exposition import Requests, new_counts
from server.gate import Gate
from server.hub import Hub
from server.inference import Inference
from server.limits import QuietLoop
from server.notify import Notifier
from server.retention import Retention
from server.routes import datasets, lists, live, predictions, runs, service
from server.security import Guard
from server.settings import Settings, check_exposure
from server.supervisor import Supervisor

BUSY_SECONDS = 5.0  # that a request waits for another's lock on the database

ROUTES = [
    Route("/", service.page),
    Route("/login", service.show_login, methods=["GET"]),
    Route("/login", service.login, methods=["POST"]),
    Route("/logout", service.logout, methods=["POST"]),
    Route("/session", service.session),
    Route("/healthz", service.health),
    Route("/readyz", service.ready),
    Route("/metrics", service.metrics),
    Route("/openapi.json", service.openapi),
    Route("/experiments/centralized", runs.start_run, methods=["POST"]),
    Route("/runs", lists.list_runs),
    Route("/groups", lists.list_groups),
    Route("/compare", lists.compare_runs),
    Route("/estimate", lists.estimate_run, methods=["POST"]),
    Route("/runs/{run_id:run_id}", runs.show_run, methods=["GET"]),
    Route("/runs/{run_id:run_id}", runs.change_run, methods=["PATCH"]),
    Route("/runs/{run_id:run_id}", runs.delete_run, methods=["DELETE"]),
    Route("/runs/{run_id:run_id}/cancel", runs.cancel_run, methods=["POST"]),
    Route("/runs/{run_id:run_id}/resume", runs.resume_run, methods=["POST"]),
    Route("/runs/{run_id:run_id}/predict", predictions.predict, methods=["POST"]),
    Route("/runs/{run_id:run_id}/metrics", runs.run_metrics),
    Route("/runs/{run_id:run_id}/metrics.csv", runs.metrics_csv),
    Route("/runs/{run_id:run_id}/events", runs.run_events),
    Route("/runs/{run_id:run_id}/artifacts/{name}", runs.artifact),
    Route("/datasets", datasets.list_datasets),
    Route("/datasets/{name}", datasets.show_dataset, methods=["GET"]),
    Route("/datasets/{name}", datasets.put_dataset, methods=["PUT"]),
    Route("/datasets/{name}", datasets.delete_dataset, methods=["DELETE"]),
    Route("/datasets/{name}/report", datasets.show_report, methods=["GET"]),
    WebSocketRoute("/ws", live.stream),
    WebSocketRoute("/ws/runs/{run_id:run_id}", live.stream),
    Mount("/static", StaticFiles(directory=service.STATIC)),
]


def create_app(settings: Settings) -> Starlette:
    """The ASGI application.

    Raises UserError where it would be open to others without a token, or where the database is on a
    network file system.
    """
    check_exposure(settings)
    output = settings.config.output
    check_local(settings.database, output.allow_network_database)
    gate, counts = Gate(settings), new_counts()

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        asyncio.get_running_loop().set_exception_handler(QuietLoop())
        async with contextlib.AsyncExitStack() as stack:
            # Three connections: reading never waits for writing, and the hub sees both.
            store, writer, log = [
                await stack.enter_async_context(
                    await Store.open(settings.database, BUSY_SECONDS, check=False)
                )
                for _ in range(3)
            ]
            await asyncio.to_thread(spool.replay, settings.database, Path(output.results_dir))
            datasets.clear_unfinished(settings.upload_dir)
            hub, supervisor = Hub(log), Supervisor(writer, settings)
            inference = Inference(settings.predict_device)
            stack.push_async_callback(inference.close)
            await hub.start()
            await supervisor.look()
            works: list[Any] = [hub, supervisor]
            if settings.keep_days is not None:
                works.append(Retention(writer, settings))
            if settings.notify is not None:
                works.append(Notifier(store, settings))
            tasks = [asyncio.create_task(keep_running(work.run, work.faults)) for work in works]
            try:
                yield {
                    "settings": settings,
                    "store": store,
                    "writer": writer,
                    "hub": hub,
                    "supervisor": supervisor,
                    "gate": gate,
                    "inference": inference,
                    "requests": counts,
                    "faults": [work.faults for work in works],
                }
            finally:  # the workers continue: the next server adopts them
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    return Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[
            Middleware(Requests, routes=ROUTES, counts=counts),
            Middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies)),
            Middleware(Guard, settings=settings, gate=gate),
        ],
        exception_handlers={
            errors.ApiError: errors.on_api_error,
            HTTPException: errors.on_http_error,
            sqlite3.Error: errors.on_trouble,
            OSError: errors.on_trouble,
            UserError: errors.on_trouble,
            Exception: errors.on_fault,
        },
    )
