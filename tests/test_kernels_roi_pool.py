"""RoIPool's Triton kernels: against the definition, torchvision, and what must hold of them."""

from unittest.mock import patch

import pytest
import torch
from devices import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import need_kernels
from parity import assert_close, torchvision
from strategies import boxes, feature_maps, integers
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

need_kernels()

few = settings(max_examples=30)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
scales = st.sampled_from([1.0, 0.5, 0.3])


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_images(a: Tensor, image_index: Tensor) -> Tensor:
    return torch.cat([image_index[:, None].to(a.dtype), a], 1)


@st.composite
def cases(draw):
    """A float32 feature map, some with many equal values, and boxes [R, 5] on its images."""
    features = draw(feature_maps(dtype=torch.float32))
    if draw(st.booleans()):
        features = features.round()
    a = draw(boxes(max_count=5))
    return features.to(DEVICE), with_images(a, draw(integers(len(a), len(features) - 1))).to(DEVICE)


@few
@given(cases(), sizes, scales)
def test_forward_is_the_definition(case, size, scale):
    features, rois = case
    out = ops.roi_pool(features, rois, size, scale, backend="triton")
    assert torch.equal(out.cpu().double(), reference.roi_pool(features, rois, size, scale))


@few
@given(cases(), sizes, scales, st.booleans())
def test_gradients_are_the_torch_paths(case, size, scale, deterministic):
    features, rois = case
    features.requires_grad_()
    out = ops.roi_pool(features, rois, size, scale, backend="triton")
    incoming = seeded(*out.shape).to(DEVICE)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.autograd.grad(out, features, incoming)
    torch.use_deterministic_algorithms(False)
    by_torch = ops.roi_pool(features, rois, size, scale, backend="torch")
    # Ties included: the first of equal values, in reading order, gets all.
    assert_close(grad, torch.autograd.grad(by_torch, features, incoming)[0])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_blocks_of_channels_and_dtypes(dtype, deterministic):
    features = seeded(1, 130, 5, 11).to(DEVICE, dtype).requires_grad_()
    a = torch.tensor([[0, 1.0, 1, 9, 4], [0, -3.0, 2, 4, 9]], device=DEVICE)
    out = ops.roi_pool(features, a, 2, backend="triton")
    expected = ops.roi_pool(features.float(), a, 2, backend="torch")
    assert torch.equal(out.float(), expected)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.autograd.grad(out, features, torch.ones_like(out))
    torch.use_deterministic_algorithms(False)
    (other,) = torch.autograd.grad(expected, features, torch.ones_like(expected))
    assert grad.dtype == dtype
    assert torch.equal(grad, other)


def test_every_value_is_written():
    features = seeded(2, 3, 6, 9).to(DEVICE).requires_grad_()
    a = torch.tensor([[0, 1.0, 1, 4, 4], [1, 30.0, 2, 40, 9], [1, 2, 2, 3, 5]], device=DEVICE)
    torch.use_deterministic_algorithms(True)
    out = ops.roi_pool(features, a, 3, backend="triton")
    (grad,) = torch.autograd.grad(out.sum(), features)
    torch.use_deterministic_algorithms(False)
    assert not out.isnan().any() and not grad.isnan().any()
    assert grad.sum().item() == pytest.approx((out != 0).sum().item())


def test_more_boxes_than_a_program_looks_at_at_once():
    from minimaskrcnn_kernels import roi_pool

    features = seeded(2, 2, 5, 9).to(DEVICE).requires_grad_()
    corner = 6 * torch.rand(11, 2, generator=torch.Generator().manual_seed(0))
    a = with_images(torch.cat([corner, corner + 4], 1), torch.arange(11) * 7 % 2).to(DEVICE)
    torch.use_deterministic_algorithms(True)
    with patch.object(roi_pool, "BLOCK_R", 4):
        out = ops.roi_pool(features, a, 2, backend="triton")
        (grad,) = torch.autograd.grad(out.sum(), features)
    torch.use_deterministic_algorithms(False)
    by_torch = ops.roi_pool(features, a, 2, backend="torch")
    assert_close(grad, torch.autograd.grad(by_torch.sum(), features)[0])


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_unknown_image_or_a_box_that_is_not_finite_gives_nan_and_no_gradient(deterministic):
    features = seeded(2, 3, 6, 6).to(DEVICE).requires_grad_()
    a = torch.tensor([[1.0, 1, 4, 4]] * 6, device=DEVICE)
    a[4, 2], a[5, 1] = float("nan"), float("inf")
    rois = with_images(a, torch.tensor([0, 2, 1, -1, 1, 0], device=DEVICE))
    with patch("torch.compiler.is_compiling", lambda: True):
        out = ops.roi_pool(features, rois, 2, backend="triton")
    good = ops.roi_pool(features, rois[[0, 2]], 2, backend="triton")
    assert out[[1, 3, 4, 5]].isnan().all()
    assert torch.equal(out[[0, 2]], good)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.autograd.grad(out, features, torch.ones_like(out))
    (expected,) = torch.autograd.grad(good, features, torch.ones_like(good))
    torch.use_deterministic_algorithms(False)
    assert torch.equal(grad, expected)


