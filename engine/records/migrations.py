"""The schema of the database, version by version."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from config import UserError

# One script a schema version; a database is brought forward by running those it lacks.
MIGRATIONS = (
    """
    CREATE TABLE run (
        run_id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_name TEXT NOT NULL,
        run_description TEXT NOT NULL DEFAULT '',
        training_mode TEXT NOT NULL DEFAULT 'centralized',
        status TEXT NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'preparing',
            'in_progress', 'completed', 'stopped', 'failed', 'interrupted')),
        created_at TEXT NOT NULL,
        started_at TEXT,
        completed_at TEXT,
        total_epochs_run INTEGER,
        training_time REAL,
        early_stopped INTEGER,
        best_epoch INTEGER,
        best_model_path TEXT,
        config TEXT,
        manifest TEXT,
        dataset_path TEXT,
        dataset_fingerprint TEXT,
        error TEXT,
        pid INTEGER,
        pid_started_at REAL,
        heartbeat_at TEXT
    );
    CREATE INDEX run_status ON run (status, run_id);
    CREATE TABLE run_metrics (
        run_id INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
        epoch INTEGER NOT NULL,
        train_loss REAL, val_loss REAL, train_accuracy REAL, val_accuracy REAL,
        val_precision REAL, val_recall REAL, val_specificity REAL, val_f1 REAL, val_auroc REAL,
        learning_rate REAL, epoch_seconds REAL,
        client_id INTEGER, round_id INTEGER
    );
    -- SQLite holds NULLs distinct in a plain UNIQUE
    CREATE UNIQUE INDEX run_metrics_once ON run_metrics
        (run_id, epoch, COALESCE(client_id, -1), COALESCE(round_id, -1));
    CREATE TABLE event (
        event_id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
        at TEXT NOT NULL,
        event TEXT NOT NULL,
        payload TEXT NOT NULL
    );
    CREATE INDEX event_of_run ON event (run_id, event_id);
    CREATE INDEX event_passing ON event (run_id) WHERE event = 'training_progress';
    CREATE TABLE dataset (
        dataset_id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        path TEXT NOT NULL,
        fingerprint TEXT,
        report TEXT,
        created_at TEXT NOT NULL
    );
    """,
    # 2: who a run is beyond its number, where it runs, and what its epochs add.
    """
    ALTER TABLE run ADD COLUMN run_uid TEXT;
    UPDATE run SET run_uid = lower(hex(randomblob(16)));
    CREATE UNIQUE INDEX run_uid_once ON run (run_uid);
    ALTER TABLE run ADD COLUMN tags TEXT;
    ALTER TABLE run ADD COLUMN results TEXT;
    ALTER TABLE run ADD COLUMN host TEXT;
    ALTER TABLE run_metrics ADD COLUMN val_recall_at_specificity REAL;
    ALTER TABLE run_metrics ADD COLUMN train_seconds REAL;
    ALTER TABLE event ADD COLUMN epoch INTEGER;
    UPDATE event SET epoch = json_extract(payload, '$.epoch') WHERE json_valid(payload) AND
        event IN ('training_metrics_update', 'learning_rate_changed', 'early_stopping_triggered',
        'checkpoint_saved');
    CREATE INDEX event_of_epoch ON event (run_id, event, epoch) WHERE epoch IS NOT NULL;
    CREATE INDEX event_system ON event (run_id) WHERE event = 'system_metrics';
    """,
)


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Run the migrations that the database lacks, each whole or not at all."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise UserError(
            f"{path} was written by a newer Pneumoscope (schema {version}, known here: "
            f"{len(MIGRATIONS)}); update Pneumoscope or choose another output.database"
        )
    while version < len(MIGRATIONS):
        database.execute("BEGIN IMMEDIATE")
        version = database.execute("PRAGMA user_version").fetchone()[0]  # somebody was quicker?
        if version == 0 and database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise UserError(
                f"{path} is the database of another program; choose another output.database"
            )
        if version < len(MIGRATIONS):
            for statement in MIGRATIONS[version].split(";"):
                database.execute(statement)
            version += 1
            database.execute(f"PRAGMA user_version = {version}")
        database.execute("COMMIT")
