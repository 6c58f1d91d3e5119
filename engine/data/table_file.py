"""Which file of a data set is its table, and its bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path, PurePosixPath

from config.schema import AUTO, Data
from engine.data.archive import Reader
from engine.data.names import shown
from engine.data.problems import DatasetError, Problems, UnreadableFile
from engine.data.table import Table, is_known_header, read_table

USUAL = "metadata.csv"
MAX_TABLE = 256_000_000  # bytes, unpacked
ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
MOST_TRIED = 20  # tables whose header is read


def choose_table(path: Path, files: dict[str, str], data: Data) -> str | None:
    """The name of the table that `data.table` names, or metadata.csv, or None without.

    Raises DatasetError where the table that is named is not there.
    """
    if data.table != AUTO:
        found = [data.table] if data.table in files else []
        found = found or [name for name in files if PurePosixPath(name).name == data.table]
        if len(found) == 1:
            return found[0]
        there = f"could be {' or '.join(found)}" if found else f"is not there{_listed(files)}"
        raise DatasetError(f"{path}: the table {shown(data.table)} (data.table) {there}")
    usual = [name for name in files if name.lower() == USUAL]
    if len(usual) > 1:
        raise DatasetError(f"{path}: there are {len(usual)} tables, {' and '.join(usual)}")
    return usual[0] if usual else None


def find_known_table(path: Path, files: dict[str, str], data: Data) -> str | None:
    """The one table whose header has columns of file names and labels, or None.

    Raises DatasetError where there are several.
    """
    tried = _tables(files)[:MOST_TRIED]
    known = [name for name in tried if _is_known(path, files, name, data)]
    if len(known) > 1:
        raise DatasetError(
            f"{path}: several tables have columns of file names and labels; data.table names the "
            "one that is meant:",
            [f"data.table={name}" for name in known],
        )
    return known[0] if known else None


def no_table(path: Path, files: dict[str, str], data: Data) -> DatasetError:
    """The error of a data set with neither table nor class folders."""
    return DatasetError(
        f"{path}: there is no {USUAL}, no other table with columns of file names and labels, and "
        f"no folders NORMAL and {data.positive_label} either. A data set is {USUAL} (filename, "
        f"label, patient_id) beside images/{_listed(files)}"
    )


def read_table_file(
    path: Path, files: dict[str, str], name: str, data: Data, problems: Problems
) -> Table:
    """The table `name`. Raises DatasetError."""
    table = read_table(_content(path, files, name), name, data, problems)
    if data.table == AUTO and name.lower() != USUAL:
        table.warnings.append(("table_chosen", f"the table is {name} (data.table={name})"))
    return table


def _tables(files: dict[str, str]) -> list[str]:
    return sorted(name for name in files if name.lower().endswith(ENDINGS))


def _listed(files: dict[str, str]) -> str:
    """What tables there are, and the key."""
    tables = _tables(files)
    if not tables:
        return ""
    more = ", ..." if len(tables) > 5 else ""
    names = ", ".join(map(shown, tables[:5]))
    return f"; the tables here are {names}{more} (data.table names one, data.*_column its columns)"


def _is_known(path: Path, files: dict[str, str], name: str, data: Data) -> bool:
    try:
        return is_known_header(_content(path, files, name), name, data)
    except DatasetError:
        return False


def _content(path: Path, files: dict[str, str], name: str) -> bytes:
    """The bytes of a table, unpacked. Raises DatasetError."""
    try:
        with Reader(path, {name: files[name]}) as reader:
            content = reader.read(name, MAX_TABLE)
        if not name.lower().endswith(".gz"):
            return content
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            content = packed.read(MAX_TABLE + 1)
    except (UnreadableFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path}: {name}: {error}") from error
    if len(content) > MAX_TABLE:
        raise DatasetError(f"{path}: {name} has more than {MAX_TABLE:,} bytes, unpacked")
    return content
