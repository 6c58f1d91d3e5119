"""How many connections the server takes, and what it says when the system gives no more."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import Any

from engine.limits import raise_file_limit
from server.protocols import SPARE

CONNECTIONS = 4096  # at most, where fewer sockets are asked for; ordinary requests need some too
REQUESTS = 512  # connections beside --max-sockets sockets
OTHER_FILES = 256  # descriptors for the database, the workers' logs, uploads and downloads
REPORT_SECONDS = 60.0
NO_RESOURCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger("pneumoscope")


def allowed_connections(max_sockets: int) -> int:
    """Raise the process's limit of open files as far as needed; the connections it allows."""
    wanted = max(CONNECTIONS, max_sockets + REQUESTS)
    files = wanted + SPARE + OTHER_FILES
    soft = raise_file_limit(files)
    if soft is None or soft >= files:
        return wanted
    allowed = max(soft - SPARE - OTHER_FILES, soft // 4, 8)
    log.warning(
        "%d open files are allowed, so that %d connections are answered; --max-sockets %d "
        "needs %d files (ulimit -n)",
        *(soft, allowed, max_sockets, files),
    )
    return allowed


class QuietLoop:
    """The event loop's exception handler: one line a minute where nothing can be accepted."""

    def __init__(self) -> None:
        self._next_report = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio reports each failed accept, thousands a second, with a traceback."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in NO_RESOURCE:
            loop.default_exception_handler(context)
        elif time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + REPORT_SECONDS
            log.error("new connections wait: %s (ulimit -n); not repeated for a minute", error)
