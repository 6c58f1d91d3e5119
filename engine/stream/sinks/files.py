"""Events into files: `metrics_{run_id}.csv`, `metrics_{run_id}.json` and `run_{run_id}.log`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from engine.files import write_text
from engine.records.store import METRIC_COLUMNS
from engine.stream.events import (
    EpochMetrics,
    Stamped,
    TrainingComplete,
    TrainingProgress,
    TrainingStarted,
)
from engine.stream.sinks.console import describe


class FilesSink:
    """Rewrites the small metrics files whole at each epoch, so that a crash leaves no half line."""

    def __init__(self, results_dir: Path, log_dir: Path) -> None:
        self._results_dir, self._log_dir = results_dir, log_dir
        self._epochs: dict[int, dict[str, Any]] = {}
        self._result: dict[str, Any] | None = None

    async def open(self, run_id: int) -> None:
        """Take up the epochs of a run that is going on."""
        self._results_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._csv = self._results_dir / f"metrics_{run_id}.csv"
        self._json = self._results_dir / f"metrics_{run_id}.json"
        self._log = self._log_dir / f"run_{run_id}.log"
        if self._json.exists():
            before = json.loads(self._json.read_text(encoding="utf-8"))
            self._epochs = {row["epoch"]: row for row in before["epochs"]}

    async def handle(self, stamped: Stamped) -> None:
        """A line in the log for all that lasts; the files for epochs and the end."""
        event = stamped.event
        if isinstance(event, TrainingProgress):
            return
        payload = event.payload()
        again = isinstance(event, EpochMetrics) and event.epoch in self._epochs
        lines = [] if again else describe(stamped)  # a resumed run tells its epochs again
        if isinstance(event, EpochMetrics):
            self._epochs[event.epoch] = payload
        elif isinstance(event, TrainingComplete):
            self._result = {"event": event.name, **payload}
        elif isinstance(event, TrainingStarted):
            self._result = None
        with self._log.open("a", encoding="utf-8") as file:  # may fail: the figures are kept above
            file.writelines(f"{stamped.at} {line}\n" for line in lines)
        if isinstance(event, EpochMetrics | TrainingComplete):
            self._write(stamped.run_id)

    async def close(self) -> None:
        """Nothing is held open."""

    def _write(self, run_id: int) -> None:
        epochs = [self._epochs[epoch] for epoch in sorted(self._epochs)]
        document = {"run_id": run_id, "epochs": epochs, "result": self._result}
        write_text(self._json, json.dumps(document, indent=2, allow_nan=False) + "\n")
        text = io.StringIO()
        names = [*METRIC_COLUMNS, "is_best"]
        table = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(epochs)
        write_text(self._csv, text.getvalue())
