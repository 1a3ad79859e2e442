"""RoIAlign: against its definition, what must hold of it, all its derivatives, and torchvision."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import TOLERANCE, assert_close, torchvision
from strategies import boxes, pooling_cases
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import reference
from minimaskrcnn.ops.reference import _sample_points as sample_points
from minimaskrcnn.ops.rois import cell_table

STRIDES = [4, 8, 16, 32]
# 0 and -1 are both adaptive.
ratios = st.sampled_from([1, 2, 3, 0, -1])
modes = st.sampled_from(["avg", "max"])
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_images(a: Tensor, image_index: Tensor) -> Tensor:
    return torch.cat([image_index[:, None].to(a.dtype), a], 1)


# On the grid of the maps in these tests: a level of boxes 3..18 cells on a map of 24 × 24, inside of its border.
def inner_boxes(count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corner = 2 + 8 * torch.rand(count, 2, generator=random, dtype=torch.float64)
    side = 1.5 + 9 * torch.rand(count, 2, generator=random, dtype=torch.float64)
    return torch.cat([corner, corner + side], 1)


@given(pooling_cases(), sizes, st.sampled_from([1.0, 0.5, 0.3]), ratios, st.booleans(), modes)
def test_roi_align_is_its_definition(case, size, scale, ratio, aligned, mode):
    features, rois = case
    # The loops of the definition take a sample per cell: no box of 900 cells.
    rois = rois[((rois[:, 3:] - rois[:, 1:3]) < 30).all(1)]
    expected = reference.roi_align(features, rois, size, scale, ratio, aligned, mode)
    assert_close(ops.roi_align(features, rois, size, scale, ratio, aligned, mode=mode), expected)


@given(pooling_cases(), sizes, ratios, st.booleans())
def test_the_largest_sample_is_no_less_than_the_average(case, size, ratio, aligned):
    features, rois = case
    largest = ops.roi_align(features, rois, size, 0.5, ratio, aligned, mode="max")
    assert (largest >= ops.roi_align(features, rois, size, 0.5, ratio, aligned) - 1e-12).all()


@given(pooling_cases(), sizes, st.booleans(), modes)
def test_one_sample_is_its_own_average_and_the_largest(case, size, aligned, mode):
    features, rois = case
    one = ops.roi_align(features, rois, size, 0.5, 1, aligned, mode=mode)
    assert_close(one, reference.roi_align(features, rois, size, 0.5, 1, aligned))


@given(pooling_cases(), ratios, st.booleans())
def test_a_list_of_boxes_is_the_same(case, ratio, aligned):
    features, rois = case
    lists = [rois[rois[:, 0] == i, 1:] for i in range(len(features))]
    rois = with_images(torch.cat(lists), torch.cat([torch.full((len(b),), i) for i, b in enumerate(lists)]))
    expected = ops.roi_align(features, rois, 2, 0.5, ratio, aligned)
    assert_close(ops.roi_align(features, lists, 2, 0.5, ratio, aligned), expected)


@given(pooling_cases(), st.floats(-2, 2), ratios)
def test_linear_in_the_features(case, factor, ratio):
    features, rois = case
    other = seeded(*features.shape)

    def pool(x: Tensor) -> Tensor:
        return ops.roi_align(x, rois, 2, 0.5, ratio)

    assert_close(pool(features + factor * other), pool(features) + factor * pool(other))


@given(st.integers(0, 2**16), ratios, st.booleans())
def test_exact_on_an_affine_map_away_from_its_border(seed, ratio, aligned):
    a = inner_boxes(4, seed)
    y, x = torch.meshgrid(*2 * [torch.arange(24, dtype=torch.float64)], indexing="ij")
    features = (0.3 * x - 0.2 * y + 1)[None, None]
    out = ops.roi_align(features, [a], (3, 2), 1.0, ratio, aligned)
    shift = 0.5 if aligned else 0.0
    for (x1, y1, x2, y2), pooled in zip(a.tolist(), out[:, 0]):
        for ph in range(3):
            for pw in range(2):
                # The mean of an affine function over a bin is its value at the centre.
                at_y = y1 - shift + (ph + 0.5) * (y2 - y1) / 3
                at_x = x1 - shift + (pw + 0.5) * (x2 - x1) / 2
                assert pooled[ph, pw].item() == pytest.approx(0.3 * at_x - 0.2 * at_y + 1, abs=1e-10)


@given(st.integers(0, 2**16), st.tuples(st.integers(0, 3), st.integers(0, 3)), ratios)
def test_moves_with_the_map(seed, shift, ratio):
    dy, dx = shift
    features, a = seeded(1, 2, 24, 24, seed=seed), inner_boxes(4, seed)
    moved = features.roll((dy, dx), (2, 3))
    expected = ops.roi_align(features, [a], 3, 1.0, ratio)
    assert_close(ops.roi_align(moved, [a + torch.tensor([dx, dy, dx, dy])], 3, 1.0, ratio), expected)


@given(st.integers(0, 2**16), ratios, st.booleans())
def test_backward_sums_to_what_comes_in(seed, ratio, aligned):
    features = seeded(1, 2, 24, 24, seed=seed).requires_grad_()
    out = ops.roi_align(features, [inner_boxes(4, seed)], 3, 1.0, ratio, aligned)
    incoming = seeded(*out.shape, seed=seed + 1)
    (grad,) = torch.autograd.grad(out, features, incoming)
    assert_close(grad.sum((0, 2, 3)), incoming.sum((0, 2, 3)))


@given(
    st.lists(boxes(max_count=4, dtype=torch.float64), min_size=1, max_size=2),
    st.booleans(),
    st.integers(1, 4),
    modes,
)
def test_multiscale_is_each_box_on_its_level(per_image, aligned, levels, mode):
    maps = [seeded(2, 2, max(1, 40 >> i), max(1, 24 >> i), seed=i) for i in range(levels)]
    a = 8 * torch.cat(per_image)
    image = torch.cat([torch.full((len(b),), i) for i, b in enumerate(per_image)])
    # Powers of two around 24 pixels at level 3, so that small boxes spread over the levels.
    rule = {"canonical_size": 24.0, "canonical_level": 3}
    rule |= {"sampling_ratio": 2, "aligned": aligned, "mode": mode}
    out = ops.multiscale_roi_align(maps, a, image, 2, STRIDES[:levels], **rule)
    assert_close(out, reference.multiscale_roi_align(maps, a, image, (2, 2), STRIDES[:levels], **rule))


def assert_off_the_grid(a: Tensor, size: tuple[int, int], ratio: int, aligned: bool) -> None:
    """No sample within 1e-3 of a grid line, where the derivative in the boxes jumps."""
    for x1, y1, x2, y2 in a.tolist():
        for start, end, bins in ((x1, x2, size[1]), (y1, y2, size[0])):
            shift = 0.5 if aligned else 0.0
            points = sample_points(start - shift, end - shift, bins, ratio, aligned)
            assert all(1e-3 < point % 1 < 1 - 1e-3 for line in points for point in line)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(("ratio", "aligned"), [(1, False), (2, True), (-1, False), (-1, True)])
def test_first_and_second_derivatives_in_features_and_boxes(ratio, aligned, mode):
    features = seeded(2, 1, 4, 5).requires_grad_()
    # The last box hangs over the border.
    a = torch.tensor([[1.13, 0.87, 4.33, 2.61], [-0.67, 1.29, 2.71, 4.37]], dtype=torch.float64)
    assert_off_the_grid(a, (1, 2), ratio, aligned)
    a.requires_grad_()

    def pool(x: Tensor, b: Tensor) -> Tensor:
        rois = with_images(b, torch.tensor([0, 1]))
        return ops.roi_align(x, rois, (1, 2), 1.0, ratio, aligned, mode=mode)

    assert torch.autograd.gradcheck(pool, (features, a))
    assert torch.autograd.gradgradcheck(pool, (features, a))


@pytest.mark.parametrize("ratio", [2, -1])
def test_of_equally_large_samples_the_first_takes_the_gradient(ratio):
    features = torch.ones(1, 1, 6, 6, dtype=torch.float64).requires_grad_()
    a = torch.tensor([[1.0, 1.25, 3, 3.25]], dtype=torch.float64).requires_grad_()
    out = ops.roi_align(features, [a], 1, 1.0, ratio, mode="max")
    grad, of_boxes = torch.autograd.grad(out.sum(), (features, a))
    # Samples at 1.75 and 2.75 in y, 1.5 and 2.5 in x.
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[1:3, 1:3] = torch.tensor([[0.125, 0.125], [0.375, 0.375]])
    assert_close(grad[0, 0], expected)
    assert (of_boxes == 0).all()


def test_derivatives_over_the_levels():
    maps = [seeded(1, 1, 4 >> i, 4 >> i, seed=i).requires_grad_() for i in range(2)]
    a = torch.tensor([[1.3, 2.9, 9.1, 11.7], [3.1, 2.3, 19.3, 20.9]], dtype=torch.float64).requires_grad_()
    rule = {"canonical_size": 16.0, "canonical_level": 3}
    assert ops.fpn_levels(a.detach(), [4, 8], **rule).tolist() == [0, 1]

    def pool(fine: Tensor, coarse: Tensor, b: Tensor) -> Tensor:
        image = torch.zeros(2, dtype=torch.int64)
        return ops.multiscale_roi_align(
            [fine, coarse], b, image, 1, [4, 8], sampling_ratio=2, aligned=True, **rule
        )

    assert torch.autograd.gradcheck(pool, (*maps, a))
    assert torch.autograd.gradgradcheck(pool, (*maps, a))


def test_a_table_beyond_16_bits_of_rows():
    # The sort in the backward pass takes int16 keys up to 32767 rows, int32 beyond.
    for height in (127, 128, 129):
        features = seeded(1, 1, height, 256, dtype=torch.float32).requires_grad_()
        a = torch.tensor([[250.0, height - 6, 256, height]])
        ops.roi_align(features, [a], 2, 1.0, 1).sum().backward()
        touched = features.grad[0, 0].nonzero()
        assert touched.amin(0).tolist() == [height - 5, 251]
        assert features.grad.sum().item() == pytest.approx(4)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded_once(dtype, mode):
    features = seeded(1, 4, 12, 12, dtype=torch.float32).to(dtype)
    a = inner_boxes(5, 1).float()
    ours = features.clone().requires_grad_()
    full = features.float().requires_grad_()
    out = ops.roi_align(ours, [a], 3, 1.0, 2, mode=mode)
    expected = ops.roi_align(full, [a], 3, 1.0, 2, mode=mode)
    assert out.dtype == dtype
    assert torch.equal(out, expected.to(dtype))
    out.sum().backward()
    expected.sum().backward()
    assert torch.equal(ours.grad, full.grad.to(dtype))


def test_box_gradients_for_bfloat16_features_under_autocast():
    features = seeded(1, 4, 12, 12, dtype=torch.float32).bfloat16()
    a = inner_boxes(5, 1).float().requires_grad_()
    (expected,) = torch.autograd.grad(ops.roi_align(features.float(), [a], 3, 1.0, 2).sum(), a)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (grad,) = torch.autograd.grad(ops.roi_align(features, [a], 3, 1.0, 2).float().sum(), a)
    assert grad.dtype == torch.float32
    # The products are float32 ones: autocast would have left 8 bits of them.
    assert_close(grad, expected)


def test_a_channels_last_map_is_not_copied():
    features = seeded(2, 3, 5, 4).contiguous(memory_format=torch.channels_last)
    assert cell_table([features]).data_ptr() == features.data_ptr()
    assert cell_table([features]).is_contiguous()
    assert ops.roi_align(features, [inner_boxes(2, 0)], 2, 1.0, 2).is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [2, -1])
def test_no_boxes(ratio, mode):
    features = seeded(2, 3, 5, 4).requires_grad_()
    for none in (torch.zeros(0, 5, dtype=torch.float64), [torch.zeros(0, 4, dtype=torch.float64)] * 2, []):
        out = ops.roi_align(features, none, (2, 3), 1.0, ratio, mode=mode)
        assert out.shape == (0, 3, 2, 3)
        (grad,) = torch.autograd.grad(out.sum(), features)
        assert (grad == 0).all()


@pytest.fixture
def poisoned():
    """Memory that is not initialised holds NaN, and an operation without a fixed order is an error."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [2, -1])
