"""What a run leaves: database, checkpoints, manifest, results."""
