"""Events into files: `metrics_{run_id}.csv`, `metrics_{run_id}.json` and `run_{run_id}.log`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from engine.files import csv_table, write_text
from engine.records.log import EPOCH_METRICS, METRIC_COLUMNS
from engine.stream.events import (
    TRANSIENT,
    EpochMetrics,
    Stamped,
    TrainingComplete,
    TrainingResumed,
    TrainingStarted,
)
from engine.stream.sinks.console import describe

WRITING_SHARE = 0.05  # of the time, at most, for files that grow with the number of epochs


class FilesSink:
    """Rewrites the metrics files whole, so that a crash leaves no half line in them.

    What a resumed run has trained comes with its `training_resumed`: the files are never read.
    """

    def __init__(self, results_dir: Path, log_dir: Path) -> None:
        self._results_dir, self._log_dir = results_dir, log_dir
        self._epochs: dict[int, dict[str, Any]] = {}
        self._result: dict[str, Any] | None = None
        self._started = False  # before that, files of a run to resume stay as they are
        self._unwritten = False
        self._not_before = 0.0  # monotonic time

    async def open(self, run_id: int) -> None:
        """Make the folders."""
        self._run_id = run_id
        self._results_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir.mkdir(parents=True, exist_ok=True)

    async def handle(self, stamped: Stamped) -> None:
        """A line in the log for all that lasts; the files for epochs and the end."""
        event = stamped.event
        if isinstance(event, TRANSIENT):
            return
        payload = event.payload()
        if isinstance(event, TrainingStarted):
            self._started, self._epochs, self._result = True, {}, None
        elif isinstance(event, TrainingResumed):
            kept = [fields for name, fields in payload["history"] if name == EPOCH_METRICS]
            self._epochs = {fields["epoch"]: fields for fields in kept}
        elif isinstance(event, EpochMetrics):
            self._epochs[event.epoch] = payload
        elif isinstance(event, TrainingComplete):
            self._result = {"event": event.name, **payload}
        self._log(stamped)  # may fail: the figures are kept above
        if isinstance(event, EpochMetrics | TrainingResumed | TrainingComplete) and self._started:
            self._unwritten = True
            if isinstance(event, TrainingComplete) or time.monotonic() >= self._not_before:
                self._write()

    async def close(self) -> None:
        """Write what has been put off."""
        if self._unwritten:
            self._write()

    def _log(self, stamped: Stamped) -> None:
        path = self._log_dir / f"run_{stamped.run_id}.log"
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{stamped.at} {line}\n" for line in describe(stamped))

    def _write(self) -> None:
        began = time.monotonic()
        epochs = [self._epochs[epoch] for epoch in sorted(self._epochs)]
        document = {"run_id": self._run_id, "epochs": epochs, "result": self._result}
        path = self._results_dir / f"metrics_{self._run_id}.json"
        write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")
        names = [*METRIC_COLUMNS, "is_best"]
        rows = ([fields.get(name) for name in names] for fields in epochs)
        write_text(path.with_suffix(".csv"), csv_table(names, rows))
        self._unwritten = False
        now = time.monotonic()
        self._not_before = now + (now - began) / WRITING_SHARE
