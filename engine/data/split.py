"""The split: no patient and no identical image in two parts, the classes in the same shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.data.archive import DatasetError
from engine.data.folds import draw

TRAIN, VAL, TEST = range(3)
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Record indices of each part, int64, ascending."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_records(
    labels: np.ndarray,
    patients: Sequence[str | None],
    pixel_hashes: Sequence[str],
    fixed: Sequence[str | None],
    validation_split: float,
    test_split: float,
    seed: int,
    fold: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Split:
    """Split records [N] with labels [N] of 0 and 1.

    `fixed` holds the part of each record where the data set names it: those are obeyed, and only
    a part that is missing altogether is drawn from the training images. Raises DatasetError where
    a class would be missing in a part, or a given test part shares a patient with another.

    In a cross-validation, `fold` gives for some records (their indices and group numbers) whether
    each is in the validation part; only a test part of the data set is then obeyed.
    """
    groups = group_records(patients, pixel_hashes)
    part = np.full(len(labels), TRAIN)
    given = {name for name in fixed if name}
    for number, name in enumerate(PARTS):
        part[[written == name for written in fixed]] = number
    if fold is not None:
        part[part == VAL] = TRAIN
        given -= {PARTS[TRAIN], PARTS[VAL]}
        validation_split = 0.0
    shares = {VAL: validation_split, TEST: test_split}
    wanted = {s: share for s, share in shares.items() if share > 0 and PARTS[s] not in given}
    if given and TEST in wanted and "val" in given:
        wanted.pop(TEST)  # a complete given split: nothing is taken from its training images
    if wanted:
        free = np.flatnonzero(part == TRAIN)
        drawn = [1 - sum(wanted.values()), wanted.get(VAL, 0.0), wanted.get(TEST, 0.0)]
        part[free] = draw(labels[free], groups[free], np.array(drawn), seed)
    if fold is not None:
        free = np.flatnonzero(part == TRAIN)
        part[free] = np.where(fold(free, groups[free]), VAL, TRAIN)
    split = Split(*(np.flatnonzero(part == number) for number in range(3)))
    _check(split, labels)
    _check_test(part, patients)
    return split


def group_records(patients: Sequence[str | None], pixel_hashes: Sequence[str]) -> np.ndarray:
    """int64 [N]: records with the same patient or the same pixels, in any chain, share a number."""
    parent = list(range(len(pixel_hashes)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (patient, pixels) in enumerate(zip(patients, pixel_hashes, strict=True)):
        for key in (("pixels", pixels), *([("patient", patient)] if patient else [])):
            parent[root(i)] = root(first.setdefault(key, i))
    roots = [root(i) for i in range(len(parent))]
    return np.unique(np.asarray(roots, dtype=np.int64), return_inverse=True)[1].reshape(-1)


def _check(split: Split, labels: np.ndarray) -> None:
    for name in ("train", "val"):
        images = getattr(split, name)
        if len(images) == 0:
            raise DatasetError(
                f"the {name} part of the split has no images; give more patients, another "
                "system.validation_split, or a split column with both parts"
            )
        if len(np.unique(labels[images])) < 2:
            raise DatasetError(
                f"the {name} part of the split has images of one class only, and no AUROC could be "
                "computed; give more patients of the rarer class, or change system.validation_split"
            )


def _check_test(part: np.ndarray, patients: Sequence[str | None]) -> None:
    tested = {patients[i] for i in np.flatnonzero(part == TEST).tolist()} - {None}
    others = {patients[i] for i in np.flatnonzero(part != TEST).tolist()}
    if shared := sorted(str(patient) for patient in tested & others):
        raise DatasetError(
            f"{len(shared)} patients of the given test part are also in train or val "
            f"({', '.join(shared[:3])}{', ...' if shared[3:] else ''}): its figures would flatter "
            "every model. Move each patient into one part, leave the split away, or, where these "
            "ids do not name people, set data.patient_column=none"
        )
