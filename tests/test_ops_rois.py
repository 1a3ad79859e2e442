"""What holds of the pooling operations alike: what cannot be pooled, empty inputs, errors."""

import math
from unittest.mock import patch

import pytest
import torch
from devices import DEVICE
from parity import assert_close
from torch import Tensor

from minimaskrcnn import ops

POOLINGS = {
    "roi_align avg": lambda x, rois, **kw: ops.roi_align(x, rois, 2, 1.0, 2, **kw),
    "roi_align avg adaptive": lambda x, rois, **kw: ops.roi_align(x, rois, 2, **kw),
    "roi_align max": lambda x, rois, **kw: ops.roi_align(x, rois, 2, 1.0, 2, mode="max", **kw),
    "roi_align max adaptive": lambda x, rois, **kw: ops.roi_align(x, rois, 2, mode="max", **kw),
    "roi_pool": lambda x, rois, **kw: ops.roi_pool(x, rois, 2, **kw),
    "roi_warp": lambda x, rois, **kw: ops.roi_warp(x, rois, 2, 1.0, 2, **kw),
    "roi_warp max adaptive": lambda x, rois, **kw: ops.roi_warp(x, rois, 2, mode="max", **kw),
}
poolings = pytest.mark.parametrize("pool", POOLINGS.values(), ids=POOLINGS.keys())


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)


def rois(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device=DEVICE)


@poolings
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("corner", [1, 2, 3, 4])
def test_a_box_that_is_not_finite_is_nan_and_has_no_gradient(pool, bad, corner):
    features = seeded(1, 2, 8, 8).requires_grad_()
    good = rois((0, 1.1, 2.2, 5.3, 6.4))
    spoiled = torch.cat([good, good, good])
    spoiled[1, corner] = bad
    # Finite corners, and a side that is not.
    spoiled[2, 1:] = torch.tensor([-1.5e308, 0, 1.5e308, 4])
    out = pool(features, spoiled.requires_grad_())
    assert out[1:].isnan().all()
    assert_close(out[:1], pool(features, good))
    (grad,) = torch.autograd.grad(out[1:].sum(), features, retain_graph=True)
    assert (grad == 0).all()
    (of_boxes,) = torch.autograd.grad(out.sum(), spoiled, allow_unused=True)
    assert of_boxes is None or (of_boxes[0].isfinite().all() and (of_boxes[1:] == 0).all())


@poolings
def test_an_unknown_image_where_no_one_may_look(pool):
    features = seeded(2, 3, 8, 8).requires_grad_()
    a = rois(*[(image, 1.1 + i, 2.2, 5.3, 6.4 + i) for i, image in enumerate((0, 2, 1, -1, math.nan))])
    good = [0, 2]
    with patch("torch.compiler.is_compiling", lambda: True):
        out = pool(features, a.requires_grad_())
    assert out[[1, 3, 4]].isnan().all()
    expected = pool(features, a[good])
    assert torch.equal(out[good], expected)
    (grad,) = torch.autograd.grad(out, features, torch.ones_like(out), retain_graph=True)
    assert torch.equal(grad, torch.autograd.grad(expected.sum(), features)[0])
    (of_boxes,) = torch.autograd.grad(out.sum(), a, allow_unused=True)
    assert of_boxes is None or (of_boxes[[1, 3, 4]] == 0).all()


@poolings
@pytest.mark.parametrize("shape", [(2, 3, 0, 5), (2, 3, 4, 0), (2, 3, 0, 0), (2, 0, 4, 5)])
def test_a_map_without_cells_gives_zeros(pool, shape):
    features = torch.zeros(shape, device=DEVICE, requires_grad=True)
    out = pool(features, rois((1, -0.5, -0.5, 2, 2), (0, 0, 0, 0, 0)).float())
    assert out.shape == (2, shape[1], 2, 2) and (out == 0).all()
    (grad,) = torch.autograd.grad(out.sum(), features)
    assert grad.shape == shape


@poolings
def test_no_images(pool):
    assert pool(torch.zeros(0, 3, 4, 5, device=DEVICE), rois().view(0, 5).float()).shape == (0, 3, 2, 2)
    assert pool(torch.zeros(0, 3, 4, 5, device=DEVICE), []).shape == (0, 3, 2, 2)
    with patch("torch.compiler.is_compiling", lambda: True):
        out = pool(torch.zeros(0, 3, 4, 5, device=DEVICE), rois((0, 1, 1, 2, 2)).float())
    assert out.isnan().all()


def test_a_level_without_cells_gives_zeros():
    maps = [seeded(1, 2, 8, 8), torch.zeros(1, 2, 0, 4, dtype=torch.float64, device=DEVICE)]
    a, image = rois((1, 1, 5, 5), (1, 1, 300, 300)), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    out = ops.multiscale_roi_align(
        maps, a, image, 2, [4, 8], sampling_ratio=2, aligned=False, canonical_level=3
    )
    assert (out[0] != 0).any() and (out[1] == 0).all()


