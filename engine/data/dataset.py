"""Whole batches out of the decoded films, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class Batch(NamedTuple):
    """Films as the loop takes them."""

    images: torch.Tensor  # uint8 [B, 1, S, S]
    labels: torch.Tensor  # int64 [B], 1 is the positive class
    index: torch.Tensor  # int64 [B], the record's place in the data set


class FilmDataset(Dataset[Batch]):
    """The films at `indices` of decoded `images` [N, S, S] uint8; hands out whole batches."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        self._images, self._labels, self._indices = images, labels, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        """One contiguous batch with one indexing operation, no Python per film."""
        index = self._indices[positions]
        return Batch(
            torch.from_numpy(np.asarray(self._images[index]))[:, None],
            torch.from_numpy(self._labels[index]),
            torch.from_numpy(index),
        )


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `count` positions, int64, the same wherever seed and epoch are."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


class EpochBatches(Sampler[list[int]]):
    """Lists of positions, batch by batch; can begin in the middle of an epoch.

    The last batch may be smaller; one of a single film, which BatchNorm cannot train on, is
    joined to the batch before it.
    """

    def __init__(self, count: int, batch_size: int, seed: int, shuffle: bool) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._shuffle = shuffle
        self._epoch, self._skip = 1, 0

    def set_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Which epoch comes next (1-based), and how many of its batches are done already."""
        self._epoch, self._skip = epoch, skip_batches

    def sizes(self) -> list[int]:
        """Films in each batch of the whole epoch."""
        full, rest = divmod(self._count, self._batch_size)
        sizes = [self._batch_size] * full + ([rest] if rest else [])
        if self._shuffle and rest == 1 and full:
            sizes[-2:] = [self._batch_size + 1]
        return sizes

    def __len__(self) -> int:
        return len(self.sizes())

    def __iter__(self) -> Iterator[list[int]]:
        if self._shuffle:
            order = epoch_order(self._count, self._seed, self._epoch)
        else:
            order = np.arange(self._count)
        ends = np.cumsum([0, *self.sizes()])
        for start, end in zip(ends[self._skip : -1], ends[self._skip + 1 :], strict=True):
            yield order[start:end].tolist()


def make_loader(
    dataset: FilmDataset,
    batches: EpochBatches,
    num_workers: int,
    pin_memory: bool,
    prefetch_factor: int,
) -> DataLoader[Batch]:
    """Loads the batches in order; what it yields does not depend on the number of workers."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        # Its own: a loader draws a seed for its workers, and must not move the global generator.
        generator=torch.Generator().manual_seed(0),
    )


def as_it_is(batch: Batch) -> Batch:
    """The data set has collated already."""
    return batch


def choose_workers(device: torch.device) -> int:
    """Processes for loading. A batch is one copy out of a memory map: on a CPU a worker would only
    take a core from the network, on a GPU two hide the copy behind the step."""
    return 2 if device.type == "cuda" else 0
