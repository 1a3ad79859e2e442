"""Mask targets: equal to RoIAlign of the bitmap, whatever the chunks and the dtype."""

from unittest.mock import patch

import pytest
import torch
from devices import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from parity import assert_close, torchvision
from strategies import boxes, integers
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import crop, reference


def bitmaps(count: int, height: int, width: int, seed: int) -> Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) > 0.5


@st.composite
def cases(draw):
    masks = bitmaps(
        draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(0, 99))
    )
    a = draw(boxes(max_count=5, dtype=torch.float64))
    a = a[((a[:, 2:] - a[:, :2]) < 30).all(1)]
    return masks, a, draw(integers(len(a), len(masks) - 1))


@given(
    cases(), st.integers(1, 3), st.sampled_from([1, 60, 2**22]), st.sampled_from([1, 200, 2**26]), st.booleans()
)
def test_a_crop_is_roi_align_of_the_bitmap(case, size, chunk, table, aligned):
    masks, a, index = case
    rois = torch.cat([index[:, None].double(), a], 1)
    expected = reference.roi_align(masks[:, None].double(), rois, (size, size), aligned=aligned)[:, 0]
    with patch.object(crop, "CHUNK", chunk), patch.object(crop, "TABLE", table):
        assert_close(ops.crop_masks(masks, a, index, size, aligned), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("box_dtype", [torch.float32, torch.float64])
def test_masks_of_any_dtype_give_the_boxes_dtype(dtype, box_dtype):
    masks = bitmaps(2, 30, 40, 0)
    a = torch.tensor([[3.2, 4.1, 33.7, 28.9], [-5, -5, 50, 40], [8, 8, 9, 9]], dtype=box_dtype)
    index = torch.tensor([1, 0, 1])
    rois = torch.cat([index[:, None].to(a), a], 1)
    out = ops.crop_masks(masks.to(dtype), a, index, 7)
    assert out.dtype == box_dtype
    assert_close(out, ops.roi_align(masks[:, None].to(a), rois, 7, 1.0, -1)[:, 0])


def test_masks_that_are_a_view_and_not_contiguous():
    masks = bitmaps(2, 20, 30, 0).mT[:, 3:]
    a, index = torch.tensor([[1.0, 2, 13, 17]]), torch.tensor([1])
    assert_close(ops.crop_masks(masks, a, index, 5), ops.crop_masks(masks.contiguous(), a, index, 5))


def test_a_crop_of_the_whole_mask_at_its_size_is_the_mask():
    masks = bitmaps(1, 9, 9, 0)
    # Cell centres are at integer coordinates with aligned=False: half a pixel to the left and up.
    out = ops.crop_masks(masks, torch.tensor([[-0.5, -0.5, 8.5, 8.5]]), torch.tensor([0]), 9)
    assert torch.equal(out, masks.float())


def test_autocast_does_not_round_the_targets():
    masks, a, index = bitmaps(2, 64, 64, 0), torch.tensor([[3.3, 2.1, 60.9, 55.5]]), torch.tensor([1])
    expected = ops.crop_masks(masks, a, index, 28)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.crop_masks(masks, a, index, 28), expected)


def test_nothing_to_crop():
    none = torch.zeros(0, dtype=torch.int64)
    for count in (0, 2):
        assert ops.crop_masks(bitmaps(count, 5, 6, 0), torch.zeros(0, 4), none, 28).shape == (0, 28, 28)


@pytest.mark.unhooked
def test_an_unknown_mask_is_an_error():
    for count, index in ((2, 2), (2, -1), (0, 0)):
        with pytest.raises(ValueError, match=f"index {index}: expected 0..{count - 1}"):
            ops.crop_masks(bitmaps(count, 5, 6, 0), torch.zeros(1, 4), torch.tensor([index]), 28)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="on the CPU such an index is an error")
@pytest.mark.parametrize("table", [1, 2**26])
def test_an_unknown_mask_is_nan_on_a_gpu(table):
    index = torch.tensor([2, 0, -1], device=DEVICE)
    with patch.object(crop, "TABLE", table):
        found = ops.crop_masks(bitmaps(2, 5, 6, 0).to(DEVICE), torch.ones(3, 4, device=DEVICE), index, 4)
    assert found.isnan().all((1, 2)).tolist() == [True, False, True]


@pytest.mark.parametrize("box_dtype", [torch.float32, torch.float64])
def test_parity_with_torchvision(box_dtype):
    peer = torchvision().ops
    random = torch.Generator().manual_seed(0)
    masks = bitmaps(3, 70, 90, 1)
    corner = torch.rand(60, 2, generator=random, dtype=torch.float64) * 80 - 10
    a = torch.cat(
        [corner, corner + 2 ** (7 * torch.rand(60, 2, generator=random, dtype=torch.float64))], 1
    ).to(box_dtype)
    index = torch.randint(0, 3, (60,), generator=random)
    rois = torch.cat([index[:, None].to(a), a], 1)
    expected = peer.roi_align(masks[:, None].to(a), rois, (28, 28), 1.0, -1, False)[:, 0]
    assert_close(ops.crop_masks(masks, a, index, 28), expected)
