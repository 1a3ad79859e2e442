"""Transforms: parity with torchvision's, geometry as properties, and errors that show the value."""

import typing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import torchvision

from minimaskrcnn.data.targets import preprocess_targets
from minimaskrcnn.data.transforms import (
    FLIPPED_KEYPOINT,
    AugmentConfig,
    Batch,
    Sample,
    Target,
    TransformConfig,
    augment,
    hflip,
    pad_batch,
    preprocess,
    resize_boxes,
    resize_image,
    resize_masks,
    resized_size,
)

sides = st.integers(1, 2000)
COCO_NAMES = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
]


def make_sample(seed: int, height: int, width: int, objects: int, dtype=torch.float32) -> Sample:
    """Random rectangles whose masks and boxes agree, and keypoints on pixels, some of them not labelled."""
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, width, objects), rng.integers(0, height, objects)
    x2, y2 = rng.integers(x1 + 1, width + 1), rng.integers(y1 + 1, height + 1)
    y, x = np.indices((height, width))
    masks = np.array([(x >= a) & (x < b) & (y >= c) & (y < d) for a, b, c, d in zip(x1, x2, y1, y2)], bool)
    points = rng.integers(0, [width, height, 3], (objects, 17, 3)).astype(np.float64)
    points[points[:, :, 2] == 0] = 0
    target = {
        "boxes": torch.tensor(np.stack([x1, y1, x2, y2], axis=1), dtype=dtype),
        "labels": torch.tensor(rng.integers(1, 5, objects)),
        "masks": torch.tensor(masks.reshape(objects, height, width)),
        "keypoints": torch.tensor(points, dtype=dtype),
        "image_id": seed,
    }
    return Sample(torch.tensor(rng.random((3, height, width)), dtype=dtype), target)


samples = st.builds(
    make_sample, st.integers(0, 99), st.integers(1, 20), st.integers(1, 20), st.integers(0, 4)
)


def same(a, b) -> bool:
    if a.keys() != b.keys():
        return False
    return all(torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key] for key in a)


def to_batch(batch: list[Sample], config: TransformConfig):
    pictures = preprocess([sample.image for sample in batch], config)
    return pictures, preprocess_targets([sample.target for sample in batch], pictures)


def resized(count: int, size: tuple[int, int], new_size: tuple[int, int]) -> Batch:
    """A batch of blank pictures of one size, padded to 32 × 32."""
    return Batch(torch.zeros(count, 3, 32, 32), [new_size] * count, [size] * count)


# --- sizes


@given(sides, sides, st.integers(1, 1000), st.integers(1, 1500))
def test_a_side_fits_and_none_is_too_long(height, width, min_size, max_size):
    new = resized_size((height, width), min_size, max_size)
    assert min(new) >= 1
    assert min(new) <= min_size and max(new) <= max_size
    # cut-off and float64 rounding leave each at most one pixel short
    assert min(new) >= min_size - 1 or max(new) >= max_size - 1


@given(sides, sides, st.integers(1, 1000), st.integers(1, 1500))
def test_the_size_is_the_one_that_interpolate_computes(height, width, min_size, max_size):
    scale = min(min_size / min(height, width), max_size / max(height, width))
    if min(height, width) * scale < 1:
        return  # torchvision fails there
    expected = torch.nn.functional.interpolate(
        torch.empty(1, 1, height, width, device="meta"), scale_factor=scale, recompute_scale_factor=True
    )
    assert resized_size((height, width), min_size, max_size) == tuple(expected.shape[-2:])


def test_known_sizes():
    assert resized_size((480, 640), 800, 1333) == (800, 1066)
    assert resized_size((427, 640), 800, 1333) == (800, 1199)
    assert resized_size((640, 240), 800, 1333) == (1333, 499)
    assert resized_size((1, 5000), 800, 1333) == (1, 1333)  # torchvision: no row left, an error


# --- parity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parity_with_torchvision(dtype):
    peer = torchvision().models.detection.transform.GeneralizedRCNNTransform
    config = TransformConfig(min_sizes=(64, 96), max_size=150)
    batch = [
        make_sample(k, *size, k + 1, dtype)
        for k, size in enumerate([(64, 99), (37, 120), (96, 96), (200, 20)])
    ]
    expected, targets = peer(96, 150, config.mean, config.std).eval()(
        [sample.image for sample in batch], [dict(sample.target) for sample in batch]
    )
    pictures, gt = to_batch(batch, config)
    torch.testing.assert_close(pictures.tensor, expected.tensors, rtol=0, atol=0)
    assert pictures.image_sizes == expected.image_sizes
    for k, (target, (h, w)) in enumerate(zip(targets, pictures.image_sizes)):
        objects = slice(0, k + 1)
        torch.testing.assert_close(gt.boxes[k, objects], target["boxes"], rtol=0, atol=0)
        torch.testing.assert_close(gt.keypoints[k, objects], target["keypoints"], rtol=0, atol=0)
        masks = gt.masks[gt.mask_offset[k] :][objects, :h, :w]
        torch.testing.assert_close(masks, target["masks"].bool(), rtol=0, atol=0)


