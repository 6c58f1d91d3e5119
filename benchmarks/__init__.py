"""Reproducible measurements: `python -m benchmarks` lists them."""
