"""NMS in Triton: index-equal to the definition, on a GPU or under the interpreter, and rounded as compiled."""

import re
from unittest.mock import patch

import numpy as np
import pytest
import torch
from devices import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import need_kernels
from parity import torchvision
from strategies import padded_candidates
from test_ops_nms import of_torchvision, ranked

from minimaskrcnn import ops
from minimaskrcnn.ops import reference

need_kernels()

from minimaskrcnn_kernels import aot
from minimaskrcnn_kernels.nms import MAX_ROWS, TILE, nms_keep
from minimaskrcnn_kernels.report import suppression

thresholds = st.sampled_from([0.0, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.0])


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_poisoned(request):
    """Fresh memory is full of ones: bits of hits that no program wrote, rows that would count as kept."""
    if "aot" in request.keywords:
        yield
        return
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def by_kernels(function, *args, **named):
    """The operation's result on the CPU, computed by the kernels on DEVICE, never by torch in their place."""
    args = [arg.to(DEVICE) if isinstance(arg, torch.Tensor) else arg for arg in args]
    # The interpreter is NumPy, which warns of 0 / 0 and of overflow; both are meant, as on a GPU.
    quiet = np.errstate(invalid="ignore", over="ignore")
    with (
        quiet,
        patch("minimaskrcnn.ops.nms._keep_in_torch", side_effect=AssertionError("the torch path ran")),
    ):
        out = function(*args, **named, backend="triton")
    return [o.cpu() for o in out] if isinstance(out, tuple) else out.cpu()


def crowd(lengths, seed=0):
    """Crowded boxes of groups of these lengths, shuffled, with scores that tie now and then."""
    random, count = torch.Generator().manual_seed(seed), sum(lengths)
    corner, size = torch.rand(count, 2, generator=random) * 60, torch.rand(count, 2, generator=random) * 40
    group = torch.tensor([g * 7 - 9 for g, length in enumerate(lengths) for _ in range(length)])
    score = torch.randint(0, count, (count,), generator=random) / count
    return torch.cat([corner, corner + size], 1), score, group[torch.randperm(count, generator=random)]


def chain(count):
    """Boxes by descending score, each overlapping the next: every second one is kept, and each waits for the last."""
    left = 2.0 * torch.arange(count)
    return torch.stack([left, torch.zeros(count), left + 4, torch.ones(count)], 1), -left


@settings(max_examples=25)
@given(padded_candidates(), thresholds, st.integers(0, 11), st.booleans())
def test_the_kernels_are_the_definition(rows, threshold, max_keep, grouped):
    a, score, group, valid = rows
    args = a, score, group if grouped else None, valid, threshold, max_keep
    for ours, expected in zip(by_kernels(ops.nms_padded, *args), reference.nms_padded(*args)):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129])
def test_one_group_that_ends_at_the_border_of_a_tile(count):
    a, score, _ = crowd([count])
    expected = reference.nms(a, score, 0.3)
    assert count == 1 or 5 < len(expected) < count
    assert torch.equal(by_kernels(ops.nms, a, score, 0.3), expected)


@pytest.mark.parametrize(
    "lengths",
    [
        [64, 64],
        [63, 66],
        [63, 1, 65],
        [1, 63, 2],
        [10, 20, 5, 29],
        [5, 150, 4],
        [130, 62, 3],
        [1] * 70,
        [30, 50, 50, 65],
    ],
    ids=str,
)
def test_groups_that_begin_and_end_anywhere_in_tiles(lengths):
    a, score, group = crowd(lengths)
    expected = reference.nms(a, score, 0.2, group)
    assert torch.equal(by_kernels(ops.batched_nms, a, score, group, 0.2), expected)


def test_images_of_a_batch_have_their_own_groups_and_padding():
    a, score, group = (torch.stack(t) for t in zip(crowd([70, 40]), crowd([3, 100, 7], 1), crowd([110], 2)))
    valid = torch.rand(3, 110, generator=torch.Generator().manual_seed(3)) > torch.tensor(
        [[0.1], [0.5], [1.0]]
    )
    args = a, score, group, valid, 0.2, 60
    for ours, expected in zip(by_kernels(ops.nms_padded, *args), reference.nms_padded(*args)):
        assert torch.equal(ours, expected)


def test_a_chain_through_three_tiles_where_each_box_waits_for_the_last():
    a, score = chain(2 * TILE + 9)
    assert torch.equal(by_kernels(ops.nms, a, score, 0.3), torch.arange(0, 2 * TILE + 9, 2))


def test_a_box_removed_by_one_two_tiles_earlier():
    a = torch.stack([torch.tensor([9.0 * i, 0, 9 * i + 4, 1]) for i in range(3 * TILE)])
    a[2 * TILE + 5] = a[7]
    kept = by_kernels(ops.nms, a, -torch.arange(3.0 * TILE), 0.5).tolist()
    assert kept == [i for i in range(3 * TILE) if i != 2 * TILE + 5]


