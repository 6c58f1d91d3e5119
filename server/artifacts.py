"""The files that a run leaves: where they are, which of them exist."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from config import Config
from engine.records.identity import run_folder
from engine.records.spool import unwritten_path
from server.supervisor import output_of

ARTIFACTS = {  # name in the route -> folder, file, what it is
    "report": ("results", "report_{}.html", "the report: one page that opens offline"),
    "card": ("checkpoints", "model_card.md", "the model card"),
    "checkpoint": ("checkpoints", "best_model.pt", "the model: weights and all it needs"),
    "last": ("checkpoints", "last.pt", "what is needed to resume the run"),
    "csv": ("results", "metrics_{}.csv", "a row for each epoch"),
    "json": ("results", "metrics_{}.json", "the same as JSON"),
    "result": ("results", "result_{}.json", "the result with its intervals"),
    "scores": ("results", "scores_{}.csv", "the score of every validation image"),
    "scores_test": ("results", "scores_test_{}.csv", "the score of every test image"),
    "validation": ("results", "validation_{}.json", "the report on the data"),
    "manifest": ("results", "manifest_{}.json", "configuration, versions, hardware"),
    "log": ("logs", "run_{}.log", "every event, and the traceback of a fault"),
    "console": ("logs", "run_{}.console.log", "what the worker printed"),
}


def artifacts(row: dict[str, Any], config: Config) -> dict[str, Path]:
    """Every file that a run can leave, by the name it has in its route."""
    output = output_of(row, config)
    folders = {
        "checkpoints": run_folder(output, row["run_id"]),
        "results": Path(output["results_dir"]),
        "logs": Path(output["log_dir"]),
    }
    return {
        name: folders[folder] / file.format(row["run_id"])
        for name, (folder, file, _) in ARTIFACTS.items()
    }


def existing(files: dict[str, Path], run_id: int) -> list[dict[str, Any]]:
    """Name, size, address and meaning of each file that there is."""
    found = []
    for name, path in files.items():
        if path.is_file():
            found.append(
                {
                    "name": name,
                    "file": path.name,
                    "about": ARTIFACTS[name][2],
                    "bytes": path.stat().st_size,
                    "url": f"/runs/{run_id}/artifacts/{name}",
                }
            )
    return found


def read_json(path: Path) -> Any:
    """The content of a file; None where there is none, or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def delete_files(row: dict[str, Any], config: Config) -> None:
    """Remove all that a run has left."""
    for path in artifacts(row, config).values():
        path.unlink(missing_ok=True)
    output = output_of(row, config)
    unwritten_path(Path(output["results_dir"]), row["run_id"]).unlink(missing_ok=True)
    shutil.rmtree(run_folder(output, row["run_id"]), ignore_errors=True)
