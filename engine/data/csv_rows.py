"""The rows of a CSV file, one at a time and in bounded memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from engine.data.problems import DatasetError

DELIMITERS = (",", ";", "\t")
MAX_ROW = 1 << 20  # characters: a row of more is no row of a table


def read_rows(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line number (1-based) and cells of each row that is not empty.

    The separator is the one that the first line has most of, or blanks in a line without any.
    Raises DatasetError for what is not
    UTF-8 or not CSV.
    """
    first = content[:MAX_ROW].partition(b"\n")[0]
    delimiter = max(DELIMITERS, key=lambda sign: first.count(sign.encode()))
    lines = _Lines(content, name)
    if delimiter.encode() not in first and b" " in first.strip():
        delimiter = " "
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")
    try:
        for row in reader:
            lines.pending = 0
            cells = list(map(str.strip, row))
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DatasetError(f"{name} line {reader.line_num}: {error}") from None
    except UnicodeDecodeError:
        raise DatasetError(
            f"{name} line {_undecodable(content)}: this is not UTF-8; save the table as UTF-8"
        ) from None


class _Lines:
    """Decoded lines; `pending` counts the characters since it was last set to zero."""

    def __init__(self, content: bytes, name: str) -> None:
        self.pending = 0
        self._number, self._name = 0, name
        self._text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self.pending += len(line)
        if self.pending > MAX_ROW:
            raise DatasetError(
                f"{self._name} line {self._number}: the row has more than {MAX_ROW:,} characters; "
                "is a quotation mark missing?"
            )
        return line


def _undecodable(content: bytes) -> int:
    """The number of the first line that is not UTF-8."""
    for number, line in enumerate(io.BytesIO(content), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 0
