"""The end of a run: everything pending on the disk, the test part scored once, results, event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from config import UserError
from config.errors import first_line
from engine.data.loading import evaluation_loader
from engine.files import insist, write_text
from engine.inference import bundle
from engine.metrics.calibrated import at_operating_point
from engine.metrics.calibration import apply_temperature
from engine.records import results
from engine.records.figures import BEST_KEYS
from engine.report.conclusion import conclude
from engine.report.write import write_at_end
from engine.run import Run
from engine.stream.events import RunWarning, TrainingComplete, TrainingStopped

PATIENCE = 120.0  # seconds that a full disk has to be emptied
STOP_PATIENCE = 5.0  # likewise where somebody waits for the run to stop


def end_run(run: Run, completed: bool) -> dict[str, Any]:
    """The results, which are also emitted and saved; `best_` figures are of the kept epoch.

    Raises UserError where the best model could not be saved: the run can then be resumed.
    """
    _write_pending(run)
    tested = None
    if completed and len(run.data.split.test) and run.state.selection.best_epoch is not None:
        tested = _score_test(run)
        completed = tested is not None
    selection, ending = run.state.selection, figures_of(run)
    conclusion = _conclusion(run, tested) if completed else None
    outcome = {
        "run_id": run.run_id,
        "run_uid": run.run_uid,
        "status": "completed" if completed else "stopped",
        **ending["metrics"],
        **{key: value for key, value in ending.items() if key != "metrics"},
        "selection": selection.keeper.explain(),
        "validation": selection.best_summary,
        **({"test": tested} if tested else {}),
        "conclusion": conclusion,
    }
    _insist(
        run,
        f"result_{run.run_id}.json",
        lambda: results.write_result(run.config.output, run.run_id, outcome),
    )
    if ending["best_epoch"] and not selection.keeper.eligible_seen:
        run.emit(RunWarning("no_eligible_epoch", selection.keeper.explain()))
    if completed and ending["best_epoch"]:
        _write_report(run, outcome)
    point = selection.best_summary.get("operating_point")
    if point and point.get("unmet"):
        message = f"{point['unmet']}; the model's threshold is that of {point['rule']}"
        run.emit(RunWarning("operating_point", message))
    if completed:
        brief = tested and {name: tested[name] for name in (*BEST_KEYS, "intervals")}
        run.emit(TrainingComplete(**ending, test=brief, conclusion=conclusion))
    else:
        run.emit(TrainingStopped(**ending, reason=run.stop.reason))
    return outcome


def _write_report(run: Run, outcome: dict[str, Any]) -> None:
    """The run's report and model card; what goes wrong is a warning, never the run's failure."""
    try:
        remarks = write_at_end(
            run.config, run.run_id, run.saving.snapshots.best_path, run.data, outcome
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        remarks = [
            f"the report could not be written ({reason}); python -m engine.report {run.run_id} "
            "tries it again"
        ]
    for message in remarks:
        run.emit(RunWarning("report_incomplete", message))


def _conclusion(run: Run, tested: dict[str, Any] | None) -> str | None:
    """For a person; None where the kept epoch is one of an older version."""
    validated = run.state.selection.best_summary
    point = validated.get("operating_point")
    if point is None:
        return None
    return conclude(
        "test" if tested else "val",
        tested or validated,
        run.data.label_names,
        str(run.saving.snapshots.best_path),
        run.run_id,
        point["unmet"],
    )


def figures_of(run: Run) -> dict[str, Any]:
    """The fields of `TrainingComplete`, as the run stands."""
    selection, best_epoch = run.state.selection, run.state.selection.best_epoch
    return {
        "metrics": {f"best_{name}": selection.best_summary.get(name) for name in BEST_KEYS},
        "best_epoch": best_epoch,
        "total_epochs_run": run.state.position.epoch - 1,
        "training_time": run.state.elapsed(),
        "early_stopped": selection.stopped_early,
        "best_model_path": str(run.saving.snapshots.best_path) if best_epoch else None,
        "operating_point": selection.best_summary.get("operating_point"),
    }


def _patience(run: Run) -> float:
    return STOP_PATIENCE if run.stop.is_set() else PATIENCE


def _write_pending(run: Run) -> None:
    snapshots = run.saving.snapshots
    unwritten = snapshots.finish(lambda: _patience(run))
    if unwritten is None:
        return
    best = run.state.selection.best_epoch
    if best is not None and not snapshots.has_best(best):
        raise UserError(
            f"the model of the best epoch, {best}, could not be saved in {snapshots.folder}; "
            f"make room there and resume run {run.run_id}"
        )
    run.emit(RunWarning("output_missing", f"{unwritten} could not be written"))


def _score_test(run: Run) -> dict[str, Any] | None:
    """Figures of the kept weights on the test part; they also go into the bundle.

    None where the run was stopped meanwhile.
    """
    content = bundle.load(run.saving.snapshots.best_path)
    network = run.state.learner.model
    network.load_state_dict(content["weights"])
    loader, batches = evaluation_loader(run.config, run.data, run.runtime, run.data.split.test)
    scored = run.evaluate(loader, len(batches), content["epoch"], "test", network)
    if scored.stopped:
        return None
    temperature = content["temperature"]  # None in a bundle of an older version
    scores = scored.scores if temperature is None else apply_temperature(scored.scores, temperature)
    figures = at_operating_point(
        scores,
        scored.labels,
        content["operating_points"][content["default_operating_point"]],
        run.config.experiment.target_specificity,
        run.data.owners(scored.index),
    )
    figures["loss"] = scored.loss
    names, columns = run.data.texts(scored.index)
    table = results.scores_table(names, scored.labels, scores, columns)
    path = results.scores_path(run.config.output, run.run_id, "test")
    _insist(run, str(path), lambda: write_text(path, table))
    content["metrics"]["test"] = figures
    content["run_uid"] = run.run_uid  # a bundle of format 1 had none
    _insist(
        run,
        f"{run.saving.snapshots.best_path} with its test figures",
        lambda: run.saving.snapshots.replace_best(content),
    )
    return figures


def _insist(run: Run, what: str, write: Callable[[], None]) -> None:
    """Write, however long a full disk takes to be emptied; then say what is missing."""

    def waiting(error: OSError) -> None:
        message = f"{what} cannot be written ({error}); trying again for {_patience(run):g} s"
        run.emit(RunWarning("disk_trouble", message))

    try:
        insist(write, lambda: _patience(run), waiting)
    except OSError as error:
        run.emit(RunWarning("output_missing", f"{what} could not be written ({error})"))
