"""Pasting: pixel by pixel as defined, run lengths that decode to the same, and torchvision's values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import assert_close, torchvision
from pycocotools import mask as coco_mask
from strategies import boxes
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

# pycocotools 2.0.11's own call of NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

image_sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def probs(count: int, m: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, m, m, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def decoded(rle: dict) -> Tensor:
    return torch.from_numpy(coco_mask.decode(rle)).bool()


@given(boxes(max_count=4, dtype=torch.float64), st.integers(1, 5), image_sizes, st.integers(0, 99))
def test_pasted_masks_are_their_definition(a, m, image_size, seed):
    masks = probs(len(a), m, seed)
    values = ops.paste_masks(masks, a, image_size, threshold=None)
    found = ops.paste_masks(masks, a, image_size)
    assert values.shape == found.shape == (len(a), *image_size)
    assert (values.dtype, found.dtype) == (torch.float64, torch.bool)
    for i in range(len(a)):
        expected, expected_values = reference.paste_mask(masks[i], a[i], image_size)
        assert_close(values[i], expected_values)
        clear = (expected_values - 0.5).abs() > 1e-9
        assert torch.equal(found[i][clear], expected[clear])


@given(
    boxes(max_count=4, dtype=torch.float32),
    st.integers(1, 5),
    image_sizes,
    st.integers(0, 99),
    st.sampled_from([0.5, 0.2, 0.0, -1.0]),
)
def test_run_lengths_decode_to_the_pasted_masks(a, m, image_size, seed, threshold):
    masks = probs(len(a), m, seed, torch.float32)
    found = ops.paste_masks_rle(masks, a, image_size, threshold)
    assert len(found) == len(a)
    # Outside of its box a mask is background, whatever the threshold.
    for rle, expected in zip(found, ops.paste_masks(masks, a, image_size, threshold)):
        assert torch.equal(decoded(rle), expected)
        # The same text as of a full bitmap: no empty runs.
        whole = coco_mask.encode(np.asfortranarray(expected.byte().numpy()))
        assert rle == {"size": list(image_size), "counts": whole["counts"].decode("ascii")}


@pytest.mark.parametrize("threshold", [0.5, None])
def test_the_background_is_0_where_no_box_is(threshold):
    # A second call may get the memory of the first.
    for _ in range(2):
        a = torch.tensor([[2.0, 3, 5, 6], [-90, -90, -80, -80], [90, 3, 95, 5]])
        out = ops.paste_masks(torch.ones(3, 4, 4), a, (40, 30), threshold)
        assert out[0, 3:6, 2:5].all()
        # Half a padded sample of (5 - 2) / 4 pixels, and the pixel added, beyond the box.
        assert (
            not out[0, :1].any()
            and not out[0, 9:].any()
            and not out[0, :, :1].any()
            and not out[0, :, 8:].any()
        )
        assert not out[1:].any()
        out.fill_(1)


def test_equal_to_the_threshold_is_background():
    a = torch.tensor([[0.0, 0, 8, 8]])
    half = torch.full((1, 2, 2), 0.5)
    assert not ops.paste_masks(half, a, (9, 9), 0.5).any()
    assert ops.paste_masks(half, a, (9, 9), 0.49).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_masks_keep_their_dtype_and_need_no_gradient(dtype):
    masks = probs(1, 3).to(dtype).requires_grad_()
    out = ops.paste_masks(masks, torch.tensor([[1.0, 1, 7, 8]]).requires_grad_(), (9, 9), None)
    assert out.dtype == dtype and not out.requires_grad
    _, expected = reference.paste_mask(masks[0].detach().double(), torch.tensor([1.0, 1, 7, 8]), (9, 9))
    assert_close(out[0], expected)


def test_autocast_does_not_round_the_masks():
    masks, a = probs(3, 7, dtype=torch.float32), torch.tensor([[1.3, 2.2, 30.7, 25.1]]).expand(3, 4)
    expected = ops.paste_masks(masks, a, (32, 32), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.paste_masks(masks, a, (32, 32), None), expected)


def test_no_masks():
    assert ops.paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
    assert ops.paste_masks_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)) == []


@pytest.mark.unhooked
def test_errors_show_the_shapes():
    for masks, a in ((torch.zeros(2, 3, 4), torch.zeros(2, 4)), (torch.zeros(2, 3, 3), torch.zeros(1, 4))):
        with pytest.raises(ValueError, match=rf"masks \(2, 3, .\), boxes \({len(a)}, 4\): expected"):
            ops.paste_masks(masks, a, (5, 6))
        with pytest.raises(ValueError, match=rf"masks \(2, 3, .\), boxes \({len(a)}, 4\): expected"):
            ops.paste_masks_rle(masks, a, (5, 6))


@pytest.mark.unhooked
@pytest.mark.parametrize("paste", [ops.paste_masks, ops.paste_masks_rle])
def test_errors_show_dtypes_devices_and_sizes(paste):
    masks, a = torch.zeros(2, 3, 3), torch.zeros(2, 4)
    with pytest.raises(TypeError, match=r"masks torch.bool, boxes torch.float32: expected floating point"):
        paste(masks.bool(), a, (5, 6))
    with pytest.raises(TypeError, match=r"masks torch.float32, boxes torch.int64: expected floating point"):
        paste(masks, a.long(), (5, 6))
    with pytest.raises(ValueError, match="masks on cpu, boxes on meta: expected one device"):
        paste(masks, a.to("meta"), (5, 6))
    for size in ((-1, 6), (5, -6)):
        with pytest.raises(ValueError, match=r"image_size \(-?\d, -?\d\): expected"):
            paste(masks, a, size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parity_with_torchvision(dtype):
    peer = torchvision().models.detection.roi_heads.paste_masks_in_image
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(80, 28, 28, generator=random, dtype=torch.float64).to(dtype)
    # Each box has a pixel in the picture: torchvision raises where one has none.
    corner = torch.rand(80, 2, generator=random, dtype=torch.float64) * 90
    side = 2 ** (8 * torch.rand(80, 2, generator=random, dtype=torch.float64)) - 1
    a = torch.cat([corner - 0.3 * side, corner + side], 1).to(dtype)
    expected = peer(masks[:, None], a, (90, 110))[:, 0]
    assert_close(ops.paste_masks(masks, a, (90, 110), threshold=None), expected)
    clear = (expected - 0.5).abs() > 1e-5
    assert clear.float().mean() > 0.999
    assert torch.equal(ops.paste_masks(masks, a, (90, 110))[clear], (expected > 0.5)[clear])


@given(
    boxes(max_count=4, dtype=torch.float64), st.integers(1, 5), image_sizes, st.integers(0, 99), st.booleans()
)
def test_exact_pasting_is_grid_sample_at_pixel_centres(a, m, image_size, seed, rle):
    """detectron2's rule, by torch's own sampler."""
    a = a[((a[:, 2:] - a[:, :2]) > 1e-3).all(1) & (a.abs() < 1e4).all(1)]
    masks, (height, width) = probs(len(a), m, seed), image_size
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - a[:, :1]) / (a[:, 2:3] - a[:, :1]) * 2 - 1
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - a[:, 1:2]) / (a[:, 3:4] - a[:, 1:2]) * 2 - 1
    shape = (len(a), height, width)
    grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], dim=3)
    expected = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    values = ops.paste_masks(masks, a, image_size, threshold=None, exact=True)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-7)
    if rle:
        found = ops.paste_masks_rle(masks, a, image_size, exact=True)
        clear = (expected - 0.5).abs() > 1e-6
        for code, mask, sure in zip(found, expected > 0.5, clear):
            assert torch.equal(decoded(code)[sure], mask[sure])


def test_exact_pasting_keeps_fractions_and_passes_absurd_boxes_over():
    mask = torch.ones(1, 2, 2)
    # Less than half of the first and of the last column lie in the box; a pixel's centre decides.
    a = torch.tensor([[1.6, 0.0, 3.4, 4.0]])
    cut, exact = (ops.paste_masks(mask, a, (4, 6), 0.5, exact=exact)[0, 2] for exact in (False, True))
    assert exact.tolist() == [False, False, True, False, False, False]
    assert cut.tolist() == [False, True, True, True, False, False]
    for absurd in ([float("nan"), 0.0, 1, 1], [3.0, 0, 2, 4], [0.0, 0, 2.0**31, 4], [50.0, 50, 60, 60]):
        assert not ops.paste_masks(mask, torch.tensor([absurd]), (4, 6), exact=True).any()
    with pytest.raises(ValueError, match="the kernel has no exact rule"):
        ops.paste_masks(mask, a, (4, 6), exact=True, backend="triton")