def test_fewer_places_than_survivors():
    a, score, group = crowd([40, 30])
    valid = torch.ones(1, 70, dtype=torch.bool)
    index, kept = by_kernels(ops.nms_padded, a[None], score[None], group[None], valid, 0.3, 7)
    assert kept.all()
    assert torch.equal(index[0], reference.nms(a, score, 0.3, group)[:7])


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_no_images_or_no_boxes(shape):
    score = torch.zeros(shape)
    args = torch.zeros(*shape, 4), score, score.long(), score > 0, 0.5, 2
    index, kept = by_kernels(ops.nms_padded, *args)
    assert index.tolist() == [[0, 0]] * shape[0]
    assert kept.tolist() == [[False, False]] * shape[0]


def test_the_comparison_is_exact_at_the_threshold():
    # 3 × 1 boxes one apart: IoU = 2 / (3 + 3 - 2) = 0.5.  And 3 / 10, which in float32 is above the double 0.3.
    half, tenths = (
        torch.tensor([[0.0, 0, 3, 1], [1, 0, 4, 1]]),
        torch.tensor([[0.0, 0, 10, 1], [7, 0, 10, 1]]),
    )
    score = torch.tensor([0.9, 0.8])
    assert by_kernels(ops.nms, half, score, 0.5).tolist() == [0, 1]
    assert by_kernels(ops.nms, half, score, 0.5 - 2**-54).tolist() == [0]
    assert by_kernels(ops.nms, tenths, score, 0.3).tolist() == [0]


def test_each_operation_is_rounded_once():
    # IoUs within one unit in the last place of the threshold, which a fused or an approximate operation would move.
    random = torch.Generator().manual_seed(0)
    size = torch.rand(12, 2, 2, generator=random) * 9 + 3
    pairs = torch.cat([torch.rand(12, 2, 2, generator=random), size], 2)
    score = torch.tensor([0.9, 0.8])
    for pair in pairs:
        at = reference._nms_iou(*pair.numpy())
        assert by_kernels(ops.nms, pair, score, at).tolist() == [0, 1]
        assert by_kernels(ops.nms, pair, score, at * (1 - 2**-40)).tolist() == [0]


