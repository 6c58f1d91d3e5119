"""From a data set to a kept run: prepare, claim the run, train under the event stream."""

from __future__ import annotations

import os
import traceback
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from config import Config, ConfigManager, UserError
from engine.data.cache import Progress
from engine.data.prepare import Prepared, prepare
from engine.device import configure_cublas, resolve
from engine.distributed import ALONE, PeerLost, Processes, is_peer_error, launch_name
from engine.ending import STOP_PATIENCE, end_run, figures_of
from engine.failure import describe_error, hint_for, ignore_dead_loaders
from engine.files import storable, visible
from engine.follower import Orders, require_agreement
from engine.model.start import seeded_network
from engine.process import started_at
from engine.records import results, spool
from engine.records.claim import Claim, claim_stored
from engine.records.database import create_run_sync, get_run_sync, metrics_sync, update_run_sync
from engine.records.figures import figures_so_far
from engine.records.identity import mark_launch
from engine.records.location import check_local
from engine.records.manifest import build_manifest
from engine.run import Run
from engine.stop import StoppedEarly, StopRequest, graceful_interrupt
from engine.stream.events import RunWarning, TrainingFailed, TrainingInterrupted, TrainingStopped
from engine.stream.queue import EventQueue, Sink
from engine.stream.sinks.console import ConsoleSink, preparation_bar
from engine.stream.sinks.database import DatabaseSink
from engine.stream.sinks.files import FilesSink
from engine.stream.sinks.tensorboard import TensorBoardSink, require_tensorboard
from engine.stream.system import SystemSampler


