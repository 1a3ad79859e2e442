"""RoIPool: against its definition, torchvision, and what must hold of it; rounding, ties and all its derivatives."""

import math
from unittest.mock import patch

import pytest
import torch
from devices import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close, torchvision
from strategies import feature_maps, pooling_cases
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
scales = st.sampled_from([1.0, 0.5, 0.3])
dtypes = st.sampled_from([torch.float32, torch.float64])


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)


def with_ties(features: Tensor) -> Tensor:
    """Few distinct numbers, both zeros among them."""
    return features.round() * 1.0


@given(pooling_cases(), sizes, scales, dtypes)
def test_roi_pool_is_its_definition(case, size, scale, dtype):
    features, rois = (t.to(dtype) for t in case)
    expected = reference.roi_pool(features, rois, size, scale)
    assert torch.equal(
        ops.roi_pool(features.to(DEVICE), rois.to(DEVICE), size, scale).cpu().double(), expected
    )


@given(pooling_cases(largest=60), st.sampled_from([1, 3, 7, 14]), scales, dtypes, st.booleans())
def test_parity_with_torchvision(case, size, scale, dtype, ties):
    peer = torchvision().ops
    features, rois = (t.to(dtype) for t in case)
    features = with_ties(features) if ties else features
    ours, theirs = features.to(DEVICE).detach().requires_grad_(), features.clone().requires_grad_()
    out = ops.roi_pool(ours, rois.to(DEVICE), size, scale)
    expected = peer.roi_pool(theirs, rois, size, scale)
    assert torch.equal(out.cpu(), expected)
    incoming = seeded(*expected.shape).to(expected)
    out.backward(incoming.to(DEVICE))
    expected.backward(incoming)
    # Among equal cells, too, the gradient goes to the same one.
    assert_close(ours.grad.cpu(), theirs.grad)


@given(pooling_cases(), sizes, scales)
def test_a_result_is_an_element_of_the_map_or_zero(case, size, scale):
    features, rois = case
    out = ops.roi_pool(features, rois, size, scale)
    for r, image in enumerate(rois[:, 0].long().tolist()):
        for c in range(features.shape[1]):
            assert set(out[r, c].flatten().tolist()) <= {0.0, *features[image, c].flatten().tolist()}


@given(pooling_cases(), sizes, st.integers(0, 2**16))
def test_boxes_that_round_alike_are_pooled_alike(case, size, seed):
    features, rois = case
    rois[:, 1:] = rois[:, 1:].round()
    random = torch.Generator().manual_seed(seed)
    moved = rois.clone()
    moved[:, 1:] += 0.98 * (torch.rand(len(rois), 4, generator=random, dtype=torch.float64) - 0.5)
    assert torch.equal(ops.roi_pool(features, moved, size), ops.roi_pool(features, rois, size))


@given(feature_maps(), st.integers(0, 2**16))
def test_boxes_of_single_cells_give_the_map_back(features, seed):
    images, _, height, width = features.shape
    cell = torch.stack(torch.meshgrid(*map(torch.arange, (images, height, width)), indexing="ij"), -1)
    image, y, x = cell.flatten(0, 2).unbind(1)
    rois = torch.stack([image, x, y, x, y], 1).double()
    out = ops.roi_pool(features, rois, 1)
    assert torch.equal(out[:, :, 0, 0], features.permute(0, 2, 3, 1).flatten(0, 2))


