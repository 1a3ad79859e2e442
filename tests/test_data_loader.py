"""Loading: batches are a function of (seed, epoch), samples of (seed, epoch, index), and workers change nothing."""

import json
import math
import os
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.loader import (
    BatchLoader,
    CachedDataset,
    epoch_batches,
    generator_for,
    make_loader,
    pack,
    training_batches,
    unpack_sample,
)
from minimaskrcnn.data.transforms import AugmentConfig, Sample

COUNT = 11
FLIPS = AugmentConfig(flip_probability=0.5)
ratios = st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.5]), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eleven noisy pictures, every third of them portrait, with one square each; the last has none."""
    folder = tmp_path_factory.mktemp("data")
    images, annotations = [], []
    for k in range(COUNT):
        height, width = (12, 9) if k % 3 == 0 else (9, 12)
        pixels = np.random.default_rng(k).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        images.append({"id": 100 + k, "file_name": f"{k}.png", "height": height, "width": width})
        if k < COUNT - 1:
            square = {
                "segmentation": [[1, 2, 4, 2, 4, 5, 1, 5]],
                "bbox": [1, 2, 3, 3],
                "keypoints": [2, 3, 2] * 17,
            }
            annotations.append({"id": k, "image_id": 100 + k, "category_id": 1, **square})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "all.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def dataset(folder) -> CocoDataset:
    return CocoDataset(folder, folder / "all.json", folder / "all.json")


def ids(batch) -> list[int]:
    return [target["image_id"] - 100 for target in batch[1]]


def assert_same_sample(a: Sample, b: Sample) -> None:
    torch.testing.assert_close(a.image, b.image, rtol=0, atol=0)
    assert a.target.keys() == b.target.keys()
    for key, value in a.target.items():
        if torch.is_tensor(value):
            torch.testing.assert_close(value, b.target[key], rtol=0, atol=0)
        else:
            assert value == b.target[key]


def assert_same_batches(a, b) -> None:
    for (images, targets), (other_images, other_targets) in zip(a, b, strict=True):
        for x, y in zip(zip(images, targets), zip(other_images, other_targets), strict=True):
            assert_same_sample(Sample(*x), Sample(*y))


# --- which samples make a batch


@settings(max_examples=300)
@given(ratios, st.integers(1, 12), st.integers(0, 9), st.integers(0, 9))
def test_an_epoch_has_every_sample_in_whole_batches(aspect_ratios, batch_size, seed, epoch):
    batches = epoch_batches(aspect_ratios, batch_size, seed, epoch)
    assert len(batches) == math.ceil(len(aspect_ratios) / batch_size)
    assert all(len(batch) == batch_size for batch in batches)
    times = Counter(i for batch in batches for i in batch)
    assert set(times) == set(range(len(aspect_ratios)))
    if len(aspect_ratios) >= batch_size:
        assert max(times.values()) <= 2
        assert all(len(set(batch)) == batch_size for batch in batches)
    assert batches == epoch_batches(aspect_ratios, batch_size, seed, epoch)


@given(ratios, st.integers(1, 12), st.integers(0, 9))
def test_at_most_two_batches_mix_portrait_and_landscape(aspect_ratios, batch_size, seed):
    batches = epoch_batches(aspect_ratios, batch_size, seed, 0)
    mixed = [batch for batch in batches if len({aspect_ratios[i] < 1 for i in batch}) == 2]
    assert len(mixed) <= 2


def test_epochs_and_seeds_differ_and_positions_are_shuffled():
    orders = {
        (seed, epoch): tuple(map(tuple, epoch_batches([1.0] * 60, 5, seed, epoch)))
        for seed in range(6)
        for epoch in range(6)
    }
    assert len(set(orders.values())) == 36
    # every place of the epoch gets samples from everywhere, portrait ones (the first thirty) too
    grouped = [epoch_batches([0.5] * 30 + [1.5] * 30, 5, seed, 0) for seed in range(200)]
    portrait_first = sum(batches[0][0] < 30 for batches in grouped)
    assert 70 < portrait_first < 130
    assert len({batches[3][2] for batches in grouped}) > 50


def test_no_samples_or_no_batch_size():
    with pytest.raises(ValueError, match="batches of 4 from 0 samples"):
        epoch_batches([], 4, 0, 0)
    with pytest.raises(ValueError, match="batches of 0 from 1 samples"):
        epoch_batches([1.0], 0, 0, 0)


def test_generators_depend_on_every_number():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 2), (2, 1, 0), (10,), (1, 0, 0)]
    draws = {torch.randint(2**60, (1,), generator=generator_for(*key)).item() for key in keys}
    assert len(draws) == len(keys)
    assert torch.equal(
        torch.rand(3, generator=generator_for(4, 5)), torch.rand(3, generator=generator_for(4, 5))
    )


# --- loaders


def test_unshuffled_every_sample_comes_once_in_order(dataset):
    loader = make_loader(dataset, batch_size=4)
    assert len(loader) == 3
    for _ in range(2):  # it can be iterated again
        batches = list(loader)
        assert [ids(batch) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert_same_sample(Sample(batches[1][0][2], batches[1][1][2]), dataset[6])


def test_shuffled_it_follows_epoch_batches(dataset):
    third = islice(training_batches(dataset, batch_size=4, seed=3, start_step=6), 3)  # three batches an epoch
    assert [ids(batch) for batch in third] == epoch_batches(dataset.aspect_ratios, 4, 3, 2)


def test_training_continues_where_it_stopped(dataset):
    whole = list(islice(training_batches(dataset, batch_size=4, seed=5, augment=FLIPS), 8))
    for step in (1, 3, 5):  # three batches an epoch
        rest = training_batches(dataset, batch_size=4, seed=5, start_step=step, augment=FLIPS)
        assert_same_batches(whole[step:], islice(rest, 8 - step))
    order = [batch for epoch in range(3) for batch in epoch_batches(dataset.aspect_ratios, 4, 5, epoch)]
    assert [ids(batch) for batch in whole] == order[:8]


def test_a_sample_is_augmented_anew_each_epoch(dataset):
    originals = [sample.image for sample in dataset]
    flipped = []
    for epoch in range(40):
        keys = [[(epoch, index) for index in range(COUNT)]]
        (images, _), *_ = BatchLoader(dataset, keys, seed=1, augment=FLIPS)
        flipped.append([not torch.equal(*pair) for pair in zip(images, originals, strict=True)])
    flipped = np.array(flipped)
    assert (flipped.sum(axis=0) > 8).all() and (flipped.sum(axis=0) < 32).all()
    assert len({tuple(row) for row in flipped.tolist()}) > 35  # and each sample by itself
    (images, _), *_ = make_loader(dataset, batch_size=COUNT)
    assert all(torch.equal(*pair) for pair in zip(images, originals, strict=True))


def test_the_global_generator_stays_untouched(dataset):
    before = torch.get_rng_state()
    list(islice(training_batches(dataset, batch_size=4, seed=5, augment=FLIPS), 4))
    list(make_loader(dataset, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def until_it_fails(batches) -> tuple[list, str]:
    done = []
    with pytest.raises(FileNotFoundError) as caught:
        for batch in batches:
            done.append(batch)
    return done, str(caught.value)


def test_workers_change_nothing_not_even_errors(dataset, folder):
    order = [
        i for epoch in range(2) for batch in epoch_batches(dataset.aspect_ratios, 2, 5, epoch) for i in batch
    ]
    broken = next(i for i in range(COUNT) if order.index(i) >= 8)  # four whole batches come before it
    dataset.images[broken] = dataset.images[broken]._replace(file_name="none.png")
    alone, helped = (
        until_it_fails(training_batches(dataset, batch_size=2, seed=5, augment=FLIPS, workers=workers))
        for workers in (0, 2)
    )
    assert len(alone[0]) >= 4
    assert_same_batches(alone[0], helped[0])
    assert alone[1] == helped[1] == f"{folder / 'none.png'}: no such picture"


def test_more_workers_than_processors_are_not_started(dataset):
    # torch warns about them, and warnings are errors here
    make_loader(dataset, batch_size=4, workers=10 * (os.cpu_count() or 1))


def test_bad_arguments(dataset):
    for arguments in ({"batch_size": 0}, {"batch_size": 1, "workers": -1}):
        with pytest.raises(ValueError, match=r"batch_size [01].*workers (0|-1)"):
            make_loader(dataset, **arguments)
        with pytest.raises(ValueError, match=r"batch_size [01].*workers (0|-1)"):
            training_batches(dataset, seed=0, **arguments)
    with pytest.raises(ValueError, match="start_step -1"):
        training_batches(dataset, seed=0, batch_size=1, start_step=-1)


# --- packing


@given(
    st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.booleans(), st.booleans()
)
def test_packing_loses_nothing(seed, height, width, objects, eight_bits, with_masks):
    rng = np.random.default_rng(seed)
    image = rng.random((3, height, width), dtype=np.float32)
    if eight_bits:
        image = rng.integers(0, 256, (3, height, width)).astype(np.float32) / np.float32(255)
    target = {
        "boxes": torch.tensor(rng.random((objects, 4))),
        "labels": torch.ones(objects, dtype=torch.int64),
        "image_id": 3,
        "annotation_ids": [1, 2],
    }
    if with_masks:
        target["masks"] = torch.tensor(rng.random((objects, height, width)) < 0.5)
    sample = Sample(torch.tensor(image), target)
    packed = pack(sample)
    assert packed.image.dtype == (np.uint8 if eight_bits else np.float32)
    assert_same_sample(unpack_sample(packed), sample)


def test_cached_samples_are_the_same_and_nobody_elses(dataset):
    cached = CachedDataset(dataset)
    assert len(cached) == COUNT and cached.aspect_ratios == dataset.aspect_ratios
    for _ in range(2):
        for index in range(COUNT):
            sample = cached[index]
            assert_same_sample(sample, dataset[index])
            for value in (sample.image, *(v for v in sample.target.values() if torch.is_tensor(v))):
                value.zero_()
    assert_same_sample(cached.first(3)[-1], dataset[2])
    assert_same_sample(cached.subset([3, 1])[0], dataset[3])
    assert_same_sample(cached.subset([3, 1]).first(2)[1], dataset[1])
    assert_same_batches(
        islice(training_batches(cached, batch_size=4, seed=5, augment=FLIPS), 3),
        islice(training_batches(dataset, batch_size=4, seed=5, augment=FLIPS), 3),
    )
