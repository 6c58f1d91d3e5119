"""The folds of a cross-validation: drawn by patient and class, or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.data.csv_rows import read_rows
from engine.data.problems import DatasetError

LARGEST_FILE = 256 << 20  # bytes
COLUMNS = ("filename", "fold")


def folds_of(
    chosen: str, names: Sequence[str], labels: np.ndarray, groups: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """int64 [N]: the fold of each record, from 1; `chosen` is a file, or none to draw `count`.

    `groups` [N] are whole numbers: records of one group share a fold. Raises DatasetError.
    """
    if chosen == "none":
        return draw(labels, groups, np.full(count, 1 / count), seed) + 1
    found = read_folds(Path(chosen), names)
    if found.max() != count or set(found.tolist()) != set(range(1, count + 1)):
        raise DatasetError(
            f"data.fold_file: {chosen} has the folds {sorted(set(found.tolist()))}, and "
            f"data.fold_count={count} needs all of 1 to {count}"
        )
    order = np.lexsort((found, groups))
    torn = (np.diff(groups[order]) == 0) & (np.diff(found[order]) != 0)
    if torn.any():
        at = order[np.flatnonzero(torn)[0]]
        raise DatasetError(
            f"data.fold_file: {chosen} has images of one patient, or identical ones, in two folds "
            f"({names[at]} and another)"
        )
    return found


def read_folds(path: Path, names: Sequence[str]) -> np.ndarray:
    """int64 [N]: the fold of each name, by the columns filename and fold. Raises DatasetError."""
    fold_of = read_names(path)
    found = [fold_of.get(name) or fold_of.get(Path(name).name) for name in names]
    missing = [name for name, fold in zip(names, found, strict=True) if fold is None]
    if missing:
        raise DatasetError(
            f"data.fold_file: {path} has no fold for {len(missing)} images, {missing[0]} first"
        )
    return np.array(found, dtype=np.int64)


def read_names(path: Path) -> dict[str, int]:
    """File name -> fold, from 1. Raises DatasetError for what is no such file."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DatasetError(f"data.fold_file: {path} is larger than 256 MB")
        rows = read_rows(path.read_bytes(), path.name)
    except OSError as error:
        raise DatasetError(
            f"data.fold_file: {path} cannot be read ({error.strerror or error})"
        ) from None
    _, header = next(rows, (1, []))
    if [name.lower() for name in header[:2]] != list(COLUMNS):
        raise DatasetError(f"data.fold_file: {path} needs the columns filename,fold")
    fold_of: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) < 2 or not cells[1].isdecimal() or int(cells[1]) < 1:
            raise DatasetError(f"data.fold_file: {path} line {line}: fold is a number from 1")
        fold_of[cells[0]] = int(cells[1])
    if not fold_of:
        raise DatasetError(f"data.fold_file: {path} has no rows")
    return fold_of


def draw(labels: np.ndarray, groups: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """int64 [N]: the part of each record, an index into `shares`, which add up to 1.

    Whole groups, largest first, to where they fit best: each group goes where the images of its
    classes are furthest below their share; among groups of one size the order is random. Large
    groups first leaves the small ones to even out.
    """
    rng = np.random.default_rng(seed)
    numbers, inverse = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(numbers), 2))  # images of each class in each group
    np.add.at(counts, (inverse, labels), 1)
    total = counts.sum(axis=0)
    target = shares[:, None] * total
    missing = target.copy()
    order = rng.permutation(len(numbers))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    chosen = np.zeros(len(numbers), dtype=np.int64)
    scale = np.maximum(target, 1e-12)
    for group in order:
        # The part whose shortage, relative to its size, this group's images reduce most.
        need = (missing / scale) @ (counts[group] / np.maximum(total, 1))
        need[shares == 0] = -np.inf
        chosen[group] = int(need.argmax())
        missing[chosen[group]] -= counts[group]
    return chosen[inverse]
