"""A file as an answer, whole or one range of it, also while it grows or is replaced."""

from __future__ import annotations

import os
import re
import stat
from email.utils import formatdate
from mimetypes import guess_type
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.errors import ApiError

CHUNK = 256 << 10  # bytes
# Of a report, which is shown: nothing but its own style and images, and no script.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox allow-popups"
)
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Download(Response):
    """The bytes that an open file has at this moment, and no others.

    The descriptor keeps a file that is replaced meanwhile; of one that grows the new end is left
    out. Where it is cut shorter during the answer, the connection ends before the promised length.
    """

    def __init__(self, path: Path, filename: str, policy: str | None = None) -> None:
        """Opens the file, which is closed with the answer. Raises OSError; call it in a thread.

        With a Content-Security-Policy as `policy` the browser shows the file instead of saving it.
        """
        self._policy = policy
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not hold it up
        try:
            found = os.fstat(self._file)
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(f"{path} is no regular file")
        except BaseException:
            os.close(self._file)
            raise
        self._size = found.st_size
        self._etag = f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'
        self._modified = formatdate(found.st_mtime, usegmt=True)
        self._filename = filename
        self.media_type = guess_type(filename)[0] or "application/octet-stream"
        self.status_code, self.background = 200, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises ApiError 416 for a range that the file does not have."""
        try:
            start, end = self._range(Headers(scope=scope))
            shown = "attachment" if self._policy is None else "inline"
            self.init_headers(
                {
                    **({"content-security-policy": self._policy} if self._policy else {}),
                    "content-length": str(end - start),
                    "content-disposition": f'{shown}; filename="{self._filename}"',
                    "accept-ranges": "bytes",
                    "etag": self._etag,
                    "last-modified": self._modified,
                    "cache-control": "no-cache",  # it may grow: a browser must ask each time
                }
            )
            if self.status_code == 206:
                self.headers["content-range"] = f"bytes {start}-{end - 1}/{self._size}"
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if scope["method"] == "HEAD":
                start = end
            await self._send(start, end, send)
        finally:
            os.close(self._file)

    async def _send(self, start: int, end: int, send: Send) -> None:
        while start < end:
            count = min(CHUNK, end - start)
            content = await run_in_threadpool(os.pread, self._file, count, start)
            if not content:
                return  # cut shorter: the missing end makes the server close the connection
            start += len(content)
            await send({"type": "http.response.body", "body": content, "more_body": start < end})
            if start == end:
                return
        await send({"type": "http.response.body", "body": b""})

    def _range(self, headers: Headers) -> tuple[int, int]:
        """First byte and the one behind the last. Several ranges at once are answered whole."""
        wanted = headers.get("range")
        if wanted is None or headers.get("if-range") not in (None, self._etag, self._modified):
            return 0, self._size
        found = RANGE.fullmatch(wanted.replace(" ", ""))
        if found is None or found.groups() == ("", ""):
            return 0, self._size  # RFC 9110: a range that is not understood is ignored
        first, last = found.groups()
        if first:
            start, end = int(first), min(int(last) + 1 if last else self._size, self._size)
            if last and int(last) < int(first):
                return 0, self._size
        else:
            start, end = max(0, self._size - int(last)), self._size
        if start >= self._size or start >= end:
            detail = f"the file has {self._size} bytes"
            raise ApiError(416, detail, headers={"content-range": f"bytes */{self._size}"})
        self.status_code = 206
        return start, end