# --- resizing


@given(samples, st.integers(1, 30), st.integers(1, 30))
def test_masks_take_the_nearest_pixel_by_flooring(sample, height, width):
    masks = sample.target["masks"].numpy()
    rows = np.arange(height) * masks.shape[1] // height
    columns = np.arange(width) * masks.shape[2] // width
    resized = resize_masks(sample.target["masks"], (height, width)).numpy()
    # float32 ratios may fall on the other side of a pixel's edge where the edge is hit exactly
    exact_row = (np.arange(height) * masks.shape[1] % height != 0) | (height == masks.shape[1])
    exact_column = (np.arange(width) * masks.shape[2] % width != 0) | (width == masks.shape[2])
    expected = masks[:, rows][:, :, columns]
    np.testing.assert_array_equal(
        resized[:, exact_row][:, :, exact_column], expected[:, exact_row][:, :, exact_column]
    )


@given(samples)
def test_doubling_doubles_everything(sample):
    height, width = sample.image.shape[1:]
    double = (2 * height, 2 * width)
    masks = sample.target["masks"].repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(resize_masks(sample.target["masks"], double), masks)
    torch.testing.assert_close(
        resize_boxes(sample.target["boxes"], (height, width), double), 2 * sample.target["boxes"]
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30))
def test_images_are_interpolated_between_pixel_centres(height, width, new_height, new_width):
    """A picture that is linear in x and y stays linear, away from the border."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    resized = resize_image((2 * y + 3 * x)[None].double(), (new_height, new_width))[0]
    y = ((torch.arange(new_height).double() + 0.5) * height / new_height).clamp(0.5, height - 0.5)
    x = ((torch.arange(new_width).double() + 0.5) * width / new_width).clamp(0.5, width - 0.5)
    torch.testing.assert_close(resized, 2 * y[:, None] + 3 * x, rtol=0, atol=1e-6)


# --- batches


@given(st.lists(samples, min_size=1, max_size=4), st.sampled_from([1, 8, 32]))
def test_a_batch_holds_each_picture_at_the_top_left_and_zeros_elsewhere(batch, divisor):
    padded, sizes = pad_batch([sample.image + 1 for sample in batch], divisor)
    assert padded.shape[-2] % divisor == 0 and padded.shape[-1] % divisor == 0
    assert padded.shape[-2] < max(h for h, _ in sizes) + divisor
    assert padded.shape[-1] < max(w for _, w in sizes) + divisor
    for slot, sample, (h, w) in zip(padded, batch, sizes):
        torch.testing.assert_close(slot[:, :h, :w], sample.image + 1, rtol=0, atol=0)
        assert int(slot.count_nonzero()) == 3 * h * w


@given(st.lists(samples, min_size=1, max_size=4))
def test_ground_truth_is_padded_and_masks_are_found_by_offset(batch):
    pictures, gt = to_batch(batch, TransformConfig(min_sizes=(24,), max_size=40, size_divisor=8))
    counts = [len(sample.target["boxes"]) for sample in batch]
    most = max(1, *counts)
    assert gt.boxes.shape == (len(batch), most, 4) and gt.keypoints.shape == (len(batch), most, 17, 3)
    assert gt.valid.sum(dim=1).tolist() == counts
    assert gt.masks.shape == (sum(counts), *pictures.tensor.shape[-2:])
    for b, (sample, count) in enumerate(zip(batch, counts)):
        assert gt.valid[b, :count].all() and not gt.valid[b, count:].any()
        assert gt.labels[b].tolist() == sample.target["labels"].tolist() + [0] * (most - count)
        assert not gt.boxes[b, count:].any() and not gt.keypoints[b, count:].any()
        old, new = pictures.original_sizes[b], pictures.image_sizes[b]
        assert old == tuple(sample.image.shape[1:])
        torch.testing.assert_close(gt.boxes[b, :count], resize_boxes(sample.target["boxes"], old, new))
        for g in range(count):
            mask = gt.masks[gt.mask_offset[b] + g]
            expected = resize_masks(sample.target["masks"][g : g + 1], new)[0]
            torch.testing.assert_close(mask[: new[0], : new[1]], expected)
            assert mask.sum() == expected.sum()
        visible = sample.target["keypoints"][..., 2]
        torch.testing.assert_close(gt.keypoints[b, :count, :, 2], visible)


def test_every_picture_may_have_its_own_shorter_side():
    config = TransformConfig(min_sizes=(10, 30), max_size=100)
    images = [torch.zeros(3, 20, 40), torch.zeros(3, 40, 20)]
    assert preprocess(images, config).image_sizes == [(30, 60), (60, 30)]
    assert preprocess(images, config, [10, 25]).image_sizes == [(10, 20), (50, 25)]


def test_without_masks_and_keypoints_there_are_none():
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    gt = preprocess_targets([target, target], resized(2, (5, 5), (10, 10)))
    assert gt.masks is None and gt.keypoints is None
    assert gt.boxes.shape == (2, 1, 4) and not gt.valid.any() and gt.mask_offset.tolist() == [0, 0]


def test_a_target_has_the_shapes_that_its_type_says():
    target = make_sample(0, 9, 9, 2).target
    hints = typing.get_type_hints(Target)
    assert {name for name, value in target.items() if torch.is_tensor(value)} >= {"boxes", "labels", "masks"}
    for name, value in target.items():
        assert isinstance(value, hints[name]), name
    assert not isinstance(target["boxes"][:, :3], hints["boxes"])


def test_half_precision_boxes_become_float32_and_byte_masks_boolean():
    sample = make_sample(0, 9, 9, 2)
    target = {**sample.target, "boxes": sample.target["boxes"].half(), "masks": sample.target["masks"].byte()}
    gt = preprocess_targets([target], resized(1, (9, 9), (18, 18)))
    assert gt.boxes.dtype == torch.float32 and gt.masks.dtype == torch.bool
    assert gt.masks.sum() == 4 * sample.target["masks"].sum()


def test_arguments_stay_as_they_were():
    sample, again = make_sample(1, 9, 12, 3), make_sample(1, 9, 12, 3)
    to_batch([sample], TransformConfig(min_sizes=(24,)))
    augment(sample, AugmentConfig(flip_probability=1.0, min_sizes=(3, 4)), torch.Generator())
    assert torch.equal(sample.image, again.image) and same(sample.target, again.target)


# --- flips


@given(samples)
def test_flipping_twice_changes_nothing(sample):
    twice = hflip(*hflip(*sample))
    assert torch.equal(twice.image, sample.image) and same(twice.target, sample.target)


@given(samples)
def test_picture_boxes_masks_and_keypoints_flip_together(sample):
    image, target = hflip(*sample)
    for box, mask in zip(target["boxes"].int().tolist(), target["masks"]):
        x1, y1, x2, y2 = box
        assert mask[y1:y2, x1:x2].all() and mask.sum() == (x2 - x1) * (y2 - y1)
    for before, after in zip(sample.target["keypoints"], target["keypoints"]):
        for k, (x, y, v) in enumerate(before.int().tolist()):
            new_x, new_y, new_v = after[FLIPPED_KEYPOINT[k]].int().tolist()
            assert new_v == v
            if v:
                torch.testing.assert_close(image[:, new_y, new_x], sample.image[:, y, x])
            else:
                assert (new_x, new_y) == (0, 0)


def test_left_and_right_change_places():
    swapped = [COCO_NAMES[k] for k in FLIPPED_KEYPOINT]
    sides = {"left": "right", "right": "left"}
    assert swapped == ["_".join(sides.get(word, word) for word in name.split("_")) for name in COCO_NAMES]


def test_augmentation_depends_on_the_generator_alone():
    sample = make_sample(3, 6, 8, 2)
    config = AugmentConfig(min_sizes=(640, 672, 800))
    drawn = [augment(sample, config, torch.Generator().manual_seed(k)) for k in range(300)]
    flipped = [torch.equal(image, sample.image.flip(-1)) for image, _ in drawn]
    assert 120 < sum(flipped) < 180
    assert all(
        torch.equal(image, sample.image) or target["boxes"][0, 0] != sample.target["boxes"][0, 0]
        for image, target in drawn
    )
    sizes = [target["min_size"] for _, target in drawn]
    assert all(70 < sizes.count(size) < 130 for size in config.min_sizes)
    together = [sizes[k] for k in range(300) if flipped[k]]
    assert all(
        30 < together.count(size) < 75 for size in config.min_sizes
    )  # one draw does not decide the other
    again = augment(sample, config, torch.Generator().manual_seed(7))
    assert torch.equal(again.image, drawn[7].image) and same(again.target, drawn[7].target)


def test_flip_probability_is_a_probability_and_sizes_are_optional():
    sample = make_sample(3, 6, 8, 2)
    for probability, expected in ((0.0, sample.image), (1.0, sample.image.flip(-1))):
        for k in range(20):
            config = AugmentConfig(flip_probability=probability)
            image, target = augment(sample, config, torch.Generator().manual_seed(k))
            assert torch.equal(image, expected) and "min_size" not in target


# --- errors


def changed(**changes) -> dict:
    return {**make_sample(1, 9, 12, 3).target, **changes}


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "target, error, message",
    [
        ({"boxes": torch.zeros(0, 4)}, ValueError, "target 0 has no 'labels'; it has .*boxes"),
        (changed(boxes=torch.zeros(0)), ValueError, r"boxes must be \[G, 4\], got \[0\]"),
        (changed(boxes=torch.zeros(3, 4).long()), TypeError, "boxes must be floating, got torch.int64"),
        (
            changed(boxes=torch.tensor([[1.0, 1, 5, 5], [4, 4, 4, 8], [0, 0, 1, 1]])),
            ValueError,
            "box 1 needs .*4.0",
        ),
        (
            changed(boxes=torch.tensor([[1.0, 1, 5, 5], [4, 4, 5, 3], [0, 0, 1, 1]])),
            ValueError,
            "box 1 needs .*3.0",
        ),
        (changed(boxes=torch.full((3, 4), float("nan"))), ValueError, "box 0 needs finite"),
        (changed(boxes=torch.tensor([[0, 0, 1, float("inf")]] * 3)), ValueError, "box 0 needs finite"),
        (
            changed(labels=torch.ones(2, dtype=torch.int64)),
            ValueError,
            r"labels must be int64 \[3\], .*\[2\]",
        ),
        (changed(labels=torch.ones(3)), ValueError, r"labels must be int64 \[3\], got torch.float32"),
        (
            changed(masks=torch.zeros(3, 12, 9).bool()),
            ValueError,
            r"masks must be bool \[3, 9, 12\], .*\[3, 12, 9\]",
        ),
        (changed(masks=torch.zeros(3, 9, 12)), ValueError, r"masks must be bool .* got torch.float32"),
        (
            changed(keypoints=torch.zeros(3, 17, 2)),
            ValueError,
            r"keypoints must be \[3, K, 3\], got \[3, 17, 2\]",
        ),
        (changed(keypoints=torch.full((3, 17, 3), float("nan"))), ValueError, "keypoints must be finite"),
    ],
)
def test_a_bad_target_is_named(target, error, message):
    with pytest.raises(error, match=message):
        preprocess_targets([target], resized(1, (9, 12), (18, 24)))


@pytest.mark.unhooked
def test_targets_must_agree_with_each_other_and_the_pictures():
    with_masks = make_sample(1, 9, 12, 3).target
    without = {key: value for key, value in with_masks.items() if key != "masks"}
    with pytest.raises(ValueError, match="all targets have 'masks' or none: targets 0 and 1"):
        preprocess_targets([with_masks, without], resized(2, (9, 12), (9, 12)))
    with pytest.raises(ValueError, match="1 targets for 2 pictures"):
        preprocess_targets([with_masks], resized(2, (9, 12), (9, 12)))


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "images, error, message",
    [
        ([], ValueError, "at least one picture"),
        ([torch.zeros(1, 5, 5)], ValueError, r"picture 0 must be \[3, h, w\], got \[1, 5, 5\]"),
        ([torch.zeros(3, 5, 5), torch.zeros(5, 5)], ValueError, r"picture 1 must be .* got \[5, 5\]"),
        ([torch.zeros(3, 0, 5)], ValueError, r"got \[3, 0, 5\]"),
        ([torch.zeros(3, 5, 5).byte()], TypeError, "floating dtype, picture 0 has torch.uint8"),
        ([torch.zeros(3, 5, 5), torch.zeros(3, 5, 5).double()], TypeError, "picture 1 has torch.float64"),
    ],
)
def test_bad_pictures_are_named(images, error, message):
    with pytest.raises(error, match=message):
        preprocess(images, TransformConfig())


def test_other_errors():
    with pytest.raises(ValueError, match="1 chosen sizes for 2 pictures"):
        preprocess([torch.zeros(3, 5, 5)] * 2, TransformConfig(), [5])
    with pytest.raises(ValueError, match=r"positive: picture \(5, 5\), min 0"):
        preprocess([torch.zeros(3, 5, 5)], TransformConfig(), [0])
    target = {**make_sample(1, 9, 12, 3).target, "keypoints": torch.zeros(3, 5, 3)}
    with pytest.raises(ValueError, match=r"17 keypoints can be mirrored, got \[3, 5, 3\]"):
        hflip(torch.zeros(3, 9, 12), target)
