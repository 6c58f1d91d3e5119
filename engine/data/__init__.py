"""From a ZIP or a folder to batches."""