@given(pooling_cases(), sizes, st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_numbers_are_selected_in_any_dtype_exactly(case, size, dtype):
    features, rois = case
    features = features.to(dtype)
    out = ops.roi_pool(features, rois.float(), size)
    assert out.dtype == dtype
    assert torch.equal(out.double(), ops.roi_pool(features.float(), rois.float(), size).double())


def test_coordinates_are_multiplied_in_their_own_precision():
    # 2.5 in exact arithmetic; float32's 1.25 · 2 is exact, 25 · 0.1 in float32 is 2.5 and in float64 2.5.
    for x, scale in ((4.5, 0.1), (1.5, 0.3), (5.0, 0.7), (15.0, 0.1), (35.0, 0.1)):
        for dtype in (torch.float32, torch.float64):
            features = torch.arange(12.0, dtype=dtype)[None, None, None].expand(1, 1, 2, 12)
            rois = torch.tensor([[0, x, 0, x, 0]], dtype=dtype)
            expected = torchvision().ops.roi_pool(features, rois, 1, scale)
            assert torch.equal(ops.roi_pool(features, rois, 1, scale), expected)


@pytest.mark.parametrize("bins", [1, 3, 5, 7, 14])
def test_the_borders_of_bins_are_torchvisions_for_every_length(bins):
    # A float32 quotient decides whether a bin that should end on a border takes one cell more: 400 lengths.
    features = torch.stack([torch.arange(401.0), -torch.arange(401.0)])[None, :, None]
    length = torch.arange(400.0)
    zero = torch.zeros_like(length)
    rois = torch.stack([zero, zero, zero, length, zero], 1)
    expected = torchvision().ops.roi_pool(features, rois, (1, bins))
    assert torch.equal(ops.roi_pool(features, rois, (1, bins)), expected)


def test_of_equally_large_cells_the_first_takes_the_gradient():
    for dtype in (torch.float32, torch.float64):
        features = torch.tensor([[0.0, -0.0, 3], [3, 1, 3], [-0.0, 0, 0]], dtype=dtype, device=DEVICE)
        features = features[None, None].requires_grad_()
        rois = torch.tensor([[0, 0, 0, 2, 2], [0, 0, 0, 1, 0], [0, 1, 2, 2, 2]], dtype=dtype, device=DEVICE)
        out = ops.roi_pool(features, rois, 1)
        assert out.flatten().tolist() == [3, 0, 0]
        (grad,) = torch.autograd.grad(out.sum(), features)
        assert grad[0, 0].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_is_passed_over_and_infinity_is_a_number(dtype):
    nan, inf = math.nan, math.inf
    expected = torch.tensor([2, 2, -inf, -inf, inf, inf, inf, 3e38], dtype=dtype, device=DEVICE)
    features = torch.tensor([[nan, 2, nan, nan, -inf, inf, nan, inf, 3e38]], dtype=dtype, device=DEVICE)
    features = features[None, None].requires_grad_()
    spans = [(0, 1), (1, 2), (2, 3), (4, 4), (5, 6), (7, 8), (4, 8), (8, 8)]
    rois = torch.tensor([[0, a, 0, b, 0] for a, b in spans], dtype=dtype, device=DEVICE)
    out = ops.roi_pool(features, rois, 1)
    assert torch.equal(out.flatten(), expected)
    (grad,) = torch.autograd.grad(out[[0, 1, 4, 5, 6, 7]].sum(), features)
    assert grad.flatten().tolist() == [0, 2, 0, 0, 0, 2, 0, 1, 1]
    with torch.no_grad():
        assert torch.equal(ops.roi_pool(features, rois, 1), out)


def test_numbers_at_the_ends_of_float32_are_in_order():
    tiny, most = 2.0**-149, torch.finfo(torch.float32).max
    values = [-math.inf, -most, -1.0, -tiny, 0.0, tiny, 2 * tiny, 1.0, 1.0 + 2**-23, most, math.inf]
    line = torch.tensor(values, device=DEVICE)[None, None, None].requires_grad_()
    rois = torch.tensor([[0.0, i, 0, i + 1, 0] for i in range(10)], device=DEVICE)
    for features, winners in ((line, range(1, 11)), (line.flip(3), range(10))):
        out = ops.roi_pool(features, rois, 1)
        (grad,) = torch.autograd.grad(out.sum(), line)
        assert grad.flatten().nonzero().flatten().tolist() == list(winners) if features is line else True
        larger = torch.maximum(features.flatten()[1:], features.flatten()[:-1])
        assert torch.equal(out.flatten(), larger)


def test_huge_and_inverted_boxes_do_not_overflow():
    features = seeded(1, 1, 4, 4, dtype=torch.float32)
    rows = [[0, -1e30, -1e30, 1e30, 1e30], [0, 1e30, 0, 1e30, 1], [0, 3e9, 3e9, -3e9, -3e9], [0, 3, 3, 0, 0]]
    out = ops.roi_pool(features, torch.tensor(rows, device=DEVICE), 1)[:, 0, 0, 0]
    # The whole map; nothing; nothing; an inverted box is its first corner's cell.
    assert out.tolist() == [features.max().item(), 0, 0, features[0, 0, 3, 3].item()]


def test_first_and_second_derivatives():
    features = seeded(2, 2, 5, 6).requires_grad_()
    rois = torch.tensor([[0, 1.1, 0.7, 4.3, 3.8], [1, -2, -1, 3.4, 2.2], [1, 9, 9, 12, 12]]).to(features)

    def pool(x: Tensor) -> Tensor:
        return ops.roi_pool(x, rois, (2, 3))

    assert torch.autograd.gradcheck(pool, features)
    assert torch.autograd.gradgradcheck(pool, features)
    # Of a function that is not linear, too, and to the third order.
    assert torch.autograd.gradgradcheck(lambda x: pool(x).exp().sin(), features)


def test_there_is_no_gradient_in_the_boxes():
    rois = torch.tensor([[0, 1.1, 0.7, 4.3, 3.8]], dtype=torch.float64, device=DEVICE).requires_grad_()
    features = seeded(1, 2, 5, 6)
    assert not ops.roi_pool(features, rois, 2).requires_grad
    out = ops.roi_pool(features.requires_grad_(), rois, 2)
    assert torch.autograd.grad(out.sum(), rois, allow_unused=True) == (None,)


@pytest.fixture
def deterministic():
    """Memory that is not initialised holds NaN, and an operation without a fixed order is an error."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_value_is_left_unwritten_and_gradients_repeat(deterministic, dtype):
    features = seeded(2, 3, 9, 8, dtype=dtype).requires_grad_()
    corner = 6 * torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    rois = torch.cat([torch.arange(30)[:, None] % 2, corner, corner + 4], 1).to(features)
    grads = []
    for _ in range(2):
        out = ops.roi_pool(features, rois, 3)
        (grad,) = torch.autograd.grad(out.square().sum(), features, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), features)
        grads.append((out, grad, second))
    assert not any(t.isnan().any() for t in grads[0])
    assert all(torch.equal(first, again) for first, again in zip(*grads))


@pytest.mark.unhooked
@pytest.mark.parametrize("dynamic", [False, None])
def test_compiles_into_one_graph(dynamic):
    features = seeded(2, 3, 9, 8, dtype=torch.float32).requires_grad_()
    rois = torch.tensor([[0.0, 1.1, 0.7, 4.3, 3.8], [7, 0, 0, 3, 3], [1, -2, -1, 3.4, 2.2]], device=DEVICE)

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return ops.roi_pool(x, boxes, 3, 0.9)

    out = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)(features, rois)
    with patch("torch.compiler.is_compiling", lambda: True):
        expected = call(features, rois)
    assert expected[1].isnan().all()
    assert_close(out, expected)
    incoming = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(out, features, incoming)
    assert_close(grad, torch.autograd.grad(expected, features, incoming)[0])


@pytest.mark.slow
def test_parity_with_torchvision_at_length():
    settings(max_examples=3000)(test_parity_with_torchvision)()
