"""A run as one file: its row, its epochs, its events and its files, for another database."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from config import Config, UserError
from config.errors import first_line
from engine.files import jsonable, sync_folder
from engine.records.claim import stored_run
from engine.records.database import LIVE, connect, create_run_sync, update_run_sync
from engine.records.identity import run_folder
from engine.records.log import METRIC_COLUMNS, TRANSIENT, WITH_EPOCH

FORMAT = 1
CONTENTS = "pneumoscope_run.json"
CHUNK = 1 << 20
LARGEST = {CONTENTS: 512 << 20, "best_model.pt": 8 << 30}  # bytes, unpacked
LARGEST_OTHER = 512 << 20
# name in the pack -> key of output.*, name of the file with the run's number
FILES = {
    "metrics.csv": ("results_dir", "metrics_{}.csv"),
    "metrics.json": ("results_dir", "metrics_{}.json"),
    "result.json": ("results_dir", "result_{}.json"),
    "scores.csv": ("results_dir", "scores_{}.csv"),
    "scores_test.csv": ("results_dir", "scores_test_{}.csv"),
    "validation.json": ("results_dir", "validation_{}.json"),
    "manifest.json": ("results_dir", "manifest_{}.json"),
    "report.html": ("results_dir", "report_{}.html"),
    "run.log": ("log_dir", "run_{}.log"),
    "best_model.pt": ("checkpoint_dir", "run_{}/best_model.pt"),
    "model_card.md": ("checkpoint_dir", "run_{}/model_card.md"),
}
# Of the row: what another machine can use. `best_model_path` and the number are its own.
COLUMNS = (
    *("run_uid", "run_name", "run_description", "tags", "training_mode", "created_at"),
    *("started_at", "completed_at", "total_epochs_run", "training_time", "early_stopped"),
    *("best_epoch", "manifest", "results", "dataset_path", "dataset_fingerprint", "error"),
)
ENDED = ("completed", "stopped", "failed", "interrupted")
PICTURE = re.compile(rb'<img [^<>]*src="data:image/[^"<>]*"[^<>]*>')


def pack(database: Path, run_id: int, target: Path, images: bool = False) -> None:
    """Write a run that has ended to a ZIP, complete or not at all. Raises UserError.

    Without `images` the report in it has none; nothing else holds any.
    """
    row = stored_run(database, run_id)
    if row["status"] in (*LIVE, "queued"):
        raise UserError(f"run {run_id} is {row['status']}: only a run that has ended can be packed")
    output = Config.from_dict(row["config"] or {}).to_dict()["output"]
    with connect(database) as connection:
        metrics = _rows(connection, f"{', '.join(METRIC_COLUMNS)} FROM run_metrics", run_id)
        events = [
            event
            for event in _rows(connection, "at, event, payload FROM event", run_id)
            if event["event"] not in TRANSIENT
        ]
    contents: dict[str, Any] = {
        "format": FORMAT,
        "run": {name: row[name] for name in COLUMNS} | {"status": row["status"]},
        "config": row["config"],
        "metrics": metrics,
        "events": events,
        "files": {},
    }
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (key, file) in FILES.items():
                path = Path(output[key]) / file.format(run_id)
                if path.is_file():
                    contents["files"][name] = _store(archive, name, path, images)
            text = json.dumps(jsonable(contents), ensure_ascii=False)
            archive.writestr(CONTENTS, text)
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def unpack(source: Path, config: Config) -> int:
    """Add a packed run to the database of `config`, with its files; its number there.

    Raises UserError for a file that is no pack, is damaged, or holds a run that is there already;
    nothing is left behind then.
    """
    config = config.absolute()
    database, output = Path(config.output.database), config.to_dict()["output"]
    try:
        with zipfile.ZipFile(source) as archive:
            contents = _read_contents(archive, source)
            run, values = contents["run"], Config.from_dict(contents["config"] or {}).to_dict()
            values["output"] = output
            _require_new(database, run["run_uid"], source)
            run_id = create_run_sync(
                database,
                **{name: run.get(name) for name in COLUMNS if run.get(name) is not None},
                config=values,
                status="interrupted",
            )
            try:
                for name, digest in contents["files"].items():
                    key, file = FILES[name]
                    _restore(archive, name, digest, Path(output[key]) / file.format(run_id), run_id)
                _insert(database, run_id, contents)
                model = run_folder(output, run_id) / "best_model.pt"
                path = {"best_model_path": str(model)} if model.exists() else {}
                update_run_sync(database, run_id, status=run["status"], **path)
            except BaseException:
                _remove(database, output, run_id)
                raise
    except OSError as error:
        what = error.filename or source
        raise UserError(f"{what}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{source} is no packed run, or is damaged ({first_line(error)})"
        ) from error
    return run_id


def _rows(connection: sqlite3.Connection, what: str, run_id: int) -> list[dict[str, Any]]:
    query = f"SELECT {what} WHERE run_id = ? ORDER BY rowid"
    return [dict(row) for row in connection.execute(query, (run_id,))]


def _store(archive: zipfile.ZipFile, name: str, path: Path, images: bool) -> str:
    """Add a file; the SHA-256 of what the archive has of it."""
    digest = hashlib.sha256()
    with path.open("rb") as file, archive.open(name, "w", force_zip64=True) as packed:
        if name == "report.html" and not images:
            content = PICTURE.sub(b"", file.read())
            digest.update(content)
            packed.write(content)
            return digest.hexdigest()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            packed.write(chunk)
    return digest.hexdigest()


def _read_contents(archive: zipfile.ZipFile, source: Path) -> dict[str, Any]:
    with archive.open(CONTENTS) as file:
        text = b"".join(_limited(file, CONTENTS))
    contents = json.loads(text)
    if contents["format"] != FORMAT:
        raise UserError(
            f"{source} has format {contents['format']}, and this version of Pneumoscope reads "
            f"format {FORMAT}; use a newer one"
        )
    unknown = sorted(set(contents["files"]) - set(FILES))
    if unknown or not re.fullmatch(r"[0-9a-f]{32}", contents["run"]["run_uid"]):
        raise ValueError(f"unknown content {', '.join(unknown)[:100] or 'run_uid'}")
    if contents["run"]["status"] not in ENDED:
        raise ValueError("the run has not ended")
    return dict(contents)


def _limited(file: IO[bytes], name: str) -> Iterator[bytes]:
    """The chunks of a packed file, whatever its declared size says."""
    left = LARGEST.get(name, LARGEST_OTHER)
    while chunk := file.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            raise ValueError(f"{name} is too large")
        yield chunk


def _require_new(database: Path, run_uid: str, source: Path) -> None:
    if not database.exists():
        return
    with connect(database) as connection:
        known = connection.execute(
            "SELECT run_id FROM run WHERE run_uid = ?", (run_uid,)
        ).fetchone()
    if known is not None:
        raise UserError(f"{source}: this run is in {database} already, as run {known['run_id']}")


def _restore(archive: zipfile.ZipFile, name: str, digest: str, path: Path, run_id: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    found = hashlib.sha256()
    try:
        with archive.open(name) as packed, temporary.open("wb") as file:
            for chunk in _limited(packed, name):
                found.update(chunk)
                file.write(chunk)
        if found.hexdigest() != digest:
            raise ValueError(f"the checksum of {name} does not match")
        if name == "result.json":
            _renumber(temporary, run_id)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _renumber(path: Path, run_id: int) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps({**content, "run_id": run_id}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _insert(database: Path, run_id: int, contents: Mapping[str, Any]) -> None:
    names = ("run_id", *METRIC_COLUMNS)
    metrics = f"INSERT INTO run_metrics ({', '.join(names)}) VALUES ({_marks(names)})"
    events = "INSERT INTO event (run_id, at, event, payload, epoch) VALUES (?, ?, ?, ?, ?)"
    read: Callable[[str], Any] = json.loads
    with connect(database) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            metrics,
            [(run_id, *(row[name] for name in METRIC_COLUMNS)) for row in contents["metrics"]],
        )
        connection.executemany(
            events,
            [
                (
                    *(run_id, row["at"], row["event"], row["payload"]),
                    read(row["payload"])["epoch"] if row["event"] in WITH_EPOCH else None,
                )
                for row in contents["events"]
            ],
        )
        connection.execute("COMMIT")


def _marks(values: tuple[str, ...]) -> str:
    return ", ".join("?" * len(values))


def _remove(database: Path, output: Mapping[str, Any], run_id: int) -> None:
    """What a failed unpacking has made."""
    with connect(database) as connection:
        for table in ("event", "run_metrics", "run"):
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
    for key, file in FILES.values():
        (Path(output[key]) / file.format(run_id)).unlink(missing_ok=True)
    folder = run_folder(output, run_id)
    (folder / "run.json").unlink(missing_ok=True)
    folder.rmdir()
