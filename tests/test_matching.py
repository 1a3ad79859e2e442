"""Matching beside plain loops, thresholds met exactly, and sampling: how many, which, and how evenly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimaskrcnn.matching import match, sample, sampling_keys


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def match_by_loops(gt, gt_valid, boxes, valid, positive_iou, negative_iou, low_quality):
    """(overlap with the best ground truth or -1, label) of each box of one image."""
    objects = [g for g in range(len(gt)) if gt_valid[g]]
    asked = [k for k in range(len(boxes)) if valid[k]]
    overlap = {(g, k): iou(gt[g], boxes[k]) for g in objects for k in asked}
    best = [
        max((overlap[g, k] for g in objects), default=-1.0) if valid[k] else -1.0 for k in range(len(boxes))
    ]
    label = [-1] * len(boxes)
    for k in asked:
        if best[k] >= positive_iou:
            label[k] = 1
        elif best[k] < negative_iou:
            label[k] = 0
    for g in objects if low_quality else []:
        highest = max((overlap[g, k] for k in asked), default=0.0)
        for k in asked:
            if highest > 0 and overlap[g, k] == highest:
                label[k] = 1
    return best, label


def integer_boxes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Boxes on a grid of 8 cells: many are equal, touch, or overlap by simple fractions."""
    corner = torch.randint(0, 6, (*shape, 2), generator=generator)
    size = torch.randint(1, 4, (*shape, 2), generator=generator)
    return torch.cat([corner, corner + size], dim=-1).double()


@given(
    seed=st.integers(0, 10**6),
    objects=st.integers(1, 4),
    thresholds=st.sampled_from([(0.7, 0.3), (0.5, 0.5), (1.0, 0.2)]),
    low_quality=st.booleans(),
)
def test_match_is_what_loops_say(seed, objects, thresholds, low_quality):
    generator = torch.Generator().manual_seed(seed)
    gt, boxes = integer_boxes(generator, 2, objects), integer_boxes(generator, 2, 12)
    gt_valid = torch.rand(2, objects, generator=generator) < 0.7
    valid = torch.rand(2, 12, generator=generator) < 0.8
    positive_iou, negative_iou = thresholds
    found = match(
        gt, gt_valid, boxes, valid,
        positive_iou=positive_iou, negative_iou=negative_iou, allow_low_quality=low_quality,
    )  # fmt: skip
    for b in range(2):
        image = (gt[b].tolist(), gt_valid[b].tolist(), boxes[b].tolist(), valid[b].tolist())
        best, label = match_by_loops(*image, positive_iou, negative_iou, low_quality)
        assert found.label[b].tolist() == label
        for k in range(12):
            # Between equally good objects any will do; without one, positive is impossible.
            if best[k] > 0:
                g = int(found.index[b, k])
                assert gt_valid[b, g] and iou(gt[b, g].tolist(), boxes[b, k].tolist()) == best[k]


def labels_of(
    gt, boxes, *, positive, negative, low_quality=False, dtype=torch.float64, gt_valid=None
) -> list[int]:
    gt, boxes = torch.tensor([gt], dtype=dtype), torch.tensor([boxes], dtype=dtype)
    gt_valid = torch.ones(gt.shape[:2], dtype=torch.bool) if gt_valid is None else torch.tensor([gt_valid])
    found = match(
        gt, gt_valid, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool),
        positive_iou=positive, negative_iou=negative, allow_low_quality=low_quality,
    )  # fmt: skip
    return found.label[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_are_positive_from_and_negative_under(dtype):
    # Boxes of n × 1 in an object of 10 × 1 have an IoU of n / 10.
    strips = [[0, 0, n, 1] for n in (6.9, 7, 3, 2.9)]
    assert labels_of([[0, 0, 10, 1]], strips, positive=0.7, negative=0.3, dtype=dtype) == [-1, 1, -1, 0]
    halves = [[0, 0, 5, 1], [0, 0, 4.9, 1]]
    assert labels_of([[0, 0, 10, 1]], halves, positive=0.5, negative=0.5, dtype=dtype) == [1, 0]


def test_every_object_takes_the_boxes_that_overlap_it_most():
    boxes = [[0, 0, 4, 1], [6, 0, 10, 1], [0, 0, 3, 1], [20, 0, 30, 1]]
    # The first two tie at IoU 0.4; without the rule all would be ignored or negative.
    assert labels_of([[0, 0, 10, 1]], boxes, positive=0.7, negative=0.3, low_quality=True) == [1, 1, -1, 0]
    assert labels_of([[0, 0, 10, 1]], boxes, positive=0.7, negative=0.3) == [-1, -1, -1, 0]


def test_an_object_that_no_box_touches_takes_none():
    boxes = [[20, 0, 30, 1], [40, 0, 50, 1]]
    assert labels_of([[0, 0, 10, 1]], boxes, positive=0.7, negative=0.3, low_quality=True) == [0, 0]


def test_padded_objects_never_match():
    gt = [[0, 0, 10, 1], [20, 0, 30, 1]]
    boxes = [[0, 0, 10, 1], [20, 0, 30, 1]]
    for low_quality in (False, True):
        found = labels_of(
            gt, boxes, positive=0.7, negative=0.3, low_quality=low_quality, gt_valid=[True, False]
        )
        assert found == [1, 0]


def test_padding_of_zeros_and_boxes_without_area_make_no_nan():
    gt = [[0, 0, 10, 1], [0, 0, 0, 0]]
    boxes = [[0, 0, 10, 1], [0, 0, 0, 0]]
    found = labels_of(gt, boxes, positive=0.7, negative=0.3, low_quality=True, gt_valid=[True, False])
    assert found == [1, 0]


def test_invalid_boxes_are_ignored_and_take_nobodys_place():
    gt = torch.tensor([[[0.0, 0.0, 10.0, 1.0]]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 4.0, 1.0], [50.0, 0.0, 60.0, 1.0]]])
    found = match(
        gt, torch.tensor([[True]]), boxes, torch.tensor([[False, True, False]]),
        positive_iou=0.7, negative_iou=0.3, allow_low_quality=True,
    )  # fmt: skip
    # The second is the best of the valid ones.
    assert found.label.tolist() == [[-1, 1, -1]]