class CentralizedTrainer:
    """Trains one model on one data set and keeps everything about it."""

    def __init__(
        self,
        config: Config | None = None,
        run_name: str = "run",
        run_description: str = "",
        run_id: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """`run_id` names a run that the database holds already: a queued one, or one to resume.

        Relative paths of the configuration are those of the working directory of this moment.
        Of several `processes` this is process 0; the others call `engine.follower.follow`.
        """
        self.processes = processes
        self.config = (config if config is not None else ConfigManager.load()).absolute()
        self.run_name, self.run_description = visible(run_name), visible(run_description)
        self.run_id = run_id
        self.traceback_log: Path | None = None  # where the traceback of a failed run is
        self._prepared: tuple[Path, Prepared] | None = None
        self._stop = StopRequest()
        self._remarks = configure_cublas(self.config.system.deterministic)

    def stop(self, reason: str = "stop requested") -> None:
        """Finish the step, save, and end with `training_stopped`. Safe from any thread."""
        self._stop.set(reason)

    def prepare_data(
        self, dataset_path: str | Path, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Validate the data set, fill the decode cache and split it; the validation report.

        The report is also saved, as `results_dir/validation_dataset_NAME.json`. Raises UserError
        with everything that is wrong with the data set.
        """
        path = storable(dataset_path)
        report = self._prepare(path, progress).report
        results.write_dataset_report(self.config.output, path.stem, report)
        return report

    def train(self, dataset_path: str | Path, resume: bool = False) -> dict[str, Any]:
        """Train to the end, to early stopping, or until `stop`; the results of the kept epoch.

        With `resume`, `run_id` is continued from its last snapshot. The configuration may then
        differ in what `engine.records.resume.MAY_CHANGE` lists. Raises UserError for what the
        user can fix, TrainingDiverged for a loss that is not a number; both are also recorded
        where there is a run. Ctrl-C in the main thread stops the run as `stop` does, and raises
        KeyboardInterrupt once it has been saved and recorded.
        """
        if resume and self.run_id is None:
            raise UserError("resume=True needs a run: CentralizedTrainer(..., run_id=N)")
        try:
            with graceful_interrupt(self._stop):
                return self._train(storable(dataset_path), resume)
        finally:
            self._stop = StopRequest()  # a stopped run can be resumed with the same trainer

    def _train(self, path: Path, resume: bool) -> dict[str, Any]:
        output = self.config.output
        database, results_dir = Path(output.database), Path(output.results_dir)
        check_local(database, output.allow_network_database)
        if output.tensorboard:
            require_tensorboard()
        if database.exists():
            spool.replay(database, results_dir)
        begun: list[tuple[Claim, nn.Module | None]] = []
        self.processes.from_main(lambda: self._orders(path, resume, begun))
        ((claim, network),) = begun
        assert self.run_id is not None
        records = DatabaseSink(database, results_dir, claim.run_uid)
        sinks: list[Sink] = [
            # First: who learns of an event from the database finds it in the files.
            FilesSink(results_dir, Path(output.log_dir)),
            records,
            ConsoleSink(),
        ]
        if output.tensorboard:
            sinks.append(TensorBoardSink(results_dir))
        run = None
        folder = Path(output.checkpoint_dir)
        with EventQueue(sinks, self.run_id) as events, SystemSampler(events.emit, folder) as system:
            try:
                for code, message in (*claim.remarks, *self._remarks):
                    events.emit(RunWarning(code, message))
                prepared = self.processes.once_a_node(lambda: self._prepare(path))
                require_agreement(self.processes, self.config, prepared)
                run = Run(
                    self.run_id,
                    claim.run_uid,
                    self.run_name,
                    self.config,
                    prepared,
                    network or self._network(),
                    events.emit,
                    self._stop,
                    self.processes,
                )
                if run.runtime.device.type == "cuda":
                    system.gpu = run.runtime.device.index or 0
                self._record(path, prepared, run)
                with run.threads, run.saving.snapshots:
                    outcome = end_run(run, run.train(claim.resumes))
            except StoppedEarly:
                events.emit(self._stopped_at(run))
                raise
            except KeyboardInterrupt:  # a second Ctrl-C, or one that another thread caused
                self._stop.set("stopped by KeyboardInterrupt")
                events.emit(self._stopped_at(run))
                raise
            except BaseException as error:
                if not self.processes.is_alone and is_peer_error(error):
                    events.emit(TrainingInterrupted(f"another process of it is gone ({error})"))
                    raise PeerLost(str(error)) from error
                try:
                    self._record_failure(error, events)
                except RuntimeError:  # torch reports a second dead loader by a signal, anywhere
                    self._record_failure(error, events)
                raise
            finally:
                if self._stop.is_set():
                    records.close_seconds = STOP_PATIENCE
        self._discard_snapshots(run)
        self.processes.share()  # the others part only now
        return outcome

    def _orders(
        self, path: Path, resume: bool, begun: list[tuple[Claim, nn.Module | None]]
    ) -> Orders:
        """Claim the run, into `begun`, and say so to the other processes. Raises UserError."""
        is_stored = self.run_id is not None
        if self.run_id is None:
            self._prepare(path)  # bad data or weights leave no run behind
            network = self._network()
            claim = self._create(path)
        else:
            network = None
            database = Path(self.config.output.database)
            claim = claim_stored(database, self.run_id, self.config, resume)
        assert self.run_id is not None
        begun.append((claim, network))
        if launch := launch_name():
            mark_launch(self.config.output.checkpoint_dir, self.run_id, launch)
        return Orders(
            self.run_id,
            claim.run_uid,
            self.run_name,
            self.config.to_dict(),
            str(path),
            claim.resumes,
            is_stored,
        )

    def _discard_snapshots(self, run: Run) -> None:
        """Only now, when the database has the end: until then a killed run is resumed from them."""
        if self.config.output.keep_snapshots:
            return
        row = get_run_sync(Path(self.config.output.database), run.run_id)
        if row is not None and row["status"] == "completed":
            run.saving.snapshots.discard()

    def _record_failure(self, error: BaseException, events: EventQueue) -> None:
        assert self.run_id is not None
        ignore_dead_loaders()
        text, hint = describe_error(error), hint_for(error, self.config, self.run_id)
        try:
            self.traceback_log = results.log_traceback(
                self.config.output, self.run_id, traceback.format_exc()
            )
        except OSError as problem:  # a full disk, say: the failure itself is still recorded
            text += f" (its traceback could not be logged: {problem})"
        events.emit(TrainingFailed(error=text, hint=hint))

    def _stopped_at(self, run: Run | None) -> TrainingStopped:
        """The end of a run that was stopped outside its loop, with what it has so far."""
        assert self.run_id is not None
        if run is not None and len(run.state.history):
            figures = figures_of(run)
        else:
            database = Path(self.config.output.database)
            row = get_run_sync(database, self.run_id) or {}
            figures = figures_so_far(
                metrics_sync(database, self.run_id),
                row.get("best_epoch"),
                row.get("best_model_path"),
                row.get("training_time"),
            )
        return TrainingStopped(**figures, reason=self._stop.reason)

    def _prepare(self, path: Path, progress: Progress | None = None) -> Prepared:
        if self._prepared is not None and self._prepared[0] == path:
            return self._prepared[1]
        results.check_writable(self.config.output)

        def watched(done: int, total: int) -> None:
            if self._stop.is_set():
                raise StoppedEarly(f"{self._stop.reason}; the images decoded so far are kept")
            if show is not None:
                show(done, total)

        with preparation_bar() if progress is None else nullcontext(progress) as show:
            prepared = prepare(path, self.config, watched)
        self._prepared = (path, prepared)
        return prepared

    def _network(self) -> nn.Module:
        """The seeded start of the training. Raises UserError for a device or weights not there."""
        resolve(self.config.system)
        return seeded_network(self.config)

    def _create(self, path: Path) -> Claim:
        run_uid = uuid.uuid4().hex
        self.run_id = create_run_sync(
            Path(self.config.output.database),
            run_uid=run_uid,
            run_name=self.run_name,
            run_description=self.run_description,
            config=self.config.to_dict(),
            dataset_path=str(path),
            status="preparing",
            pid=os.getpid(),
            pid_started_at=started_at(os.getpid()),
        )
        return Claim(run_uid)

    def _record(self, path: Path, prepared: Prepared, run: Run) -> None:
        """What the run is made of: the manifest and the validation report. Raises UserError."""
        assert self.run_id is not None
        results.sweep(self.config.output, self.run_id)
        manifest = {"run_uid": run.run_uid} | build_manifest(
            self.config, path, prepared.fingerprint, run.runtime, run.loaders.chosen
        )
        try:
            results.write_report(self.config.output, self.run_id, prepared.report)
            results.write_manifest(self.config.output, self.run_id, manifest)
        except OSError as error:
            raise UserError(
                f"output.results_dir: {self.config.output.results_dir} cannot be written "
                f"({error.strerror or error}); make room there or choose another folder"
            ) from error
        update_run_sync(
            Path(self.config.output.database),
            self.run_id,
            config=self.config.to_dict(),
            manifest=manifest,
            dataset_path=str(path),
            dataset_fingerprint=prepared.fingerprint,
        )
