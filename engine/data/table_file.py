"""Which files of a data set are its tables, and their bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from config.schema import AUTO, Data
from engine.data.archive import Reader
from engine.data.columns import find_columns
from engine.data.names import shown
from engine.data.parts import Part, named_files
from engine.data.problems import DatasetError, Problems, UnreadableFile
from engine.data.table import Table, TableFile, read_header, read_tables

USUAL = "metadata.csv"
MAX_TABLE = 256_000_000  # bytes, unpacked
MAX_HEADER = 1 << 20  # bytes of a table in which its first line is looked for
ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
MOST_TRIED = 20  # tables whose header is read


def choose_tables(path: Path, files: dict[str, str], data: Data) -> list[Part]:
    """The tables that `data.table` names, or metadata.csv; none where there is neither.

    Raises DatasetError where a table that is named is not there.
    """
    if data.table != AUTO:
        try:
            return named_files(data.table, files, "data.table", _listed(files))
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from None
    usual = [name for name in files if name.lower() == USUAL]
    if len(usual) > 1:
        raise DatasetError(f"{path}: there are {len(usual)} tables, {' and '.join(usual)}")
    return [Part(name, None) for name in usual]


def find_known_table(path: Path, files: dict[str, str], data: Data) -> str | None:
    """The one table whose header has columns of file names and labels, or None.

    Raises DatasetError where there are several.
    """
    headers = table_headers(path, files, data)
    known = [name for name, header in headers.items() if _is_known(header, name, data)]
    if len(known) > 1:
        raise DatasetError(
            f"{path}: several tables have columns of file names and labels; data.table names the "
            "one that is meant:",
            [f"data.table={name}" for name in known],
        )
    return known[0] if known else None


def table_headers(path: Path, files: dict[str, str], data: Data) -> dict[str, list[str]]:
    """The columns of each table of a data set; of MOST_TRIED at most, and of those readable."""
    tables = table_names(files)[:MOST_TRIED]
    found = {}
    with Reader(path, {name: files[name] for name in tables}) as reader:
        for name in tables:
            try:
                content = reader.head(name, MAX_HEADER)
                if name.lower().endswith(".gz"):
                    content = zlib.decompressobj(wbits=31).decompress(content, MAX_HEADER)
                found[name] = read_header(content, name, data)
            except (UnreadableFile, DatasetError, zlib.error):
                continue
    return found


def no_table(path: Path, files: dict[str, str], data: Data) -> DatasetError:
    """The error of a data set with neither table nor class folders."""
    return DatasetError(
        f"{path}: there is no {USUAL}, no other table with columns of file names and labels, and "
        f"no folders NORMAL and {data.positive_label} either. A data set is {USUAL} (filename, "
        f"label, patient_id) beside images/{_listed(files)}"
    )


def read_table_files(
    path: Path, files: dict[str, str], parts: list[Part], data: Data, problems: Problems
) -> Table:
    """The tables `parts` as one, with those of `data.join`. Raises DatasetError."""
    joined = []
    if data.join != "none":
        joined = [
            (other.name, read_stored(path, files, other.name))
            for other in named_files(data.join, files, "data.join", _listed(files))
        ]
    tables = [
        TableFile(part.name, read_stored(path, files, part.name), part.split, joined)
        for part in parts
    ]
    return read_tables(tables, data, problems)


def read_stored(path: Path, files: dict[str, str], name: str) -> bytes:
    """The bytes of a table or list, unpacked. Raises DatasetError."""
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


def table_names(files: dict[str, str]) -> list[str]:
    """The files that may be tables."""
    return sorted(name for name in files if name.lower().endswith(ENDINGS))


def _listed(files: dict[str, str]) -> str:
    """What tables there are, and the key."""
    tables = table_names(files)
    if not tables:
        return ""
    more = ", ..." if len(tables) > 5 else ""
    names = ", ".join(map(shown, tables[:5]))
    return f"; the tables here are {names}{more} (data.table names one, data.*_column its columns)"


def _is_known(header: list[str], name: str, data: Data) -> bool:
    try:
        return bool(header) and bool(find_columns(header, name, data))
    except DatasetError:
        return False
