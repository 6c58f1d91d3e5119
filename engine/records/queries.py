"""The longer queries of the store."""

from __future__ import annotations


def list_runs(statuses: int) -> str:
    """Of `statuses` statuses or of all; the values are those, before, before, name, limit."""
    of_status = f"status IN ({', '.join('?' * statuses)}) AND" if statuses else ""
    return (
        "WITH chosen AS (SELECT run_id, run_name, run_description, training_mode, status, "
        "created_at, started_at, completed_at, total_epochs_run, training_time, early_stopped, "
        "best_epoch, dataset_path, error, heartbeat_at, "
        # one damaged configuration must not hide every other run
        "CASE WHEN json_valid(config) THEN json_extract(config, '$.experiment.epochs') END "
        f"AS epochs FROM run WHERE {of_status} (? IS NULL OR run_id < ?) "
        "AND instr(lower(run_name), lower(?)) ORDER BY run_id DESC LIMIT ?) "
        "SELECT chosen.*, epoch, val_recall, val_specificity, val_f1, val_auroc, val_loss "
        "FROM chosen LEFT JOIN run_metrics AS m ON m.run_id = chosen.run_id AND m.epoch = "
        "COALESCE(best_epoch, (SELECT max(epoch) FROM run_metrics AS of_run "
        "WHERE of_run.run_id = chosen.run_id)) "
        "ORDER BY chosen.run_id DESC"
    )
