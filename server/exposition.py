"""GET /metrics: what Prometheus reads. Labels are bounded: routes, methods, statuses, live runs."""

from __future__ import annotations

import shutil
import time
from bisect import bisect_left
from collections import defaultdict
from typing import Any

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.records.database import LIVE, STATUSES
from engine.records.queries import FIGURES, Choice

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds
SHOWN = 64  # live runs with series of their own, at most
OTHER = "other"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SYSTEM = ("cpu_percent", "memory_bytes", "gpu_percent", "gpu_memory_bytes", "gpu_watts")


class Requests:
    """ASGI middleware that counts answers and their times, by route and not by address."""

    def __init__(self, app: ASGIApp, routes: list[Any], counts: dict[Any, list[float]]) -> None:
        """`counts`: (route, method, class of status) -> a count a bucket, the sum at the end."""
        self._app, self._counts = app, counts
        self._routes = [route for route in routes if isinstance(route, Route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and count the answer when it begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, counted)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else OTHER
        counts = self._counts[(self._route_of(scope), method, f"{status // 100}xx")]
        counts[bisect_left(BUCKETS, seconds)] += 1
        counts[-1] += seconds

    def _route_of(self, scope: Scope) -> str:
        for route in self._routes:
            if route.matches(scope)[0] != Match.NONE:
                return route.path.replace(":run_id", "")
        return "/static" if scope["path"].startswith("/static/") else OTHER


def new_counts() -> dict[Any, list[float]]:
    """For `Requests`."""
    return defaultdict(lambda: [0.0] * (len(BUCKETS) + 2))


async def exposition(state: Any) -> str:
    """The whole text."""
    store, counts = state.store, await state.store.count_runs()
    live = await store.find_runs(Choice(LIVE, limit=SHOWN))
    lines = [
        *family("pneumoscope_runs", "gauge", "runs by status"),
        *(f'pneumoscope_runs{{status="{s}"}} {counts.get(s, 0)}' for s in STATUSES),
        *one("events_total", "counter", "events written", await store.last_event_id()),
        *one("queue_depth", "gauge", "runs that wait for a device", counts.get("queued", 0)),
        *one("slots", "gauge", "runs that can train at once", state.supervisor.slots()),
        *one("free_slots", "gauge", "slots without a run", state.supervisor.free_slots()),
        *one("sockets", "gauge", "open sockets", state.hub.sockets),
        *one("sockets_dropped_total", "counter", "sockets that were too slow", state.hub.dropped),
        *one("disk_free_bytes", "gauge", "free beside the database", _disk_free(state)),
        *one("task_faults", "gauge", "what fails now", sum(len(f.present()) for f in state.faults)),
        *_latencies(state.requests),
        *_of_runs("epoch", live, "epoch"),
    ]
    for name in FIGURES:
        lines += _of_runs(name, live, name)
    system = {run["run_id"]: await store.events_after(0, run["run_id"], 1, "system_metrics")
              for run in live}  # fmt: skip
    for name in SYSTEM:
        values = [{"run_id": k, name: rows[0]["payload"].get(name)} for k, rows in system.items()
                  if rows]  # fmt: skip
        lines += _of_runs(f"system_{name}", values, name)
    return "\n".join(lines) + "\n"


def family(name: str, kind: str, meaning: str) -> list[str]:
    """The two lines before a metric's samples."""
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def one(name: str, kind: str, meaning: str, value: float) -> list[str]:
    """A metric with one sample."""
    full = f"pneumoscope_{name}"
    return [*family(full, kind, meaning), f"{full} {value}"]


def _of_runs(name: str, rows: list[dict[str, Any]], key: str) -> list[str]:
    full = f"pneumoscope_{name}"
    return [
        *family(full, "gauge", f"{key} of the runs that train now"),
        *(f'{full}{{run_id="{row["run_id"]}"}} {row[key]:.10g}' for row in rows
          if isinstance(row[key], int | float)),
    ]  # fmt: skip


def _latencies(counts: dict[Any, list[float]]) -> list[str]:
    name = "pneumoscope_request_seconds"
    lines = family(name, "histogram", "from a request to the beginning of its answer")
    for (route, method, status), values in sorted(counts.items()):
        labels = f'route="{route}",method="{method}",status="{status}"'
        total = 0.0
        for bound, value in zip((*map(str, BUCKETS), "+Inf"), values[:-1], strict=True):
            total += value
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total:.0f}')
        lines.append(f"{name}_sum{{{labels}}} {values[-1]:.6f}")
        lines.append(f"{name}_count{{{labels}}} {total:.0f}")
    return lines


def _disk_free(state: Any) -> int:
    try:
        return shutil.disk_usage(state.settings.database.parent).free
    except OSError:
        return 0
