"""RoIAlign's and RoIWarp's Triton kernels: against the definition, the torch path, and what must hold of them."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from devices import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import need_kernels
from parity import assert_close, torchvision
from strategies import boxes, feature_maps, integers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

need_kernels()

# A program of the interpreter takes some milliseconds.
few = settings(max_examples=15)
ratios, modes = st.sampled_from([1, 2, 0]), st.sampled_from(["avg", "max"])
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
STRIDES = [4, 8, 16]


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_images(a: Tensor, image_index: Tensor) -> Tensor:
    return torch.cat([image_index[:, None].to(a.dtype), a], 1)


@st.composite
def cases(draw, max_count=4):
    """A float32 feature map, and boxes [R, 5] on its images whose loops end soon."""
    features = draw(feature_maps(dtype=torch.float32))
    a = draw(boxes(max_count=max_count))
    a = a[((a[:, 2:] - a[:, :2]) < 30).all(1)]
    return features.to(DEVICE), with_images(a, draw(integers(len(a), len(features) - 1))).to(DEVICE)


def off_the_grid(count: int, seed: int, extent: float) -> Tensor:
    """Boxes at random places, so that no sample lies on a line of the grid, where derivatives jump."""
    random = torch.Generator().manual_seed(seed)
    corner = extent * (torch.rand(count, 2, generator=random) - 0.2)
    return torch.cat([corner, corner + extent * torch.rand(count, 2, generator=random)], 1).to(DEVICE)


class Allocated(TorchDispatchMode):
    """How many bytes torch's operations have returned in memory of their own."""

    bytes = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        own = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in own:
                self.bytes += t.untyped_storage().nbytes()
        return out


