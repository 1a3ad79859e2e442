"""Box helpers: against their definitions, their symmetries, and torchvision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import assert_close, torchvision
from strategies import boxes

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

FORMATS = ["xyxy", "xywh", "cxcywh"]


@given(boxes(dtype=torch.float64), boxes(dtype=torch.float64))
def test_iou_is_its_definition(a, b):
    assert_close(ops.box_iou(a, b), reference.box_iou(a, b))


@given(boxes(dtype=torch.float64), boxes(dtype=torch.float64))
def test_iou_is_symmetric_and_between_0_and_1(a, b):
    iou = ops.box_iou(a, b)
    torch.testing.assert_close(iou, ops.box_iou(b, a).T, rtol=0, atol=0, equal_nan=True)
    known = iou[~iou.isnan()]
    assert ((known >= 0) & (known <= 1)).all()


@given(
    boxes(dtype=torch.float64),
    boxes(dtype=torch.float64),
    st.floats(0.1, 10),
    st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_iou_does_not_depend_on_scale_or_place(a, b, scale, shift):
    shift = torch.tensor([*shift, *shift], dtype=torch.float64)
    # A box without area may gain one by rounding: sides of at least a hundredth are told apart from it.
    a, b = (t[((t[:, 2:] - t[:, :2]) > 1e-2).all(1)] for t in (a, b))
    expected = ops.box_iou(a, b)
    torch.testing.assert_close(
        ops.box_iou(a * scale + shift, b * scale + shift), expected, rtol=1e-9, atol=1e-9
    )


def test_iou_of_two_boxes_without_area_is_nan_and_of_one_is_0():
    point, square = torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[0.0, 0, 2, 2]])
    assert ops.box_iou(point, point).isnan().all()
    assert ops.box_iou(point, square).item() == 0


def test_iou_takes_leading_axes():
    a, b = torch.rand(2, 3, 5, 4).cumsum(-1), torch.rand(2, 3, 7, 4).cumsum(-1)
    iou = ops.box_iou(a, b)
    assert iou.shape == (2, 3, 5, 7)
    torch.testing.assert_close(iou[1, 2], ops.box_iou(a[1, 2], b[1, 2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    # 300 × 300 = 90000 is beyond float16.
    side = torch.tensor([[0, 0, 300, 300]], dtype=dtype)
    assert ops.box_area(side).dtype == torch.float32
    assert ops.box_area(side).item() == 90000
    assert ops.box_iou(side, side).item() == 1


@given(boxes(dtype=torch.float64), st.sampled_from(FORMATS), st.sampled_from(FORMATS))
def test_convert_there_and_back(a, first, second):
    there = ops.box_convert(ops.box_convert(a, "xyxy", first), first, second)
    assert_close(ops.box_convert(there, second, "xyxy"), a)


def test_convert_by_hand_and_without_sharing_memory():
    box = torch.tensor([[1.0, 2, 5, 10]])
    assert ops.box_convert(box, "xyxy", "xywh").tolist() == [[1, 2, 4, 8]]
    assert ops.box_convert(box, "xyxy", "cxcywh").tolist() == [[3, 6, 4, 8]]
    same = ops.box_convert(box, "xyxy", "xyxy")
    same.zero_()
    assert box.tolist() == [[1, 2, 5, 10]]


@given(boxes(), st.integers(1, 50), st.integers(1, 50))
def test_clipped_boxes_lie_in_the_image(a, height, width):
    clipped = ops.clip_boxes_to_image(a.expand(2, *a.shape), (height, width))
    assert clipped.shape == (2, *a.shape)
    limits = torch.tensor([width, height, width, height])
    assert ((clipped >= 0) & (clipped <= limits)).all()
    inside = ((a >= 0) & (a <= limits)).all(1)
    assert torch.equal(clipped[0][inside], a[inside])


@given(boxes())
def test_each_image_of_a_batch_has_its_own_size(a):
    sizes = [(3, 8), (20, 5)]
    clipped = ops.clip_boxes_to_image(a.expand(2, *a.shape), sizes)
    assert torch.equal(clipped, torch.stack([ops.clip_boxes_to_image(a, size) for size in sizes]))
    assert ops.clip_boxes_to_image(torch.zeros(0, 5, 4), []).shape == (0, 5, 4)


@given(boxes(), st.sampled_from([0.0, 0.25, 5.0]))
def test_remove_small_boxes_keeps_those_of_the_smallest_size(a, smallest):
    kept = [i for i, (x1, y1, x2, y2) in enumerate(a) if x2 - x1 >= smallest and y2 - y1 >= smallest]
    assert ops.remove_small_boxes(a, smallest).tolist() == kept


@given(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16), st.booleans())
def test_masks_to_boxes_is_the_range_of_the_pixels(count, height, width, seed, as_bool):
    masks = torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) > 0.8
    found = ops.masks_to_boxes(masks if as_bool else masks.to(torch.uint8))
    assert found.shape == (count, 4)
    assert found.dtype == torch.float32
    for mask, box in zip(masks, found):
        y, x = mask.nonzero().unbind(1)
        expected = [x.min(), y.min(), x.max(), y.max()] if len(x) else [0, 0, 0, 0]
        assert box.tolist() == [float(v) for v in expected]


def test_masks_without_a_pixel_to_hold():
    assert ops.masks_to_boxes(torch.zeros(2, 0, 5, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.unhooked
def test_an_unknown_format_is_an_error():
    with pytest.raises(ValueError, match="'xyxy' to 'yxyx'"):
        ops.box_convert(torch.zeros(1, 4), "xyxy", "yxyx")
    with pytest.raises(ValueError, match="'corner' to 'xyxy'"):
        ops.box_area(torch.zeros(1, 4), fmt="corner")


@given(boxes(), boxes(), st.sampled_from(FORMATS))
def test_parity_with_torchvision(a, b, fmt):
    peer = torchvision().ops
    same = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(ops.box_iou(a, b), peer.box_iou(a, b), **same)
    torch.testing.assert_close(ops.box_area(a), peer.box_area(a), **same)
    for other in FORMATS:
        torch.testing.assert_close(ops.box_convert(a, fmt, other), peer.box_convert(a, fmt, other), **same)
    torch.testing.assert_close(
        ops.clip_boxes_to_image(a, (7, 9)), peer.clip_boxes_to_image(a, (7, 9)), **same
    )
    assert torch.equal(ops.remove_small_boxes(a, 0.25), peer.remove_small_boxes(a, 0.25))
    masks = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(len(a))) > 0.9
    # torchvision 0.24 raises for a mask without a pixel.
    masks = masks[masks.flatten(1).any(dim=1)]
    torch.testing.assert_close(ops.masks_to_boxes(masks), peer.masks_to_boxes(masks), **same)