def test_no_value_is_left_unwritten_and_gradients_repeat(poisoned, ratio, mode):
    features, a = seeded(2, 3, 24, 24).requires_grad_(), inner_boxes(20, 0).requires_grad_()
    image = torch.arange(20) % 2
    grads = []
    for _ in range(2):
        out = ops.roi_align(features, with_images(a, image), 3, 1.0, ratio, mode=mode)
        grads.append(torch.autograd.grad(out.square().sum(), (features, a), create_graph=True))
    assert not any(t.isnan().any() for t in (out, *grads[0]))
    assert all(torch.equal(first, second) for first, second in zip(*grads))
    second = torch.autograd.grad(grads[0][0].square().sum(), (features, a))
    assert not any(t.isnan().any() for t in second)


@pytest.mark.unhooked
@pytest.mark.parametrize(("dynamic", "mode"), [(False, "avg"), (None, "avg"), (False, "max")])
def test_compiles_into_one_graph(dynamic, mode):
    features = seeded(2, 3, 24, 24, dtype=torch.float32).requires_grad_()
    pyramid = [features, seeded(2, 3, 12, 12, dtype=torch.float32).requires_grad_()]
    a = inner_boxes(5, 0).float().requires_grad_()
    image = torch.tensor([0, 1, 1, 0, 7])

    def call(fine: Tensor, coarse: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        one = ops.roi_align(fine, with_images(b, image), 3, 0.9, 2, True, mode=mode)
        all_levels = ops.multiscale_roi_align(
            [fine, coarse], 8 * b, image, 2, [4, 8], sampling_ratio=2, aligned=False, mode=mode
        )
        return one, all_levels

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)(*pyramid, a)
    with patch("torch.compiler.is_compiling", lambda: True):
        eager = call(*pyramid, a)
    assert compiled[0][4].isnan().all() and not compiled[0][:4].isnan().any()
    for ours, expected in zip(compiled, eager):
        assert_close(ours, expected)
        incoming = torch.randn_like(expected)
        for got, want in zip(
            torch.autograd.grad(ours, (features, a), incoming, retain_graph=True),
            torch.autograd.grad(expected, (features, a), incoming, retain_graph=True),
        ):
            assert_close(got, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_without_a_sync():
    features, a = seeded(2, 3, 24, 24).cuda().requires_grad_(), inner_boxes(4, 0).cuda()
    image = torch.tensor([0, 2, 1, -1], device="cuda")
    rois = with_images(a, image)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = ops.roi_align(features, rois, 2, 1.0, 2)
        levels = ops.multiscale_roi_align([features], a, image, 2, [4], sampling_ratio=2, aligned=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out[[1, 3]].isnan().all() and levels[[1, 3]].isnan().all()
    expected = ops.roi_align(features.cpu(), rois[[0, 2]].cpu(), 2, 1.0, 2)
    assert_close(out[[0, 2]].cpu(), expected)
    with pytest.raises(ValueError, match="index 2"):
        ops.roi_align(features, rois, 2, 1.0, 2, validate=True)


@given(pooling_cases(), sizes, st.sampled_from([1.0, 0.25, 0.3]), ratios, st.booleans())
def test_parity_with_torchvision(case, size, scale, ratio, aligned):
    peer = torchvision().ops
    features, rois = case
    rois = rois[((rois[:, 3:] - rois[:, 1:3]) < 100).all(1)]
    for dtype in (torch.float64, torch.float32):
        ours = features.to(dtype).clone().requires_grad_()
        theirs = features.to(dtype).clone().requires_grad_()
        out = ops.roi_align(ours, rois.to(dtype), size, scale, ratio, aligned)
        expected = peer.roi_align(theirs, rois.to(dtype), size, scale, ratio, aligned)
        assert_close(out, expected)
        incoming = seeded(*expected.shape).to(dtype)
        out.backward(incoming)
        expected.backward(incoming)
        assert_close(ours.grad, theirs.grad)


@pytest.mark.slow
def test_parity_with_torchvision_at_length():
    settings(max_examples=3000)(test_parity_with_torchvision)()


@pytest.mark.parametrize("aligned", [False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parity_of_all_levels_with_torchvision(dtype, aligned):
    peer = torchvision().ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    maps = [seeded(2, 5, 64 >> i, 80 >> i, seed=i).to(dtype) for i in range(4)]
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 150, 2, generator=random, dtype=torch.float64) * torch.tensor([320, 256])
    side = 2 ** (2 + 7 * torch.rand(2, 150, 2, generator=random, dtype=torch.float64))
    # Sides of exactly 112, 224 and 448 stand on the border of two levels.
    side[:, :9] = torch.tensor([112.0, 224, 448]).repeat(3)[:, None]
    a = torch.cat([corner, corner + side], -1).to(dtype)
    named = {str(i): level for i, level in enumerate(maps)}
    expected = peer(named, list(a), [(256, 320)] * 2)
    image = torch.arange(2).repeat_interleave(150)
    ours = ops.multiscale_roi_align(
        maps, a.flatten(0, 1), image, 7, STRIDES, sampling_ratio=2, aligned=aligned
    )
    assert len(ops.fpn_levels(a.flatten(0, 1), STRIDES).unique()) == 4
    assert_close(ours, expected)
    assert TOLERANCE[torch.float64] == (1e-10, 1e-10)
