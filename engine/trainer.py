"""From a data set to a kept run: prepare, claim the run, train under the event stream."""

from __future__ import annotations

import os
import random
import signal
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import Config, ConfigManager, UserError
from engine.data.cache import Progress
from engine.data.prepare import Prepared, prepare
from engine.device import resolve
from engine.ending import end_run
from engine.model.resnet import build_model
from engine.process import started_at
from engine.records import results
from engine.records.database import (
    claim_run_sync,
    create_run_sync,
    get_run_sync,
    update_run_sync,
)
from engine.records.manifest import build_manifest
from engine.run import Run, TrainingDiverged
from engine.stop import StopRequest
from engine.stream.events import TrainingFailed, TrainingStopped
from engine.stream.queue import EventQueue, Sink
from engine.stream.sinks.console import ConsoleSink, preparation_bar
from engine.stream.sinks.database import DatabaseSink
from engine.stream.sinks.files import FilesSink


class StoppedEarly(UserError):
    """Asked to stop before there was anything to keep."""


class CentralizedTrainer:
    """Trains one model on one data set and keeps everything about it."""

    def __init__(
        self,
        config: Config | None = None,
        run_name: str = "run",
        run_description: str = "",
        run_id: int | None = None,
    ) -> None:
        """`run_id` names a run that the database holds already: queued, or to go on with."""
        self.config = config if config is not None else ConfigManager.load()
        self.run_name, self.run_description, self.run_id = run_name, run_description, run_id
        self._prepared: tuple[Path, Prepared] | None = None
        self._stop = StopRequest()

    def stop(self, reason: str = "asked to stop") -> None:
        """Finish the step, save, and end with `training_stopped`. Safe from any thread."""
        self._stop.set(reason)

    def prepare_data(
        self, dataset_path: str | Path, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Validate the data set, fill the decode cache and split it; the validation report.

        It is also saved, as `results_dir/validation_DATASET.json`, and for the run once there is
        one. Raises UserError with everything that is wrong with the data set.
        """
        results.check_writable(self.config.output)

        def watched(done: int, total: int) -> None:
            if self._stop.is_set():
                raise StoppedEarly(f"{self._stop.reason}; the images decoded so far are kept")
            if progress is not None:
                progress(done, total)

        path = Path(dataset_path).resolve()
        prepared = prepare(path, self.config, watched)
        self._prepared = (path, prepared)
        results.write_report(self.config.output, path.stem, prepared.report)
        return prepared.report

    def train(self, dataset_path: str | Path, resume: bool = False) -> dict[str, Any]:
        """Train to the end, to early stopping, or until `stop`; the results of the kept epoch.

        With `resume`, go on from the last checkpoint of `run_id`. Raises UserError for what the
        user can mend, TrainingDiverged for a loss that is not a number; both are also recorded
        where there is a run.
        """
        path = Path(dataset_path).resolve()
        if self.run_id is None:
            self._prepare(path)  # bad data or weights leave no run behind
            network = self._network()
            self.run_id = self._create(path)
        else:
            network = None
            database = Path(self.config.output.database)
            claim_run_sync(database, self.run_id, os.getpid(), started_at(os.getpid()))
        sinks: list[Sink] = [
            # First: who hears of an event from the database finds it in the files.
            FilesSink(Path(self.config.output.results_dir), Path(self.config.output.log_dir)),
            DatabaseSink(Path(self.config.output.database)),
            ConsoleSink(),
        ]
        with EventQueue(sinks, self.run_id) as events:
            try:
                prepared = self._prepare(path)
                run = Run(
                    self.run_id,
                    self._uid(),
                    self.run_name,
                    self.config,
                    prepared,
                    network or self._network(),
                    events.emit,
                    self._stop,
                )
                self._record(path, prepared, run)
                with run.snapshots:
                    outcome = end_run(run, run.train(resume))
            except StoppedEarly:
                events.emit(nothing_trained(self._stop.reason))
                raise
            except BaseException as error:
                try:
                    self._record_failure(error, events)
                except RuntimeError:  # torch tells of a second dead loader by a signal, anywhere
                    self._record_failure(error, events)
                raise
        self._discard_snapshots(run)
        return outcome

    def _discard_snapshots(self, run: Run) -> None:
        """Only now, when the database has the end: until then a killed run is resumed from them."""
        if self.config.output.keep_snapshots:
            return
        row = get_run_sync(Path(self.config.output.database), run.run_id)
        if row is not None and row["status"] == "completed":
            run.snapshots.discard()

    def _record_failure(self, error: BaseException, events: EventQueue) -> None:
        assert self.run_id is not None
        ignore_dead_loaders()
        results.log_traceback(self.config.output, self.run_id, traceback.format_exc())
        hint = hint_for(error, self.config)
        events.emit(TrainingFailed(error=describe_error(error), hint=hint))

    def _prepare(self, path: Path) -> Prepared:
        if self._prepared is None or self._prepared[0] != path:
            with preparation_bar() as progress:
                self.prepare_data(path, progress)
        assert self._prepared is not None
        return self._prepared[1]

    def _network(self) -> nn.Module:
        """The seeded start of the training. Raises UserError for a device or weights not there."""
        resolve(self.config.system, planned_steps=1)
        seed_everything(self.config.system.seed)
        return build_model(self.config.model, self.config.experiment.dropout_rate)

    def _create(self, path: Path) -> int:
        return create_run_sync(
            Path(self.config.output.database),
            run_name=self.run_name,
            run_description=self.run_description,
            config=self.config.to_dict(),
            dataset_path=str(path),
            status="preparing",
            pid=os.getpid(),
            pid_started_at=started_at(os.getpid()),
        )

    def _uid(self) -> str:
        """The identity of the run, which its snapshots and its bundle carry."""
        assert self.run_id is not None
        row = get_run_sync(Path(self.config.output.database), self.run_id)
        assert row is not None
        return str(row["run_uid"])

    def _record(self, path: Path, prepared: Prepared, run: Run) -> None:
        """What the run is made of: the manifest and the validation report."""
        assert self.run_id is not None
        results.write_report(self.config.output, self.run_id, prepared.report)
        manifest = build_manifest(
            self.config, path, prepared.fingerprint, run.runtime, run.loaders.chosen
        )
        results.write_manifest(self.config.output, self.run_id, manifest)
        update_run_sync(
            Path(self.config.output.database),
            self.run_id,
            config=self.config.to_dict(),
            manifest=manifest,
            dataset_path=str(path),
            dataset_fingerprint=prepared.fingerprint,
        )


def seed_everything(seed: int) -> None:
    """Seed every global random generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def ignore_dead_loaders() -> None:
    """Take torch's SIGCHLD handler away, which raises wherever the main thread happens to be."""
    main = threading.current_thread() is threading.main_thread()
    if main and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def nothing_trained(reason: str) -> TrainingStopped:
    """The end of a run that was stopped while its data were prepared."""
    return TrainingStopped(
        metrics={f"best_{name}": None for name in results.BEST_KEYS},
        best_epoch=None,
        total_epochs_run=0,
        training_time=0.0,
        early_stopped=False,
        best_model_path=None,
        reason=reason,
    )


def describe_error(error: BaseException) -> str:
    """One line for a person."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def hint_for(error: BaseException, config: Config) -> str | None:
    """What to try, where something is known to help."""
    if isinstance(error, TrainingDiverged):
        return "lower experiment.learning_rate, or set system.precision=fp32"
    if isinstance(error, torch.OutOfMemoryError):
        return memory_hint(config)
    if "DataLoader worker" in str(error):
        return "resume the run; if it comes again, lower system.num_workers: they need memory, too"
    return None


def memory_hint(config: Config) -> str:
    """Half the batch, and the same optimizer step from twice as many of them."""
    batch, accumulate = config.system.batch_size, config.experiment.accumulate
    if batch == 1:
        return "lower data.image_size, or choose a smaller model.backbone"
    return (
        f"set system.batch_size={batch // 2} and experiment.accumulate={accumulate * 2}: "
        "less memory for nearly the same optimizer step"
    )
