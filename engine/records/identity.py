"""Which files belong to which run.

A number alone proves nothing: every database counts from 1, and several may write to the same
folders. A run takes a number only where no files of that number are, and leaves `run.json` with
its uid in its folder of checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import UserError
from engine.files import write_text

MARKER = "run.json"
LAUNCH = "launch.txt"
SNAPSHOTS = ("last.pt", "previous.pt")
RESULTS = ("metrics", "result", "scores", "validation", "manifest", "report")

Output = Mapping[str, Any]  # the section `output` of a stored configuration


def run_folder(output: Output, run_id: int) -> Path:
    """Where a run keeps its bundle and its snapshots."""
    return Path(output["checkpoint_dir"]) / f"run_{run_id}"


def has_snapshot(output: Output, run_id: int) -> bool:
    """Whether there is something to resume from."""
    return any((run_folder(output, run_id) / name).exists() for name in SNAPSHOTS)


def reserve(output: Output, first: int, run_uid: str) -> int:
    """Take the first number from `first` on under which no run of any database has files.

    Makes the run's folder with its marker, its log and its manifest, all exclusively: of two
    processes only one gets a number. Raises UserError where a folder cannot be written.
    """
    folders = [Path(output[key]) for key in ("checkpoint_dir", "log_dir", "results_dir")]
    number = first
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        while not _take(output, number, run_uid):
            number += 1
    except OSError as error:
        raise UserError(
            f"{error.filename or folders[0]} cannot be written ({error.strerror}); choose other "
            "output folders, or make room"
        ) from error
    return number


def release(output: Output, run_id: int) -> None:
    """Remove what `reserve` made, for a run that did not come into being."""
    for path in (run_folder(output, run_id) / MARKER, _log(output, run_id)):
        path.unlink(missing_ok=True)
    _manifest(output, run_id).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        run_folder(output, run_id).rmdir()


def check_owner(row: Mapping[str, Any], output: Output, begun: bool) -> None:
    """Raise UserError where the files of the run's number belong to another run.

    Files without a marker are of an older version: they are a run's own where it has `begun`.
    """
    run_id = row["run_id"]
    folder = run_folder(output, run_id)
    for path in (folder / MARKER, _manifest(output, run_id)):
        found = _uid_in(path)
        if found is not None and found != row["run_uid"]:
            raise UserError(
                f"{path} belongs to another run of the number {run_id} (uid {found}, not "
                f"{row['run_uid']}); name the run's own folders, or start a new run"
            )
    if not (folder / MARKER).exists() and not begun and _files(output, run_id):
        raise UserError(
            f"run {run_id} has not begun, but {_files(output, run_id)[0]} exists; it belongs to "
            "another run: move it away, or start a new run, which takes a free number"
        )


def mark_launch(checkpoint_dir: str, run_id: int, launch: str) -> None:
    """Remember which launch of torchrun has a run: one that it starts again continues it."""
    write_text(Path(checkpoint_dir) / f"run_{run_id}" / LAUNCH, launch)


def run_of_launch(checkpoint_dir: str, launch: str) -> int | None:
    """The newest run of a launch; None where it has none yet."""
    found = [
        int(path.parent.name.removeprefix("run_"))
        for path in Path(checkpoint_dir).glob(f"run_*/{LAUNCH}")
        if path.read_text(encoding="utf-8") == launch
    ]
    return max(found, default=None)


def mark(row: Mapping[str, Any], output: Output) -> None:
    """Leave the marker in a run's folder, where an older version left none."""
    path = run_folder(output, row["run_id"]) / MARKER
    if not path.exists():
        write_text(path, _marker(output, row["run_id"], row["run_uid"]))


def _take(output: Output, run_id: int, run_uid: str) -> bool:
    _remove_remains(output, run_id)
    folder, marker = run_folder(output, run_id), _marker(output, run_id, run_uid)
    if _files(output, run_id):
        return False
    if not _place(folder, marker, run_uid):
        return False
    made: list[Path] = []
    try:
        for path in (_log(output, run_id), _manifest(output, run_id)):
            path.touch(exist_ok=False)
            made.append(path)
        _manifest(output, run_id).write_text(marker, encoding="utf-8")
    except OSError as error:
        for path in (*made, folder / MARKER):
            path.unlink(missing_ok=True)
        folder.rmdir()
        if isinstance(error, FileExistsError):
            return False  # another run's
        raise
    return True


def _place(folder: Path, marker: str, run_uid: str) -> bool:
    """Make a folder that has its marker from the first moment; False where it exists already."""
    draft = folder.with_name(f".{folder.name}.{run_uid}.tmp")
    draft.mkdir()
    try:
        (draft / MARKER).write_text(marker, encoding="utf-8")
        draft.rename(folder)  # fails where there is anything in `folder`
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


def _remove_remains(output: Output, run_id: int) -> None:
    """What a process left that was killed before its database had the run: marker, empty log.

    The number is above all that this database ever gave, and one process at a time creates a run
    in it: so the marker belongs to no run where it names this database and nothing has been added.
    """
    folder = run_folder(output, run_id)
    marker, log, manifest = folder / MARKER, _log(output, run_id), _manifest(output, run_id)
    with contextlib.suppress(OSError, ValueError):
        text = marker.read_text(encoding="utf-8")
        untouched = (
            json.loads(text)["database"] == output.get("database")
            and [path.name for path in folder.iterdir()] == [MARKER]
            and (not log.exists() or log.stat().st_size == 0)
            and (not manifest.exists() or manifest.read_text(encoding="utf-8") in ("", text))
        )
        if untouched:
            release(output, run_id)


def _files(output: Output, run_id: int) -> list[Path]:
    """What exists under a number; not a server's console log, which is made before its run."""
    names = [f"{kind}_{run_id}.{ending}" for kind in RESULTS for ending in ("json", "csv", "html")]
    paths = [Path(output["results_dir"]) / name for name in names]
    folder = run_folder(output, run_id)
    paths += [_log(output, run_id), *(folder / name for name in (*SNAPSHOTS, "best_model.pt"))]
    return [path for path in paths if path.exists()]


def _log(output: Output, run_id: int) -> Path:
    return Path(output["log_dir"]) / f"run_{run_id}.log"


def _manifest(output: Output, run_id: int) -> Path:
    return Path(output["results_dir"]) / f"manifest_{run_id}.json"


def _marker(output: Output, run_id: int, run_uid: str) -> str:
    content = {"run_id": run_id, "run_uid": run_uid, "database": output.get("database")}
    return json.dumps(content, indent=2) + "\n"


def _uid_in(path: Path) -> str | None:
    """The uid that a file names; None where it names none or cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = content.get("run_uid") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None
