"""Whole batches out of the decoded images, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from engine.data.cache import CachedImages
from engine.distributed import ALONE, Processes

HANDING_OVER = 0.002  # seconds in which a worker's batch comes through shared memory


class Batch(NamedTuple):
    """Images as the loop takes them."""

    images: torch.Tensor  # uint8 [B, 1, S, S]
    labels: torch.Tensor  # int64 [B], 1 is the positive class
    indices: torch.Tensor  # int64 [B], the record's place in the data set


class ImageDataset(Dataset[Batch]):
    """The images at `indices`; hands out whole batches.

    `labels` [N] and `rows` [N] are of all records; a row is the image's place in `images`
    [M, S, S] uint8. Pickled, it takes the path of the cached images along, not their pixels.
    """

    def __init__(
        self,
        images: np.ndarray | CachedImages,
        rows: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
    ) -> None:
        self._images, self._rows, self._labels, self._indices = images, rows, labels, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        """One contiguous batch with one indexing operation, no Python per image."""
        index = self._indices[positions]
        return Batch(
            torch.from_numpy(self._images[self._rows[index]])[:, None],
            torch.from_numpy(self._labels[index]),
            torch.from_numpy(index),
        )


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `count` positions, int64, the same wherever seed and epoch are."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """As many positions as `labels` [N], int64, half of either class, in random order.

    Of a class with more images than its half, a random choice; of one with fewer, each image as
    often as another, or once more.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    half = len(labels) // 2
    chosen = []
    for label, wanted in ((0, half), (1, len(labels) - half)):
        own = np.flatnonzero(labels == label)
        rounds = -(-wanted // len(own))
        chosen.append(np.concatenate([generator.permutation(own) for _ in range(rounds)])[:wanted])
    return generator.permutation(np.concatenate(chosen))


class EpochBatches(Sampler[list[int]]):
    """Lists of positions, batch by batch; can begin in the middle of an epoch.

    The last batch may be smaller; one that leaves a process a single image, which BatchNorm cannot
    train on, is joined to the batch before it. Several processes share each batch: every image is
    in the part of exactly one of them.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        balance: np.ndarray | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """`batch_size` is of all processes together.

        `balance`: the labels [count], where both classes are to be seen equally often.
        """
        self._processes = processes
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._shuffle, self._balance = shuffle, balance
        self._epoch, self._skip = 1, 0

    def set_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Which epoch comes next (1-based), and how many of its batches are done already."""
        self._epoch, self._skip = epoch, skip_batches

    def sizes(self) -> list[int]:
        """Images in each batch of the whole epoch, of all processes together."""
        full, rest = divmod(self._count, self._batch_size)
        sizes = [self._batch_size] * full + ([rest] if rest else [])
        if self._shuffle and 0 < rest < 2 * self._processes.count and full:
            sizes[-2:] = [self._batch_size + rest]
        return sizes

    def __len__(self) -> int:
        return len(self.sizes())

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.whole():
            if own := batch[self._processes.rank :: self._processes.count]:
                yield own

    def whole(self) -> Iterator[list[int]]:
        """The batches of all processes together."""
        if self._balance is not None:
            order = balanced_order(self._balance, self._seed, self._epoch)
        elif self._shuffle:
            order = epoch_order(self._count, self._seed, self._epoch)
        else:
            order = np.arange(self._count)
        ends = np.cumsum([0, *self.sizes()])
        for start, end in zip(ends[self._skip : -1], ends[self._skip + 1 :], strict=True):
            yield order[start:end].tolist()


def make_loader(
    dataset: ImageDataset,
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


def as_it_is(batch: Any) -> Any:
    """The data set has collated already."""
    return batch


class ResidentLoader:
    """The same batches, taken from images on the device: no copy per step."""

    def __init__(
        self,
        images: torch.Tensor,
        labels: np.ndarray,
        indices: np.ndarray,
        batches: EpochBatches,
    ) -> None:
        """`images` uint8 [N, S, S] of all records, on the device; `labels` [N]; `indices` [K]."""
        self._images, self._batches = images, batches
        self._labels = torch.from_numpy(labels).to(images.device)
        self._indices = torch.from_numpy(indices).to(images.device)

    def __iter__(self) -> Iterator[Batch]:
        for positions in self._batches:
            places = torch.tensor(positions).to(self._images.device, non_blocking=True)
            index = self._indices[places]
            yield Batch(self._images[index][:, None], self._labels[index], index)


def choose_workers(
    dataset: ImageDataset, batch_size: int, device: torch.device
) -> tuple[int, float]:
    """Processes for loading, and the measured seconds in which this process fetches a batch.

    On a CPU a worker would only take a core from the network. On a GPU, workers pay off where
    fetching takes longer than handing a batch over from another process.
    """
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(5):
        positions = rng.integers(0, len(dataset), batch_size).tolist()
        began = time.perf_counter()
        dataset.__getitems__(positions)
        seconds.append(time.perf_counter() - began)
    fetch = sorted(seconds)[2]
    if device.type == "cpu" or fetch < HANDING_OVER:
        return 0, fetch
    return min(4, max(1, (os.cpu_count() or 2) - 1)), fetch
