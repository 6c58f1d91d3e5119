"""Batches: every image once an epoch, in an order that seed and epoch alone decide."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.data.cache import CachedImages
from engine.data.dataset import (
    Batch,
    EpochBatches,
    ImageDataset,
    ResidentLoader,
    choose_workers,
    epoch_order,
    make_loader,
)

COUNT, SIDE = 41, 6
IMAGES = np.random.default_rng(0).integers(0, 256, (60, SIDE, SIDE), dtype=np.uint8)
ROWS = np.random.default_rng(1).permutation(60)[:50]
LABELS = np.arange(50, dtype=np.int64) % 2
INDICES = np.sort(np.random.default_rng(2).permutation(50)[:COUNT])


def make_images() -> ImageDataset:
    return ImageDataset(IMAGES, ROWS, LABELS, INDICES)


def batches(shuffle: bool = True, size: int = 8) -> EpochBatches:
    return EpochBatches(COUNT, size, seed=42, shuffle=shuffle)


def joined(some: list[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*some, strict=True)))


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_a_batch_holds_the_images_of_its_indices() -> None:
    for batch in make_loader(make_images(), batches(), 0, False, 2):
        for image, label, index in zip(*batch, strict=True):
            assert np.array_equal(image[0], IMAGES[ROWS[index]])
            assert label == LABELS[index]


def test_an_epoch_has_every_image_once_and_the_next_another_order() -> None:
    sampler = batches()
    loader = make_loader(make_images(), sampler, 0, False, 2)
    orders = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        indices = joined(list(loader)).indices
        assert sorted(indices.tolist()) == INDICES.tolist()
        orders.append(indices.tolist())
    assert orders[0] != orders[1]
    sampler.set_epoch(1)
    assert joined(list(loader)).indices.tolist() == orders[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine's cores
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(workers: int) -> None:
    sampler = batches()
    plain = make_loader(make_images(), sampler, 0, False, 2)
    many = make_loader(make_images(), sampler, workers, False, 2)
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        assert same(list(plain), list(many))


def test_a_pickled_data_set_takes_no_pixels_along(tmp_path: Path) -> None:
    """A loader's worker under spawn gets the path and opens the cache itself."""
    (tmp_path / "images.u8").write_bytes(IMAGES.tobytes())
    cached = CachedImages(tmp_path / "images.u8", len(IMAGES), SIDE)
    dataset = ImageDataset(cached, ROWS, LABELS, INDICES)
    assert IMAGES[0].tobytes() not in pickle.dumps(dataset)
    loader = make_loader(dataset, batches(), 1, False, 2)
    loader.multiprocessing_context = "spawn"
    assert same(list(loader), list(make_loader(make_images(), batches(), 0, False, 2)))


def test_loading_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    list(make_loader(make_images(), batches(), 0, False, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_resident_images_give_the_same_batches() -> None:
    sampler = batches()
    plain = make_loader(make_images(), sampler, 0, False, 2)
    resident = ResidentLoader(torch.from_numpy(IMAGES[ROWS]), LABELS, INDICES, sampler)
    assert same(list(plain), list(resident))


@given(st.integers(1, 200), st.integers(1, 40), st.booleans(), st.integers(0, 300))
def test_resuming_within_an_epoch_gives_the_rest(
    count: int, size: int, shuffle: bool, skip: int
) -> None:
    sampler = EpochBatches(count, size, seed=1, shuffle=shuffle)
    sampler.set_epoch(3)
    whole = list(sampler)
    assert [len(batch) for batch in whole] == sampler.sizes()
    assert sorted(place for batch in whole for place in batch) == list(range(count))
    sampler.set_epoch(3, skip_batches=min(skip, len(whole)))
    assert list(sampler) == whole[min(skip, len(whole)) :]


@given(st.integers(2, 200), st.integers(2, 40))
def test_no_training_batch_is_a_single_image(count: int, size: int) -> None:
    assert min(EpochBatches(count, size, seed=1, shuffle=True).sizes()) > 1


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert epoch_order(9, 1, 1).tolist() == epoch_order(9, 1, 1).tolist()
    different = {tuple(epoch_order(50, seed, epoch)) for seed in (1, 2, 3) for epoch in (1, 2, 3)}
    assert len(different) == 9


def test_a_cpu_keeps_its_cores_for_the_network() -> None:
    workers, seconds = choose_workers(make_images(), 8, torch.device("cpu"))
    assert workers == 0
    assert 0 < seconds < 1
