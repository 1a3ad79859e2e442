"""RoIWarp: against its definition, and what tells it from RoIAlign and RoIPool."""

import pytest
import torch
from devices import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from parity import assert_close
from strategies import feature_maps, pooling_cases
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

ratios = st.sampled_from([1, 2, 3, -1])
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
scales = st.sampled_from([1.0, 0.5, 0.3])
modes = st.sampled_from(["avg", "max"])


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)


@given(pooling_cases(), sizes, scales, ratios, modes)
def test_roi_warp_is_its_definition(case, size, scale, ratio, mode):
    features, rois = case
    # The loops of the definition take a sample per cell: no box of 900 cells.
    rois = rois[((rois[:, 3:] - rois[:, 1:3]) < 30).all(1)]
    expected = reference.roi_warp(features, rois, size, scale, ratio, mode)
    found = ops.roi_warp(features.to(DEVICE), rois.to(DEVICE), size, scale, ratio, mode=mode)
    assert_close(found.cpu(), expected)


@given(pooling_cases(), sizes, ratios, modes, st.integers(0, 2**16))
def test_a_box_may_move_within_its_cells(case, size, ratio, mode, seed):
    features, rois = case
    rois[:, 1:] = rois[:, 1:].round()
    random = torch.Generator().manual_seed(seed)
    moved = rois.clone()
    moved[:, 1:] += 0.98 * (torch.rand(len(rois), 4, generator=random, dtype=torch.float64) - 0.5)
    expected = ops.roi_warp(features, rois, size, 1.0, ratio, mode=mode)
    assert torch.equal(ops.roi_warp(features, moved, size, 1.0, ratio, mode=mode), expected)


@given(feature_maps(), modes, st.sampled_from([1, -1]))
def test_bins_of_one_cell_are_these_cells(features, mode, ratio):
    height, width = features.shape[2:]
    whole = torch.tensor([[i, 0.3, -0.4, width - 0.9, height - 1.3] for i in range(len(features))]).double()
    assert_close(ops.roi_warp(features, whole, (height, width), 1.0, ratio, mode=mode), features)
    assert torch.equal(ops.roi_pool(features, whole, (height, width)), features)


@given(feature_maps(smallest=2), sizes, ratios, modes)
def test_whole_cells_are_what_an_aligned_roi_align_takes(features, size, ratio, mode):
    height, width = features.shape[2:]
    last = torch.tensor([[0, 0, 0, width - 1, height - 1]]).double()
    end = torch.tensor([[0, 0, 0, width, height]]).double()
    expected = ops.roi_align(features, end, size, 1.0, ratio, True, mode=mode)
    assert_close(ops.roi_warp(features, last, size, 1.0, ratio, mode=mode), expected)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [2, -1])
def test_derivatives_in_the_features_and_none_in_the_boxes(mode, ratio):
    features = seeded(2, 1, 4, 5).requires_grad_()
    rois = torch.tensor([[1.13, 0.87, 4.33, 2.61], [-0.67, 1.29, 2.71, 4.37]]).to(features).requires_grad_()

    def pool(x: Tensor, boxes: Tensor) -> Tensor:
        return ops.roi_warp(x, boxes.split(1), (1, 2), 1.0, ratio, mode=mode)

    # Away from halves the derivative in the boxes is zero indeed.
    assert torch.autograd.gradcheck(pool, (features, rois))
    assert torch.autograd.gradgradcheck(lambda x: pool(x, rois), features)
    assert torch.autograd.grad(pool(features, rois).sum(), rois, allow_unused=True) == (None,)
    assert not pool(features.detach(), rois).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded_once(dtype):
    features = seeded(1, 4, 12, 12, dtype=torch.float32).to(dtype)
    rois = torch.tensor([[0, 1.13, 0.87, 4.33, 2.61], [0, 3.2, 1.29, 9.71, 8.37]], device=DEVICE)
    out = ops.roi_warp(features, rois, 3, 1.0, 2)
    assert out.dtype == dtype
    assert torch.equal(out, ops.roi_warp(features.float(), rois, 3, 1.0, 2).to(dtype))


@pytest.mark.unhooked
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_compiles_into_one_graph(mode):
    features = seeded(2, 3, 9, 8, dtype=torch.float32).requires_grad_()
    rois = torch.tensor([[0.0, 1.1, 0.7, 4.3, 3.8], [1, -2, -1, 3.4, 2.2]], device=DEVICE)

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return ops.roi_warp(x, boxes, 3, 0.9, 2, mode=mode)

    out = torch.compile(call, fullgraph=True, backend="aot_eager")(features, rois)
    expected = call(features, rois)
    assert_close(out, expected)
    incoming = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(out, features, incoming)
    assert_close(grad, torch.autograd.grad(expected, features, incoming)[0])