def test_areas_below_the_smallest_normal_number_are_not_flushed_to_zero():
    side = 2.0**-70
    a = torch.tensor([[0.0, 0, side, side]] * 2 + [[0, 0, side, side / 4]])
    assert by_kernels(ops.nms, a, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def test_boxes_without_area_or_not_finite_hit_nothing():
    nan, inf = float("nan"), float("inf")
    rows = [[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 9], [5, 5, 2, 2], [nan, 0, 1, 1], [-inf, 0, inf, 1]]
    a = torch.tensor([*rows, [0, 0, 2, 2], [0, 0, 2, 2], [-1e30, -1e30, 1e30, 1e30]])
    assert by_kernels(ops.nms, a, torch.ones(9), 0.0).tolist() == [*range(7), 8]


def test_groups_are_compared_as_64_bits():
    a = torch.tensor([[0.0, 0, 4, 4]] * 4)
    group = torch.tensor([2**60, 2**60 + 2**32, -(2**60), 2**60])
    assert by_kernels(ops.batched_nms, a, torch.ones(4), group, 0.5).tolist() == [0, 1, 2]


def test_boxes_that_require_a_gradient_and_are_not_contiguous():
    a, score, group = (t.to(DEVICE) for t in crowd([20, 10]))
    flipped = a.flip(0).T.contiguous().T.flip(0).requires_grad_()
    assert not flipped.is_contiguous()
    kept = ops.batched_nms(flipped, score.requires_grad_(), group, 0.3, backend="triton")
    assert torch.equal(kept.cpu(), reference.nms(a, score.detach(), 0.3, group))
    assert not nms_keep(flipped[None], group.sort()[0][None], group[None] < 99, 0.3).requires_grad


def test_what_the_kernels_do_not_take_runs_in_torch():
    a, score, group = (t.to(DEVICE) for t in crowd([9, 6]))
    expected = reference.nms(a, score, 0.3, group)
    with patch("minimaskrcnn_kernels.nms.nms_keep", side_effect=AssertionError("the kernels ran")):
        kept = ops.batched_nms(a.double(), score, group, 0.3, backend="triton").cpu()
        assert torch.equal(kept, reference.nms(a.double(), score, 0.3, group))
        with patch("minimaskrcnn_kernels.nms.MAX_ROWS", 14):
            assert torch.equal(ops.batched_nms(a, score, group, 0.3, backend="triton").cpu(), expected)
        with pytest.raises(AssertionError, match="the kernels ran"):
            ops.batched_nms(a, score, group, 0.3, backend="triton")


def test_the_operation_refuses_what_its_kernels_would_misread():
    a, group = torch.zeros(1, 3, 4, device=DEVICE), torch.zeros(1, 3, dtype=torch.int64, device=DEVICE)
    alive = group == 0
    for args in [(a.double(), group, alive), (a[:, :2], group, alive), (a, group[0], alive)]:
        with pytest.raises(ValueError, match=r"alive \(1, [23], 4\) \S+, \(.*3,?\) \S+, \(1, 3\) "):
            nms_keep(*args, 0.5)
    with patch("minimaskrcnn_kernels.nms.MAX_ROWS", 2), pytest.raises(ValueError, match="N at most 2"):
        nms_keep(a, group, alive, 0.5)


def test_opcheck():
    a, score, group = crowd([5, 4])
    args = [t[None].to(DEVICE) for t in (a, group.sort()[0], score > 0.2)]
    torch.library.opcheck(nms_keep, (*args, 0.3))


@pytest.mark.unhooked
def test_compiles_into_one_graph():
    a, score, group = (t[None].to(DEVICE) for t in crowd([20, 30]))

    def call(a, score, group):
        index, kept = ops.nms_padded(a * 2, score, group, score > 0.1, 0.3, 12, backend="triton")
        return index + 1, kept

    torch.use_deterministic_algorithms(False)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(a, score, group)
    for ours, eager in zip(compiled, call(a, score, group)):
        assert torch.equal(ours, eager)


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_parity_with_torchvision(threshold):
    peer = torchvision().ops
    a, _, group = crowd([90, 50])
    # torchvision's sort is not stable: distinct scores.
    score = torch.randperm(140, generator=torch.Generator().manual_seed(1)) / 140
    assert torch.equal(by_kernels(ops.nms, a, score, threshold), peer.nms(a, score, threshold))
    ours = by_kernels(ops.batched_nms, a, score, group, threshold)
    assert torch.equal(ours, peer.batched_nms(a, score, group, threshold))


@pytest.mark.slow
@settings(max_examples=3000)
@given(ranked())
def test_a_sweep_against_torchvision(case):
    a, score, group, threshold = case
    kept, grouped = of_torchvision(*case)
    assert torch.equal(by_kernels(ops.nms, a, score, threshold), kept)
    assert torch.equal(by_kernels(ops.batched_nms, a, score, group, threshold), grouped)


@pytest.mark.aot
@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("count", [50, 1000, 5000, 10_001, 20_000, 40_000, MAX_ROWS])
def test_compiles_for_every_target_without_a_spill(count, target):
    found = suppression(target, count)
    assert [launch.kernel.__name__ for launch in found] == ["_hits_kernel", "_walk_kernel"]
    for launch in found:
        compiled = aot.compile_launch(launch, target)
        used = aot.resources(compiled)
        # On AMD some masks are parked in lanes of a vector register, which is no access to memory.
        scratch = re.search(r"\.private_segment_fixed_size: (\d+)", compiled.asm.get("amdgcn", ""))
        assert (int(scratch[1]) if scratch else used.spills) == 0
        assert sum(used.stores.values()) == 1 and not used.atomics


@pytest.mark.aot
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_nvidia_rounds_each_operation_once_and_flushes_nothing(target):
    # Without ".rn" the assembler may fuse; ".ftz" flushes denormals; ".approx" and ".full" are not IEEE division.
    text = aot.compile_launch(suppression(target)[0], target).asm["ptx"]
    used = set(re.findall(r"\b(?:[a-z]\w*\.)+f32\b", text)) - {"reg.f32", "param.f32"}
    assert used == {
        "add.rn.f32",
        "sub.rn.f32",
        "mul.rn.f32",
        "div.rn.f32",
        "min.f32",
        "max.f32",
        "setp.gt.f32",
    }


@pytest.mark.aot
def test_amd_rounds_each_operation_once_and_flushes_nothing():
    compiled = aot.compile_launch(suppression("gfx942")[0], "gfx942")
    # The intermediate text: no flag allows a fusion or an approximation, and nothing is fused already.
    operations = set(re.findall(r"= (f(?:add|sub|mul|div)(?: \w+)*?) (?:<|float)", compiled.asm["llir"]))
    assert operations == {"fadd", "fsub", "fmul", "fdiv"}
    assert not re.search(r"@llvm\.\w*(fma|fmuladd|rcp|div)", compiled.asm["llir"])
    assert '"denormal-fp-math-f32"="ieee"' in compiled.asm["llir"]
    # The assembly: five multiply-adds in each expansion of an IEEE division, and no other.
    text = compiled.asm["amdgcn"]
    divisions = len(re.findall(r"\bv_div_fixup_f32", text))
    assert divisions > 0
    assert len(re.findall(r"\bv_(?:pk_)?(?:fma|fmac|mad|mac)\w*_f32", text)) == 5 * divisions
    assert "FloatMode: 240" in text


@pytest.mark.aot
def test_products_of_sizes_are_64_bits():
    for launch in suppression("sm_90"):
        text = aot.compile_launch(launch, "sm_90").asm["ttir"]
        products = re.findall(r"arith\.muli (%\w+), (%\w+) : (\S+)", text)
        assert any("64" in kind for *_, kind in products)
        for left, right, kind in products:
            # 32 bits only times a constant: 64 times the number of a tile, at most 2**17.
            assert "i64" in kind or re.match(r"%c(64_|st)", right) or re.match(r"%c(64_|st)", left)