@pytest.fixture
def poisoned():
    """Memory that is not initialised holds NaN, and backward passes are deterministic."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@few
@given(cases(), sizes, st.sampled_from([1.0, 0.5, 0.3]), ratios, st.booleans(), modes)
def test_forward_is_the_definition(case, size, scale, ratio, aligned, mode):
    features, rois = case
    expected = reference.roi_align(features, rois, size, scale, ratio, aligned, mode)
    out = ops.roi_align(features, rois, size, scale, ratio, aligned, mode=mode, backend="triton")
    assert_close(out.cpu(), expected)


@few
@given(cases(), sizes, st.sampled_from([1.0, 0.5, 0.3]), ratios, modes)
def test_roi_warp_is_its_definition(case, size, scale, ratio, mode):
    features, rois = case
    expected = reference.roi_warp(features, rois, size, scale, ratio, mode)
    assert_close(
        ops.roi_warp(features, rois, size, scale, ratio, mode=mode, backend="triton").cpu(), expected
    )


@few
@given(cases(), sizes, ratios, st.booleans(), st.booleans(), st.booleans())
def test_gradients_of_the_maps_are_the_transposed_definition(case, size, ratio, aligned, warp, deterministic):
    features, rois = case
    features.requires_grad_()
    if warp:
        out = ops.roi_warp(features, rois, size, 0.5, ratio, backend="triton")
        pooled = reference.roi_warp(features, rois, size, 0.5, ratio)
    else:
        out = ops.roi_align(features, rois, size, 0.5, ratio, aligned, backend="triton")
        pooled = reference.roi_align(features, rois, size, 0.5, ratio, aligned)
    incoming = seeded(*out.shape).to(DEVICE)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.autograd.grad(out, features, incoming)
    torch.use_deterministic_algorithms(False)
    # A linear map A and its transpose: g · (A x) = (Aᵀ g) · x, for x the random features.
    left = (incoming.cpu().double() * pooled).sum()
    assert_close((grad.double() * features.double()).sum().cpu().float(), left.float())


@few
@given(cases(), sizes, ratios, st.booleans(), modes, st.booleans())
def test_gradients_of_the_maps_are_the_torch_paths(case, size, ratio, aligned, mode, deterministic):
    features, rois = case
    features.requires_grad_()
    full = features.detach().double().requires_grad_()
    out = ops.roi_align(features, rois, size, 0.3, ratio, aligned, mode=mode, backend="triton")
    # The boxes stay float32: both see the same coordinates.
    expected = ops.roi_align(full, rois, size, 0.3, ratio, aligned, mode=mode, backend="torch")
    incoming = seeded(*out.shape).to(DEVICE)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.autograd.grad(out, features, incoming)
    torch.use_deterministic_algorithms(False)
    assert_close(grad, torch.autograd.grad(expected, full, incoming.double())[0])


@settings(max_examples=10)
@given(st.integers(0, 2**16), sizes, ratios, st.booleans(), modes, st.sampled_from([3, 20]))
def test_gradients_of_the_boxes_are_the_torch_paths(seed, size, ratio, aligned, mode, channels):
    features = seeded(2, channels, 5, 6, seed=seed).to(DEVICE)
    a = off_the_grid(3, seed, 8.0).requires_grad_()
    image = torch.tensor([0, 1, 1], device=DEVICE)
    grads = []
    for backend in ("triton", "torch"):
        out = ops.roi_align(
            features, with_images(a, image), size, 0.7, ratio, aligned, mode=mode, backend=backend
        )
        grads.append(torch.autograd.grad(out, a, seeded(*out.shape).to(DEVICE))[0])
    assert_close(grads[0] / channels, grads[1] / channels)


@settings(max_examples=8)
@given(st.integers(0, 2**16), st.integers(1, 3), modes, st.booleans(), st.booleans())
def test_multiscale_is_each_box_on_its_level(seed, levels, mode, aligned, deterministic):
    maps = [
        seeded(2, 2, max(1, 9 >> i), max(1, 7 >> i), seed=i).to(DEVICE).requires_grad_()
        for i in range(levels)
    ]
    a, image = off_the_grid(3, seed, 40.0), torch.tensor([0, 1, 1], device=DEVICE)
    rule = {
        "canonical_size": 16.0,
        "canonical_level": 3,
        "sampling_ratio": 2,
        "aligned": aligned,
        "mode": mode,
    }
    out = ops.multiscale_roi_align(maps, a, image, (2, 1), STRIDES[:levels], **rule, backend="triton")
    expected = reference.multiscale_roi_align(maps, a, image, (2, 1), STRIDES[:levels], **rule)
    assert_close(out.cpu(), expected)
    torch.use_deterministic_algorithms(deterministic)
    grads = torch.autograd.grad(out, maps, torch.ones_like(out))
    torch.use_deterministic_algorithms(False)
    by_torch = ops.multiscale_roi_align(maps, a, image, (2, 1), STRIDES[:levels], **rule, backend="torch")
    for grad, other in zip(grads, torch.autograd.grad(by_torch, maps, torch.ones_like(out))):
        assert_close(grad, other)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [1, 0])
def test_roi_warp_rounds_halves_away_from_zero_and_holds_the_last_cell(ratio, mode):
    features = seeded(1, 2, 7, 8).to(DEVICE)
    rows = [(0.5, 1.5, 3.5, 4.5), (-0.5, -1.5, 2.49, 2.51), (0.49999997, 2, 2, 2), (3, 3, 3, 3), (4, 4, 1, 2)]
    rois = with_images(torch.tensor(rows), torch.zeros(5, dtype=torch.int64)).to(DEVICE)
    out = ops.roi_warp(features, rois, (2, 3), 1.0, ratio, mode=mode, backend="triton")
    assert_close(out.cpu(), reference.roi_warp(features.cpu(), rois.cpu(), (2, 3), 1.0, ratio, mode))


def test_samples_on_the_borders_of_the_map_count_and_those_beyond_do_not():
    # One sample a box, at y = x = -1, just before it, 5, and just beyond it, on a map of 5 × 5.
    middle = torch.tensor([-1.0, -1.001, 5.0, 5.001], device=DEVICE)[:, None]
    features = (seeded(1, 1, 5, 5).abs() + 1).to(DEVICE)
    out = ops.roi_align(
        features, [(middle + torch.tensor([-1, -1, 1, 1], device=DEVICE))], 1, 1.0, 1, backend="triton"
    )
    assert_close(out.flatten()[[0, 2]], features[0, 0, [0, -1], [0, -1]])
    assert (out.flatten()[[1, 3]] == 0).all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_first_of_equal_samples_gets_the_gradient(deterministic):
    features = torch.ones(1, 2, 6, 6, device=DEVICE, requires_grad=True)
    a = torch.tensor([[0.3, 0.4, 4.9, 5.2], [1.1, 0.2, 3.3, 5.7]], device=DEVICE)
    grads = []
    for backend in ("triton", "torch"):
        out = ops.roi_align(features, [a], 2, 1.0, 2, mode="max", backend=backend)
        torch.use_deterministic_algorithms(deterministic)
        grads.append(torch.autograd.grad(out, features, seeded(*out.shape).to(DEVICE))[0])
        torch.use_deterministic_algorithms(False)
    assert_close(*grads)


def test_samples_outside_of_the_map_are_zeros_that_may_be_the_largest():
    features = -(seeded(1, 2, 4, 4).abs() + 1).to(DEVICE)
    rois = torch.tensor([[0, -9.0, 0, 3, 3], [0, 1, -8, 3, 11], [0, 0.5, 0.5, 3, 3]], device=DEVICE)
    out = ops.roi_align(features, rois, (1, 2), 1.0, 0, mode="max", backend="triton")
    assert_close(out.cpu(), reference.roi_align(features.cpu(), rois.cpu(), (1, 2), 1.0, 0, False, "max"))
    assert (out == 0).any() and (out < 0).any()


def test_a_box_of_exactly_a_levels_smallest_area_belongs_to_it():
    from minimaskrcnn_kernels.roi_align import roi_align

    maps = [torch.full((1, 1, 9, 9), float(i), device=DEVICE) for i in range(2)]
    a = torch.tensor([[1.0, 1, 5, 5], [1, 1, 5, 4.75]], device=DEVICE)
    image = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    out, _ = roi_align(maps, a, image, [1.0, 1.0], [0.0, 16.0], 1, 1, 1, False, False, False)
    assert out.flatten().tolist() == [1, 0]


def test_levels_at_the_borders():
    sides = torch.tensor([0, 111.9, 112, 223.9, 224, 447.9, 448, 1e5, -3, 1e30], device=DEVICE)
    # All around the point (4, 4), which every map has, so that the one sample is the map's own number.
    a = torch.stack([4 - sides / 2, 4 - sides.abs() / 2, 4 + sides / 2, 4 + sides.abs() / 2], 1)
    maps = [torch.full((1, 1, 2, 2), float(i), device=DEVICE) for i in range(4)]
    image, strides = torch.zeros(10, dtype=torch.int64, device=DEVICE), [4, 8, 16, 32]
    out = ops.multiscale_roi_align(
        maps, a, image, 1, strides, sampling_ratio=1, aligned=True, backend="triton"
    )
    assert out.flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("deterministic", [False, True])
def test_half_precision_is_float32_rounded_once(dtype, deterministic):
    features, a = seeded(1, 20, 5, 4).to(DEVICE, dtype), off_the_grid(3, 1, 5.0).requires_grad_()
    ours, full = features.clone().requires_grad_(), features.float().requires_grad_()
    out = ops.roi_align(ours, [a], 2, 1.0, 2, backend="triton")
    expected = ops.roi_align(full, [a], 2, 1.0, 2, backend="triton")
    assert out.dtype == dtype
    # Not equal: Triton's interpreter cuts to bfloat16 where a GPU rounds.
    assert_close(out, expected.to(dtype))
    torch.use_deterministic_algorithms(deterministic)
    incoming = seeded(*out.shape).to(DEVICE, dtype)
    grads = torch.autograd.grad(out, (ours, a), incoming)
    others = torch.autograd.grad(expected, (full, a), incoming.float())
    torch.use_deterministic_algorithms(False)
    assert grads[0].dtype == dtype
    assert_close(grads[0], others[0].to(dtype))
    assert_close(grads[1] / 20, others[1] / 20)


@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("channels", [1, 7, 128, 130])
def test_blocks_of_channels(channels, ratio, poisoned):
    # 128 float32 channels are one program's; 130 make a second one, mostly masked.
    features = seeded(1, channels, 6, 11).to(DEVICE).requires_grad_()
    a = off_the_grid(2, 3, 8.0).requires_grad_()
    results = []
    for backend in ("triton", "torch"):
        out = ops.roi_align(features, [a], 2, 1.0, ratio, backend=backend)
        results.append((out, *torch.autograd.grad(out, (features, a), seeded(*out.shape).to(DEVICE))))
    for ours, other in zip(*results):
        assert_close(ours / channels**0.5, other / channels**0.5)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [2, 0])
def test_every_value_is_written(mode, ratio, poisoned):
    maps = [seeded(2, 3, 9, 9).to(DEVICE).requires_grad_(), seeded(2, 3, 5, 5).to(DEVICE).requires_grad_()]
    a, image = off_the_grid(6, 0, 40.0).requires_grad_(), torch.arange(6, device=DEVICE) % 2
    out = ops.multiscale_roi_align(
        maps, a, image, 2, [4, 8], sampling_ratio=ratio, aligned=True, mode=mode, canonical_size=16.0,
        canonical_level=3, backend="triton",
    )  # fmt: skip
    grads = torch.autograd.grad(out.square().sum(), (*maps, a))
    assert not any(t.isnan().any() for t in (out, *grads))


def test_more_boxes_than_a_program_looks_at_at_once(poisoned):
    from minimaskrcnn_kernels import roi_align_gather

    features = seeded(2, 2, 5, 9).to(DEVICE).requires_grad_()
    a, image = off_the_grid(11, 5, 8.0), torch.arange(11, device=DEVICE) * 7 % 2
    with patch.object(roi_align_gather, "BLOCK_R", 4):
        out = ops.roi_align(features, with_images(a, image), 2, 1.0, 1, backend="triton")
        incoming = seeded(*out.shape).to(DEVICE)
        (grad,) = torch.autograd.grad(out, features, incoming)
    by_torch = ops.roi_align(features, with_images(a, image), 2, 1.0, 1, backend="torch")
    assert_close(grad, torch.autograd.grad(by_torch, features, incoming)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_deterministic_backward_needs_at_most_twice_the_memory(dtype):
    from minimaskrcnn_kernels import rois
    from minimaskrcnn_kernels.roi_align_gather import gather
    from minimaskrcnn_kernels.roi_align_scatter import scatter

    maps = [torch.zeros(2, 32, 40 >> i, 40 >> i, dtype=dtype, device=DEVICE) for i in range(3)]
    a, image = torch.zeros(50, 4, device=DEVICE), torch.zeros(50, dtype=torch.int64, device=DEVICE)
    pooled = rois.pooling(maps, a, image, [0.25, 0.125, 0.0625], [0.0, 9.0, 99.0], 2, False, False, False)
    grad = torch.zeros(50, 7, 7, 32, dtype=dtype, device=DEVICE)
    # Without the kernels: what is allocated does not depend on values.
    with patch("minimaskrcnn_kernels.roi_align_gather.gather_kernel"), Allocated() as deterministic:
        gather(grad, grad, pooled)
    with patch("minimaskrcnn_kernels.roi_align_scatter.scatter_kernel"), Allocated() as atomic:
        scatter(grad, grad, pooled)
    assert sum(m.numel() * m.element_size() for m in maps) <= deterministic.bytes <= 2 * atomic.bytes


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_second_derivatives_are_the_torch_paths(mode):
    features = seeded(2, 2, 5, 6).to(DEVICE).requires_grad_()
    a, image = off_the_grid(3, 2, 5.0).requires_grad_(), torch.tensor([0, 1, 1], device=DEVICE)
    results = []
    for backend in ("triton", "torch"):
        out = ops.roi_align(features, with_images(a, image), 2, 1.0, 2, mode=mode, backend=backend)
        incoming = seeded(*out.shape).to(DEVICE).requires_grad_()
        first = torch.autograd.grad(out, (features, a), incoming, create_graph=True)
        loss = sum((g * seeded(*g.shape, seed=1).to(DEVICE)).sum() for g in first)
        results.append(torch.autograd.grad(loss, (incoming, features, a)))
    for ours, other in zip(*results):
        assert_close(ours, other)


@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("deterministic", [False, True])
def test_an_unknown_image_or_a_box_that_is_not_finite_gives_nan_and_no_gradient(ratio, deterministic):
    features = seeded(2, 3, 6, 6).to(DEVICE).requires_grad_()
    a, image = off_the_grid(6, 0, 5.0), torch.tensor([0, 2, 1, -1, 1, 0], device=DEVICE)
    a[4, 2], a[5, 1] = float("nan"), float("inf")
    a.requires_grad_()
    known = [0, 2]
    # On the CPU a bad index is an error, unless a graph is being made of it.
    with patch("torch.compiler.is_compiling", lambda: True):
        out = ops.roi_align(features, with_images(a, image), 2, 1.0, ratio, backend="triton")
    good = ops.roi_align(features, with_images(a, image)[known], 2, 1.0, ratio, backend="triton")
    assert out[[1, 3, 4, 5]].isnan().all()
    assert torch.equal(out[known], good)
    torch.use_deterministic_algorithms(deterministic)
    grads = torch.autograd.grad(out, (features, a), torch.ones_like(out))
    expected = torch.autograd.grad(good, (features, a), torch.ones_like(good))
    torch.use_deterministic_algorithms(False)
    assert_close(grads[0], expected[0])
    assert_close(grads[1], expected[1])
    assert (grads[1][[1, 3, 4, 5]] == 0).all()


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_huge_box_has_few_samples_on_the_map(mode):
    # Its bins hold up to 1e20 samples: a program visits those near the map only.
    a = torch.tensor([[-1e5, 1.0, 1e5, 4.0], [0.0, 0.0, 1e20, 1e20], [-1e4, -1e4, 3.0, 2.0]], device=DEVICE)
    features = seeded(1, 2, 5, 5).to(DEVICE).requires_grad_()
    out = ops.roi_align(features, [a], (1, 2), 1.0, 0, mode=mode, backend="triton")
    (grad,) = torch.autograd.grad(out.sum(), features)
    assert out.isfinite().all() and grad.isfinite().all()
    assert (out.abs() < 4).all()


def test_no_boxes_no_channels_and_no_cells():
    none = torch.zeros(0, 5, device=DEVICE)
    for deterministic in (False, True):
        features = seeded(2, 3, 5, 4).to(DEVICE).requires_grad_()
        out = ops.roi_align(features, none, (2, 3), 1.0, 2, backend="triton")
        assert out.shape == (0, 3, 2, 3)
        torch.use_deterministic_algorithms(deterministic)
        (grad,) = torch.autograd.grad(out.sum(), features)
        torch.use_deterministic_algorithms(False)
        assert grad.shape == features.shape and (grad == 0).all()
    box = torch.tensor([[0.0, 0, 0, 2, 2]], device=DEVICE)
    assert ops.roi_align(seeded(2, 0, 5, 4).to(DEVICE), box, 2, backend="triton").shape == (1, 0, 2, 2)
    empty = torch.zeros(1, 2, 0, 4, device=DEVICE)
    assert (ops.roi_align(empty, box, 2, backend="triton") == 0).all()


def test_an_element_beyond_2_to_the_31():
    # NumPy's zeros are pages that nobody has touched yet: 4.3 GB of address space, a few pages of memory.
    if DEVICE.type == "cpu":
        rows = torch.from_numpy(np.zeros(2**31 + 2**20, dtype=np.uint16)).view(torch.bfloat16)
    else:
        rows = torch.zeros(2**31 + 2**20, dtype=torch.bfloat16, device=DEVICE)
    height = rows.numel() // (256 * 1024)
    features = rows.view(1, height, 1024, 256).permute(0, 3, 1, 2)
    features[0, :, -1, -1] = 3
    corner = torch.tensor([[0, 1022.5, height - 1.5, 1023.5, height - 0.5]], device=DEVICE)
    out = ops.roi_align(features, corner, 1, 1.0, 1, backend="triton")
    # The sample lies at (1023, height - 1): the last cell, whose last element is number 2^31 + 2^20 - 1.
    assert torch.equal(out.flatten(), torch.full((256,), 3.0, dtype=torch.bfloat16, device=DEVICE))


def test_a_channels_last_map_is_not_copied():
    from minimaskrcnn_kernels.rois import channels_last

    features = seeded(2, 3, 5, 4).contiguous(memory_format=torch.channels_last)
    assert channels_last([features])[0].data_ptr() == features.data_ptr()
    out = ops.roi_align(features.to(DEVICE), [off_the_grid(2, 0, 4.0)], 2, 1.0, 2, backend="triton")
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_float64_is_the_torch_paths():
    features, a = seeded(1, 2, 5, 5, dtype=torch.float64).to(DEVICE), off_the_grid(2, 0, 4.0)
    with pytest.raises(TypeError, match="float64"):
        ops.roi_align(features, [a.double()], 2, backend="triton")
    assert ops.roi_align(features, [a.double()], 2).dtype == torch.float64


def arguments(levels: int, maximum: bool):
    maps = [seeded(2, 3, 6 >> i, 5 >> i).to(DEVICE).requires_grad_() for i in range(levels)]
    a, image = off_the_grid(2, 4, 8.0).requires_grad_(), torch.tensor([0, 1], device=DEVICE)
    return maps, a, image, [0.5, 0.25][:levels], [0.0, 16.0][:levels], 1, 2, 1, False, False, maximum


@pytest.mark.unhooked
@pytest.mark.parametrize(("levels", "maximum"), [(1, True), (2, False)])
def test_registration(levels, maximum):
    from minimaskrcnn_kernels.roi_align import roi_align, roi_align_backward

    given = arguments(levels, maximum)
    torch.library.opcheck(roi_align, given)
    out, winner = roi_align(*given)
    maps, a, image, scales, areas, _, _, *flags = given
    # Without gradients of their own: second derivatives are the torch path's, and never part of a graph.
    maps, a, d_out = [m.detach() for m in maps], a.detach(), seeded(*out.shape).to(DEVICE)
    for wanted in ((True, True), (True, False), (False, True)):
        backward = (d_out, winner, maps, a, image, scales, areas, *flags, *wanted)
        torch.library.opcheck(roi_align_backward, backward)


@pytest.mark.unhooked
def test_a_part_of_the_model_compiles_into_one_graph():
    from minimaskrcnn.pooler import RoIAlignConfig

    maps = [seeded(2, 3, 12 >> i, 12 >> i).to(DEVICE).requires_grad_() for i in range(2)]
    a, image = off_the_grid(3, 4, 40.0).requires_grad_(), torch.tensor([0, 1, 1], device=DEVICE)
    layer = torch.nn.Linear(12, 4).to(DEVICE)

    def head(maps: list[Tensor], a: Tensor) -> Tensor:
        # As pool_rois does, which leaves the choice to the device.
        if DEVICE.type == "cuda":
            pooled = RoIAlignConfig().build((4, 8))(maps, a, image, 2)
        else:
            pooled = ops.multiscale_roi_align(
                maps, a, image, 2, [4, 8], sampling_ratio=2, aligned=False, backend="triton"
            )
        return layer(pooled.flatten(1)).square().sum()

    eager = torch.autograd.grad(head(maps, a), (*maps, a))
    compiled = torch.autograd.grad(
        torch.compile(head, fullgraph=True, backend="aot_eager")(maps, a), (*maps, a)
    )
    for one, other in zip(compiled, eager):
        assert_close(one, other)


@pytest.mark.slow
@settings(max_examples=3000)
@given(cases(), sizes, st.sampled_from([1.0, 0.5, 0.3]), ratios, st.booleans(), st.booleans())
def test_a_sweep_against_torchvision(case, size, scale, ratio, aligned, deterministic):
    features, rois = case
    features.requires_grad_()
    out = ops.roi_align(features, rois, size, scale, ratio, aligned, backend="triton")
    theirs = torchvision().ops.roi_align(features, rois, size, scale, ratio, aligned)
    assert_close(out, theirs)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.autograd.grad(out, features, torch.ones_like(out))
    torch.use_deterministic_algorithms(False)
    assert_close(grad, torch.autograd.grad(theirs, features, torch.ones_like(theirs))[0])
