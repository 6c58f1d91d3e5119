"""--notify URL: a signed POST when a run ends, sent again until it is taken."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config import UserError
from engine.files import write_text
from engine.records.store import Store
from server.background import Faults
from server.settings import Settings

ENDINGS = ("training_complete", "training_stopped", "training_interrupted", "training_failed")
LOOK_SECONDS = 2.0
WAITS = (2.0, 10.0, 60.0, 300.0, 1800.0)  # seconds between attempts; then the ending is given up
TIMEOUT = 15.0  # seconds
BATCH = 500  # events read at once

log = logging.getLogger("pneumoscope")


class Notifier:
    """Follows the log; what it has sent is kept beside the database, across restarts."""

    def __init__(self, store: Store, settings: Settings, waits: tuple[float, ...] = WAITS) -> None:
        self.faults = Faults("notify")
        self._store, self._settings, self._waits = store, settings, waits
        self._mark = settings.database.with_suffix(".notified")  # the last event looked at

    async def run(self) -> None:
        """Send endings until cancelled."""
        after = await self._begin()
        while True:
            with self.faults.noted("the log cannot be read"):
                rows = await self._store.events_after(after, limit=BATCH)
                for row in rows:
                    if row["event"] in ENDINGS:
                        await self._send(row)
                    after = row["event_id"]
                if rows:
                    await asyncio.to_thread(write_text, self._mark, f"{after}\n")
            self.faults.end_round()
            await asyncio.sleep(LOOK_SECONDS)

    async def _begin(self) -> int:
        """Where the last server stopped; the end of the log for a first one."""
        try:
            return int(await asyncio.to_thread(self._mark.read_text))
        except (OSError, ValueError):
            last = await self._store.last_event_id()
            await asyncio.to_thread(write_text, self._mark, f"{last}\n")
            return last

    async def _send(self, row: dict[str, Any]) -> None:
        """Until the other side answers 2xx; what no attempt could deliver is logged."""
        run = await self._store.get_run(row["run_id"]) or {}
        body = json.dumps(
            {
                "event": row["event"],
                "event_id": row["event_id"],
                "run_id": row["run_id"],
                "run_name": run.get("run_name"),
                "at": row["at"],
                **{key: row["payload"].get(key) for key in ("metrics", "reason", "error")},
            }
        ).encode()
        for wait in (*self._waits, None):
            try:
                await asyncio.to_thread(post, self._settings, body)
                return
            except (OSError, http.client.HTTPException, UserError) as error:
                self.faults.note("a notification was not taken", error)
            if wait is not None:
                await asyncio.sleep(wait)
        log.error("the end of run %d was not taken by --notify; given up", row["run_id"])


def signature(secret: str, body: bytes) -> str:
    """The value of X-Pneumoscope-Signature: HMAC-SHA256 of the body with the shared secret."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post(settings: Settings, body: bytes) -> None:
    """One attempt. Raises OSError or HTTPException, and UserError for a private address.

    The address is looked up once and that very one is connected to, so that a name cannot lead
    elsewhere between the check and the connection. Redirects are not followed.
    """
    assert settings.notify is not None
    url = urlsplit(settings.notify)
    host, secure = url.hostname or "", url.scheme == "https"
    port = url.port or (443 if secure else 80)
    address = find_address(host, port, settings.notify_private)
    raw = socket.create_connection((address, port), timeout=TIMEOUT)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        context = ssl.create_default_context() if secure else None
        connection.sock = context.wrap_socket(raw, server_hostname=host) if context else raw
        headers = {"content-type": "application/json", "user-agent": "pneumoscope"}
        if settings.notify_secret:
            headers["x-pneumoscope-signature"] = signature(settings.notify_secret, body)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
        if not 200 <= status < 300:
            raise OSError(f"{host} answered {status}")
    finally:
        raw.close()
        connection.close()


def find_address(host: str, port: int, private: bool) -> str:
    """The first address of a name. Raises UserError where any is not public, unless allowed."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        if not private and not ipaddress.ip_address(text.partition("%")[0]).is_global:
            raise UserError(f"--notify: {host} is the private address {text}; --notify-private")
    return found[0]


def check_url(text: str) -> str:
    """Raises UserError for what is no address of HTTP."""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        good = False
    if not good or url.username is not None:
        raise UserError(f"--notify {text}: must be http://HOST/PATH or https://HOST/PATH")
    return text


def read_secret(file: Path | None, value: str | None) -> str | None:
    """The shared secret of a file, or else of the environment. Raises UserError."""
    if file is None:
        return value or None
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--notify-secret-file {file}: cannot be read ({error})") from error
    if not secret:
        raise UserError(f"--notify-secret-file {file}: is empty")
    return secret