def test_an_image_without_objects_is_all_negative():
    boxes = [[0, 0, 10, 1], [0, 0, 0, 0]]
    assert labels_of(
        [[0, 0, 10, 1]], boxes, positive=0.7, negative=0.3, low_quality=True, gt_valid=[False]
    ) == [0, 0]


@given(
    seed=st.integers(0, 10**6),
    places=st.integers(1, 14),
    number=st.integers(1, 16),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_sample_takes_the_highest_keys_of_each_kind_in_proportion(seed, places, number, fraction):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(-1, 3, (3, places), generator=generator)
    keys = sampling_keys((3, places), torch.device("cpu"), generator)
    found = sample(label, keys, number, fraction)
    for row in range(3):
        by_key = sorted(range(places), key=lambda k: -keys[row, k])
        positives = [k for k in by_key if label[row, k] > 0][: int(number * fraction)]
        negatives = [k for k in by_key if label[row, k] == 0][: number - len(positives)]
        count = len(positives) + len(negatives)
        assert found.index[row, :count].tolist() == positives + negatives
        assert found.valid[row].tolist() == [True] * count + [False] * (len(found.valid[row]) - count)
        assert found.positive[row, : len(positives)].all() and not found.positive[row, len(positives) :].any()
        assert len(positives) <= int(number * fraction)
    assert found.index.shape[1] <= number


def test_negatives_fill_the_places_of_missing_positives():
    label = torch.tensor([[1, 0, 0, 0, 0, 0, 0, -1]])
    found = sample(label, torch.rand(1, 8, generator=torch.Generator().manual_seed(0)), 6, 0.5)
    assert found.positive.sum() == 1 and found.valid.sum() == 6


def test_positives_do_not_fill_the_places_of_missing_negatives():
    label = torch.tensor([[1, 1, 1, 1, 1, 1, 0, -1]])
    found = sample(label, torch.rand(1, 8, generator=torch.Generator().manual_seed(0)), 6, 0.5)
    assert found.positive.sum() == 3 and found.valid.sum() == 4


def test_every_box_of_a_kind_is_as_likely():
    draws = 4000
    label = torch.tensor([0, 1, 0, -1, 0, 1, 0, 1, 0, 1]).expand(draws, 10)
    keys = sampling_keys((draws, 10), torch.device("cpu"), torch.Generator().manual_seed(0))
    found = sample(label, keys, 4, 0.5)
    assert found.valid.all()
    times = torch.bincount(found.index.flatten(), minlength=10)
    assert times[3] == 0
    # 2 of 4 positives: 2000 ± 32 each; 2 of 5 negatives: 1600 ± 31.  Five standard deviations.
    assert ((times[[1, 5, 7, 9]] - 2000).abs() < 160).all()
    assert ((times[[0, 2, 4, 6, 8]] - 1600).abs() < 160).all()
    # And in any company: positives 1 and 5 come together in 1 of 6 draws, 667 ± 24.
    together = ((found.index == 1).any(1) & (found.index == 5).any(1)).sum()
    assert abs(int(together) - 667) < 120


def test_keys_depend_on_the_generator_alone():
    device = torch.device("cpu")
    first = sampling_keys((2, 9), device, torch.Generator().manual_seed(5))
    torch.manual_seed(99)
    assert torch.equal(first, sampling_keys((2, 9), device, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, sampling_keys((2, 9), device, torch.Generator().manual_seed(6)))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(sampling_keys((2, 9), device, None), sampling_keys((2, 9), device, None))
