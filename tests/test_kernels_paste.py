"""The pasting kernel: its definition, the torch path's integer boxes to the last bit, and boxes of every kind."""

import math
from types import ModuleType

import numpy as np
import pytest
import torch
from devices import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import need_kernels
from parity import assert_close, torchvision
from strategies import boxes
from test_ops_paste import decoded, image_sizes, probs
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

need_kernels()

# The interpreter's NumPy warns of the overflows of boxes that no picture has.
pytestmark = [
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
    # pycocotools 2.0.11's own call of NumPy.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

TARGETS = ["sm_80", "sm_90", "gfx942"]
coordinates = st.one_of(
    st.floats(-40, 60, width=32),
    st.floats(width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 2.0**29, -(2.0**30), 2.0**31, 3e38]),
)


@pytest.fixture
def poison():
    """Uninitialised memory is NaN, or true."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def kernel_module() -> ModuleType:
    from minimaskrcnn_kernels import paste_masks

    return paste_masks


def kernel(masks: Tensor, a: Tensor, image_size: tuple[int, int], threshold: float | None = None) -> Tensor:
    return ops.paste_masks(masks.to(DEVICE), a.to(DEVICE), image_size, threshold, backend="triton").cpu()


def assert_equal_to_torch(masks: Tensor, a: Tensor, image_size: tuple[int, int]) -> None:
    """Values within tolerance; bits equal but where the value is as good as the threshold; the same pixels."""
    expected = ops.paste_masks(masks, a, image_size, None, backend="torch")
    assert_close(kernel(masks, a, image_size), expected)
    clear = (expected - 0.5).abs() > 1e-5
    found = kernel(masks, a, image_size, 0.5)
    assert found.dtype == torch.bool
    assert torch.equal(found[clear], (expected > 0.5)[clear])
    covered = ops.paste_masks(masks, a, image_size, -1.0, backend="torch")
    assert torch.equal(kernel(masks, a, image_size, -1.0), covered)


@given(boxes(max_count=4), st.sampled_from([1, 2, 4]), image_sizes, st.integers(0, 99))
@settings(max_examples=30)
def test_the_kernel_is_the_definition(a, m, image_size, seed):
    # On a grid of eighths and for these m growing is exact: the reference, in float64, cuts to the same integers.
    a, masks = (a * 8).round() / 8, probs(len(a), m, seed, torch.float32)
    values, found = kernel(masks, a, image_size), kernel(masks, a, image_size, 0.5)
    for i in range(len(a)):
        expected, expected_values = reference.paste_mask(masks[i], a[i], image_size)
        assert_close(values[i], expected_values)
        clear = (expected_values - 0.5).abs() > 1e-5
        assert torch.equal(found[i][clear], expected[clear])


@given(boxes(max_count=4), st.sampled_from([3, 5, 7, 28]), image_sizes, st.integers(0, 99))
@settings(max_examples=30)
def test_the_kernel_is_the_torch_path(a, m, image_size, seed):
    assert_equal_to_torch(probs(len(a), m, seed, torch.float32), a, image_size)


@given(st.lists(st.tuples(*[coordinates] * 4), min_size=1, max_size=4), st.sampled_from([1, 3, 28]))
@settings(max_examples=60)
def test_boxes_are_cut_to_the_same_integers_whatever_their_corners(rows, m):
    assert_equal_to_torch(torch.ones(len(rows), m, m), torch.tensor(rows), (20, 20))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, 2.0**30, -(2.0**30)])
@pytest.mark.parametrize("corner", range(4))
def test_an_absurd_corner_gives_an_empty_mask(backend, value, corner):
    a = torch.tensor([[1.0, 2, 8, 9]] * 3)
    # Without the rule some of these would cover the picture: far out on one side, and on both.
    a[:2, corner], a[1, (corner + 2) % 4] = value, -value
    out = ops.paste_masks(torch.ones(3, 4, 4, device=DEVICE), a.to(DEVICE), (12, 13), -1.0, backend=backend)
    assert not out[:2].any() and out[2].any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_limit_of_a_grown_corner_is_2_to_the_30(backend):
    # Grown by (2 + 2) / 2 about 0.  Everything in the picture is the mask's centre.
    masks = torch.tensor([[[0.1, 0.2], [0.3, 0.8]]], device=DEVICE).expand(2, -1, -1)
    side = torch.tensor([[2.0**29 - 32], [2.0**29]], device=DEVICE)
    a = torch.cat([-side, -side, side, side], 1)
    values = ops.paste_masks(masks, a, (3, 5), None, backend=backend)
    assert_close(values[0], torch.full((3, 5), 0.35, device=DEVICE))
    assert not ops.paste_masks(masks, a, (3, 5), -1.0, backend=backend)[1].any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_corners_are_cut_towards_zero(backend):
    # Grown: -2.5..-0.5, whose last pixel is 0, and -0.5..3.5, whose first is 0 and not -1.
    a = torch.tensor([[-2.0, -2, -1, -1], [0.5, 0.5, 2.5, 2.5]], device=DEVICE)
    out = ops.paste_masks(torch.ones(2, 2, 2, device=DEVICE), a, (8, 8), None, backend=backend).cpu()
    assert out[0].count_nonzero() == 1 and out[0, 0, 0] > 0
    # 4 samples 0, 1, 1, 0 onto 4 pixels: themselves.
    assert_close(out[1, :4, :4], torch.outer(*[torch.tensor([0.0, 1, 1, 0])] * 2))


@pytest.mark.parametrize(
    "image_size",
    [
        pytest.param((8, 64), id="one tile"),
        pytest.param((17, 130), id="tiles that reach over both edges"),
        pytest.param((1, 300), id="a row"),
        pytest.param((90, 1), id="a column"),
    ],
)
@pytest.mark.parametrize("programs", [1, 6, 8192])
def test_a_picture_of_several_tiles(image_size, programs, poison, monkeypatch):
    monkeypatch.setattr(kernel_module(), "PROGRAMS", programs)
    height, width = image_size
    a = torch.tensor([[-3.0, -2, width + 9, height + 7], [width - 1.5, height - 1.5, width, height]])
    assert_equal_to_torch(probs(2, 5, dtype=torch.float32), a, image_size)
    assert kernel(torch.ones(2, 5, 5), a, image_size, -1.0)[0].all()


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_pixels_outside_of_the_boxes_are_0(threshold, poison):
    a = torch.tensor([[2.0, 3, 5, 6], [90, 3, 95, 5], [5, 5, 2, 2], [5, 2, 2, 5]])
    out = kernel(torch.ones(4, 4, 4), a, (20, 21), threshold)
    # The box grows by 0.75 pixels on each side: rows 2..6 and columns 1..5.
    inside = torch.zeros(20, 21, dtype=torch.bool)
    inside[2:7, 1:6] = True
    assert out[0, 3:6, 2:5].all() and not out[0][~inside].any() and not out[1:].any()


def test_equal_to_the_threshold_is_background():
    a = torch.tensor([[0.0, 0, 8, 8]])
    half = torch.full((1, 2, 2), 0.5)
    assert not kernel(half, a, (9, 9), 0.5).any() and kernel(half, a, (9, 9), 0.49).any()


@pytest.mark.parametrize("n, image_size", [(0, (5, 6)), (2, (0, 6)), (2, (5, 0))])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_nothing_to_paste(n, image_size, threshold):
    out = kernel(torch.zeros(n, 3, 3), torch.zeros(n, 4), image_size, threshold)
    assert out.shape == (n, *image_size) and out.dtype == (torch.float32 if threshold is None else torch.bool)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    masks, a = probs(3, 5).to(dtype), torch.tensor([[1.0, 1, 17, 18]]).repeat(3, 1)
    out = kernel(masks, a, (20, 20))
    assert out.dtype == dtype
    exact = ops.paste_masks(masks.double(), a.double(), (20, 20), None)
    assert_close(out, exact)
    clear = (exact - 0.5).abs() > 1e-5
    assert torch.equal(kernel(masks, a, (20, 20), 0.5)[clear], (exact > 0.5)[clear])
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert torch.equal(kernel(masks, a, (20, 20)), out)


def test_strided_inputs():
    a = torch.tensor([[1.0, 2, 15, 9], [3, 3, 8, 20]])
    masks = probs(2, 10, dtype=torch.float32)
    for these, those in [
        (masks.mT, a),
        (masks[:, ::2, 1::2], a),
        (masks[:1].expand(2, -1, -1), a[1:].expand(2, -1)),
        (masks, torch.stack([a, a + 1], 2)[..., 0]),
        (masks, torch.cat([a[:, :1], a], 1)[:, 1:]),
    ]:
        assert not (these.is_contiguous() and those.is_contiguous())
        assert_equal_to_torch(these, those, (22, 23))


def test_pixels_beyond_2_to_the_31_are_where_they_belong(monkeypatch):
    # 2 · 33000² > 2**31 bytes, of which only the touched pages exist.
    if DEVICE.type == "cpu":
        monkeypatch.setattr(torch, "zeros", lambda *shape, **_: torch.from_numpy(np.zeros(shape, dtype=bool)))
    monkeypatch.setattr(kernel_module(), "PROGRAMS", 4)
    side = 33000
    a = torch.tensor([[0.0, 0, 3, 3], [side - 6, side - 5, side - 3, side - 3]], device=DEVICE)
    out = ops.paste_masks(torch.ones(2, 2, 2, device=DEVICE), a, (side, side), -1.0, backend="triton")
    # Grown twofold, then cut: columns side - 8 to side - 2, rows side - 6 to side - 2.
    expected = torch.ones(9, 9, dtype=torch.bool)
    expected[:3], expected[:, :1], expected[-1], expected[:, -1] = False, False, False, False
    assert torch.equal(out[1, -9:, -9:].cpu(), expected)


def test_it_has_no_gradient():
    masks = torch.rand(1, 3, 3, device=DEVICE, requires_grad=True)
    a = torch.tensor([[1.0, 1, 7, 8]], device=DEVICE, requires_grad=True)
    assert not ops.paste_masks(masks, a, (9, 9), None, backend="triton").requires_grad


def test_run_lengths_need_no_cpu_tensors():
    a, masks = torch.tensor([[1.0, 2, 15, 9], [3, 3, 8, 20]], device=DEVICE), probs(2, 5).float().to(DEVICE)
    for rle, mask in zip(ops.paste_masks_rle(masks, a, (22, 23)), ops.paste_masks(masks, a, (22, 23)).cpu()):
        assert torch.equal(decoded(rle), mask)


@pytest.mark.parametrize(
    "masks_dtype, boxes_dtype", [(torch.float64, torch.float32), (torch.float32, torch.float64)]
)
def test_float64_is_refused_by_the_kernel_and_left_to_torch(masks_dtype, boxes_dtype):
    masks = torch.rand(1, 3, 3, device=DEVICE, dtype=masks_dtype)
    a = torch.tensor([[1.0, 1, 7, 8]], device=DEVICE, dtype=boxes_dtype)
    with pytest.raises(TypeError, match=f"masks {masks_dtype}, boxes {boxes_dtype}: expected"):
        ops.paste_masks(masks, a, (9, 9), backend="triton")
    assert torch.equal(ops.paste_masks(masks, a, (9, 9)), ops.paste_masks(masks, a, (9, 9), backend="torch"))


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("n", [0, 2])
def test_the_registration_is_complete(n, threshold):
    masks, a = probs(n, 3, dtype=torch.float32), torch.tensor([[1.0, 1, 7, 8], [-2, 3, 5, 6]])[:n]
    torch.library.opcheck(kernel_module().paste_masks, (masks.to(DEVICE), a.to(DEVICE), 9, 10, threshold))


@pytest.mark.unhooked
def test_it_compiles_as_one_graph():
    masks, a = (
        probs(2, 3, dtype=torch.float32).to(DEVICE),
        torch.tensor([[1.0, 1, 7, 8], [-2, 3, 5, 6]]).to(DEVICE),
    )

    def paste(masks: Tensor, a: Tensor) -> Tensor:
        return ops.paste_masks(masks * 0.5, a, (9, 10), None, backend="triton") + 1

    compiled = torch.compile(paste, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(masks, a), paste(masks, a))


@pytest.mark.skipif(DEVICE.type != "cuda", reason="the CPU has nothing to synchronise with")
def test_no_host_sync():
    masks, a = torch.rand(3, 5, 5, device=DEVICE), torch.rand(3, 4, device=DEVICE) * 30
    ops.paste_masks(masks, a, (40, 50))
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.paste_masks(masks, a, (40, 50))
        ops.paste_masks(masks, a, (40, 50), None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_parity_with_torchvision():
    peer = torchvision().models.detection.roi_heads.paste_masks_in_image
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(20, 28, 28, generator=random)
    # Each box has a pixel in the picture: torchvision raises where one has none.
    corner = torch.rand(20, 2, generator=random) * 90
    side = 2 ** (8 * torch.rand(20, 2, generator=random)) - 1
    a = torch.cat([corner - 0.3 * side, corner + side], 1)
    assert_close(kernel(masks, a, (90, 110)), peer(masks[:, None], a, (90, 110))[:, 0])


@pytest.mark.slow
@given(boxes(max_count=3, min_count=1), st.sampled_from([1, 3, 28]), image_sizes, st.integers(0, 99))
@settings(max_examples=3000)
def test_a_sweep_against_torchvision(a, m, image_size, seed):
    peer = torchvision().models.detection.roi_heads.paste_masks_in_image
    masks = probs(len(a), m, seed, torch.float32)
    # torchvision raises for a box without a pixel in the picture.
    seen = ops.paste_masks(torch.ones_like(masks), a, image_size, -1.0, backend="torch").flatten(1).any(1)
    if not seen.any():
        return
    expected = peer(masks[seen][:, None], a[seen], image_size)[:, 0]
    assert_close(ops.paste_masks(masks[seen], a[seen], image_size, None, backend="torch"), expected)
    assert_close(kernel(masks[seen], a[seen], image_size), expected)


@pytest.mark.aot
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_compiles_ahead_of_time_without_spills(dtype, threshold, target):
    from minimaskrcnn_kernels import aot
    from minimaskrcnn_kernels.report import pasting

    (launch,) = pasting(target, dtype, threshold)
    found = aot.resources(aot.compile_launch(launch, target))
    # 65536 registers hold 8 such programs of 128 lanes.
    assert found.spills == 0 and found.shared == 0 and found.registers <= 64
    # Neighbouring lanes write neighbouring pixels; a box may begin at any, so none can be written together.
    assert set(found.stores) == {1 if threshold is not None else dtype.itemsize}