@poolings
def test_expanded_and_strided_boxes_and_features(pool):
    features = seeded(1, 1, 6, 7).expand(2, 3, 6, 7)
    a = rois((0, 1.1, 2.2, 5.3, 6.4)).expand(3, 5)
    assert_close(pool(features, a), pool(features.contiguous(), a.contiguous()))
    wide = torch.zeros(4, 10, dtype=torch.float64, device=DEVICE)
    wide[:, ::2] = rois((0, 1.1, 2.2, 5.3, 6.4), (1, 0, 0, 3, 3), (0, 2, 2, 2, 2), (1, 3, 1, 7, 6))
    assert_close(pool(features, wide[:, ::2]), pool(features, wide[:, ::2].contiguous()))


@pytest.mark.unhooked
@poolings
def test_errors_say_what_was_expected(pool):
    features, a = torch.zeros(2, 3, 8, 8, device=DEVICE), rois((0, 0, 0, 4, 4)).float()
    for image in (-1, 2):
        with pytest.raises(ValueError, match=f"index {image}: expected 0..1"):
            pool(features, rois((image, 0, 0, 4, 4)).float(), validate=True)
    with pytest.raises(ValueError, match=r"boxes \(1, 4\): expected \[R, 5\]"):
        pool(features, a[:, 1:])
    with pytest.raises(ValueError, match="expected at most 2, the number of images"):
        pool(features, [a[:, 1:]] * 3)
    with pytest.raises(ValueError, match=r"each \[L, 4\]"):
        pool(features, [a])
    with pytest.raises(ValueError, match=r"features \[\(3, 8, 8\)\]: expected \[B, C, H, W\]"):
        pool(features[0], a)
    with pytest.raises(TypeError, match=r"features torch.int64, boxes torch.float32: expected floating"):
        pool(features.long(), a)
    with pytest.raises(TypeError, match=r"features torch.float32, boxes torch.int64: expected floating"):
        pool(features, a.long())
    with pytest.raises(ValueError, match="boxes on meta"):
        pool(features, a.to("meta"))


@pytest.mark.unhooked
@pytest.mark.parametrize("op", [ops.roi_align, ops.roi_pool, ops.roi_warp])
def test_errors_of_the_numbers(op):
    features, a = torch.zeros(2, 3, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]])
    for size in (0, -1, (0, 2), (2, 0)):
        with pytest.raises(ValueError, match="output_size"):
            op(features, a, size)
    for size in (2.0, (2, 2.5), (2, 2, 2), "77"):
        with pytest.raises(TypeError, match=r"output_size .*: expected an integer or two"):
            op(features, a, size)
    for scale in (math.nan, math.inf):
        with pytest.raises(ValueError, match="expected finite"):
            op(features, a, 2, scale)


@pytest.mark.unhooked
def test_a_mode_that_is_neither():
    features, a = torch.zeros(2, 3, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]])
    with pytest.raises(ValueError, match="mode 'mean': expected 'avg' or 'max'"):
        ops.roi_align(features, a, 2, mode="mean")
    with pytest.raises(ValueError, match="mode 'median': expected 'avg' or 'max'"):
        ops.roi_warp(features, a, 2, mode="median")


@pytest.mark.unhooked
def test_errors_of_many_levels():
    features, a = torch.zeros(2, 3, 8, 8), torch.tensor([[0.0, 0, 4, 4]])
    image = torch.tensor([0])

    def pool(maps=(features, features), a=a, image=image, strides=(4, 8)):
        return ops.multiscale_roi_align(maps, a, image, 2, strides, sampling_ratio=2, aligned=False)

    assert pool().shape == (1, 3, 2, 2)
    wrong = [
        ({"strides": [4, 16]}, r"strides \[4, 16\]: expected each to be twice"),
        ({"strides": [0, 0]}, r"strides \[0, 0\]: expected each to be twice"),
        ({"strides": [math.nan, math.nan]}, "expected each to be twice"),
        ({"strides": [4]}, r"2 maps, scales \[0.25\]: expected a stride for each map"),
        ({"maps": [], "strides": []}, "0 maps"),
        ({"image": torch.tensor([0, 0])}, r"image_index \(2,\)"),
        ({"a": a[0]}, r"boxes \(4,\)"),
        ({"image": torch.tensor([2])}, "index 2: expected 0..1"),
        ({"maps": [features, features[:, :2]]}, "the same B and C"),
        ({"maps": [features, features[:1]]}, "the same B and C"),
        ({"maps": [features, features.double()]}, "expected one dtype"),
        ({"maps": [features, features.to("meta")]}, "one device"),
    ]
    for change, message in wrong:
        with pytest.raises(ValueError, match=message):
            pool(**change)
    with pytest.raises(TypeError, match=r"image_index torch.float32: expected int64"):
        pool(image=image.float())