def test_coordinates_beyond_any_integer():
    features = seeded(1, 2, 5, 5).to(DEVICE).requires_grad_()
    a = torch.tensor([[-1e30, -1e30, 1e30, 1e30], [1e20, 0, 1e21, 4]], device=DEVICE)
    out = ops.roi_pool(features, [a], 1, backend="triton")
    assert_close(out[0, :, 0, 0], features[0].amax((1, 2)))
    assert (out[1] == 0).all()
    assert torch.autograd.grad(out.sum(), features)[0].sum().item() == 2


def test_no_boxes_no_channels_and_no_cells():
    features = seeded(2, 3, 5, 4).to(DEVICE).requires_grad_()
    out = ops.roi_pool(features, torch.zeros(0, 5, device=DEVICE), (2, 3), backend="triton")
    assert out.shape == (0, 3, 2, 3)
    assert (torch.autograd.grad(out.sum(), features)[0] == 0).all()
    box = torch.tensor([[0.0, 0, 0, 2, 2]], device=DEVICE)
    assert ops.roi_pool(seeded(2, 0, 5, 4).to(DEVICE), box, 2, backend="triton").shape == (1, 0, 2, 2)
    assert (ops.roi_pool(torch.zeros(1, 2, 0, 4, device=DEVICE), box, 2, backend="triton") == 0).all()


def test_the_second_derivative_is_the_torch_paths():
    features = seeded(1, 2, 5, 6).to(DEVICE).requires_grad_()
    a = torch.tensor([[0, 1.0, 1, 4, 4], [0, 2, 0, 5, 3]], device=DEVICE)
    results = []
    for backend in ("triton", "torch"):
        out = ops.roi_pool(features, a, 2, backend=backend)
        incoming = seeded(*out.shape).to(DEVICE).requires_grad_()
        (first,) = torch.autograd.grad(out, features, incoming, create_graph=True)
        results.append(
            torch.autograd.grad((first * seeded(1, 2, 5, 6, seed=1).to(DEVICE)).sum(), incoming)[0]
        )
    assert_close(*results)


@pytest.mark.unhooked
def test_registration():
    from minimaskrcnn_kernels.roi_pool import roi_pool, roi_pool_backward

    features = seeded(2, 3, 6, 5).to(DEVICE).requires_grad_()
    a, image = (
        torch.tensor([[1.0, 1, 4, 4], [0, 2, 9, 3]], device=DEVICE),
        torch.tensor([0, 1], device=DEVICE),
    )
    torch.library.opcheck(roi_pool, (features, a, image, 0.5, 2, 1))
    out, winner = roi_pool(features, a, image, 0.5, 2, 1)
    torch.library.opcheck(roi_pool_backward, (torch.ones_like(out), winner, features.detach(), a, image, 0.5))


@pytest.mark.unhooked
def test_compiles_into_one_graph():
    features = seeded(2, 3, 6, 5).to(DEVICE).requires_grad_()
    a = torch.tensor([[0, 1.0, 1, 4, 4], [1, 0, 2, 9, 3]], device=DEVICE)

    def pool(x: Tensor) -> Tensor:
        return ops.roi_pool(x.relu(), a, 2, 0.5, backend="triton").square().sum()

    (expected,) = torch.autograd.grad(pool(features), features)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert_close(torch.autograd.grad(compiled(features), features)[0], expected)


@pytest.mark.slow
@settings(max_examples=3000)
@given(cases(), sizes, scales, st.booleans())
def test_a_sweep_against_torchvision(case, size, scale, deterministic):
    features, rois = case
    features.requires_grad_()
    out = ops.roi_pool(features, rois, size, scale, backend="triton")
    theirs = torchvision().ops.roi_pool(features, rois, size, scale)
    assert torch.equal(out, theirs)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.autograd.grad(out, features, torch.ones_like(out))
    torch.use_deterministic_algorithms(False)
    assert_close(grad, torch.autograd.grad(theirs, features, torch.ones_like(theirs))[0])


def test_each_box_is_pooled_from_its_own_level():
    features = [seeded(2, 3, 40 // stride, 48 // stride).to(DEVICE).requires_grad_() for stride in (4, 8)]
    a = torch.tensor([[1.0, 2, 20, 30], [3.5, 1.25, 44, 39], [10, 10, 14, 15]], device=DEVICE)
    index = torch.tensor([1, 0, 1], device=DEVICE)
    out, expected = (
        ops.multiscale_roi_pool(
            features, a, index, 3, (4, 8), canonical_size=30, canonical_level=3, backend=backend
        )
        for backend in ("triton", "torch")
    )
    assert torch.equal(out, expected)
    incoming = seeded(*out.shape).to(DEVICE)
    for grad, other in zip(
        torch.autograd.grad(out, features, incoming), torch.autograd.grad(expected, features, incoming)
    ):
        assert_close(grad, other)
