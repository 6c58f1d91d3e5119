"""Small files, written so that a crash leaves the old content or the new, and never a part."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from config import UserError

RETRY_EVERY = 0.5  # seconds
FORMULA_SIGNS = ("=", "+", "-", "@")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")  # no formula, although it begins with a sign


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, in the same folder, which becomes `path` at the end of the block.

    Where the block raises, `path` stays as it was and nothing is left. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a small file, completely or not at all."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def insist(
    write: Callable[[], None],
    patience: Callable[[], float],
    on_trouble: Callable[[OSError], None],
) -> None:
    """Call `write` until it succeeds; it may fail for `patience` seconds. Raises its OSError.

    `patience` is asked again each time: it shrinks where somebody begins to wait for the end.
    `on_trouble` gets the first error: a full disk is often emptied by somebody within a minute.
    """
    began = time.monotonic()
    troubled = False
    while True:
        try:
            return write()
        except OSError as error:
            if not troubled:
                troubled = True
                on_trouble(error)
            if time.monotonic() - began >= patience():
                raise
        time.sleep(RETRY_EVERY)


def visible(text: str) -> str:
    """The text with control characters and lone surrogates as escapes; line breaks are kept."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def storable(dataset_path: str | Path) -> Path:
    """The absolute path, links resolved. Raises UserError for one that the records cannot hold."""
    try:
        path = Path(dataset_path).resolve()
        str(path).encode()
    except ValueError as error:  # a null character, or bytes that are not UTF-8
        shown = visible(os.fspath(dataset_path))
        raise UserError(f"{shown}: this path is not UTF-8 text; rename it first") from error
    return path


def sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV. Text that a spreadsheet would run as a formula gets an apostrophe before it;

    control characters are escaped. Numbers are written as they are.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, header))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = visible(value).replace("\n", "\\n").replace("\t", "\\t")
    formula = shown.startswith(FORMULA_SIGNS) and not NUMBER.fullmatch(shown)
    return f"'{shown}" if formula else shown


def jsonable(value: Any) -> Any:
    """The value with non-finite numbers as None and tuples as lists: JSON has neither.

    Text is without lone surrogates (a file name in another encoding), which UTF-8 does not have.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value
