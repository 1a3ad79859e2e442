"""NMS: index-equal to its definition on every path, and what must hold of any correct one."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import need
from parity import torchvision
from strategies import boxes, integers, padded_candidates, scores

from minimaskrcnn import ops
from minimaskrcnn.ops import nms_by_pairs, reference
from minimaskrcnn.ops.nms import _keep_by_blocks, _keep_in_torch, _rounded_down

thresholds = st.sampled_from([0.0, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.0])
# The ways that a CPU tensor can go: by pairs in small blocks, and by blocks because too many pairs hit.
paths = st.sampled_from(["pairs", "blocks"])


def path(name):
    """Force one of the two algorithms, with blocks of 3 so that small inputs cross their borders."""
    if name == "pairs":
        return patch.object(nms_by_pairs, "BLOCK", 3)
    return patch.multiple("minimaskrcnn.ops.nms", BLOCK=3, keep_by_pairs=lambda *_: None)


@st.composite
def candidates(draw, dtype=torch.float32):
    a = draw(boxes(max_count=16, dtype=dtype))
    return a, draw(scores(len(a))), draw(integers(len(a), 2))


@given(candidates(), thresholds, paths)
def test_nms_is_its_definition(rows, threshold, way):
    a, score, group = rows
    with path(way):
        assert torch.equal(ops.nms(a, score, threshold), reference.nms(a, score, threshold))
        expected = reference.nms(a, score, threshold, group)
        assert torch.equal(ops.batched_nms(a, score, group, threshold), expected)


@given(candidates(torch.float64), thresholds, paths)
def test_float64_boxes_are_compared_in_float64(rows, threshold, way):
    a, score, _ = rows
    with path(way):
        assert torch.equal(ops.nms(a, score, threshold), reference.nms(a, score, threshold))


@pytest.mark.parametrize("way", ["pairs", "blocks"])
@pytest.mark.parametrize("seed", range(4))
def test_real_sized_inputs(seed, way):
    random = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(300, 2, generator=random) * 60, torch.rand(300, 2, generator=random) * 40
    a, score = torch.cat([corner, corner + size], 1), torch.rand(300, generator=random)
    group = torch.randint(-2, 3, (300,), generator=random)
    with patch("minimaskrcnn.ops.nms.keep_by_pairs", lambda *_: None) if way == "blocks" else patch("os.sep"):
        for threshold in (0.1, 0.3, 0.5):
            expected = reference.nms(a, score, threshold, group)
            assert 5 < len(expected) < 300
            assert torch.equal(ops.batched_nms(a, score, group, threshold), expected)


@given(candidates(), thresholds)
def test_what_must_hold_of_any_nms(rows, threshold):
    a, score, _ = rows
    keep = ops.nms(a, score, threshold)
    assert (score[keep].diff() <= 0).all()
    iou = ops.box_iou(a[keep], a[keep]).nan_to_num(0).fill_diagonal_(0)
    assert (iou <= threshold).all()
    again = ops.nms(a[keep], score[keep], threshold)
    assert torch.equal(again, torch.arange(len(keep)))


@given(boxes(max_count=12, min_count=1), thresholds, st.randoms(use_true_random=False))
def test_the_order_of_distinct_scores_does_not_matter(a, threshold, random):
    order = list(range(len(a)))
    random.shuffle(order)
    order = torch.tensor(order)
    score = torch.arange(len(a)) / 16
    kept = ops.nms(a, score, threshold)
    assert torch.equal(order[ops.nms(a[order], score[order], threshold)], kept)


@pytest.mark.parametrize("way", ["pairs", "blocks"])
def test_an_iou_of_exactly_the_threshold_is_kept(way):
    # 3 × 1 boxes one apart: IoU = 2 / (3 + 3 - 2) = 0.5 exactly.
    a, score = torch.tensor([[0.0, 0, 3, 1], [1, 0, 4, 1]]), torch.tensor([0.9, 0.8])
    below = torch.tensor(0.5, dtype=torch.float64).nextafter(torch.tensor(0.0, dtype=torch.float64)).item()
    with path(way):
        assert ops.nms(a, score, 0.5).tolist() == [0, 1]
        assert ops.nms(a, score, below).tolist() == [0]


@pytest.mark.parametrize("way", ["pairs", "blocks"])
def test_the_threshold_is_compared_in_double(way):
    # IoU = 3 / 10, in float32 a little above the double 0.3, so above it: not "equal" as after rounding 0.3.
    a, score = torch.tensor([[0.0, 0, 10, 1], [7, 0, 10, 1]]), torch.tensor([0.9, 0.8])
    assert ops.box_iou(a, a)[0, 1].double().item() > 0.3
    with path(way):
        assert ops.nms(a, score, 0.3).tolist() == [0]


@given(st.floats(0, 1))
def test_rounding_the_threshold_down_changes_no_comparison(threshold):
    down = torch.tensor(_rounded_down(threshold, torch.float32), dtype=torch.float64)
    assert down.float().double() == down
    assert down <= threshold < down.float().nextafter(torch.tensor(2.0)).double()


def test_ties_go_to_the_lower_index():
    a = torch.tensor([[0.0, 0, 4, 4]] * 3 + [[9, 9, 10, 10]])
    assert ops.nms(a, torch.ones(4), 0.5).tolist() == [0, 3]


@pytest.mark.parametrize("way", ["pairs", "blocks"])
def test_boxes_without_area_or_not_finite_hit_nothing(way):
    nan, inf = float("nan"), float("inf")
    rows = [[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 9], [5, 5, 2, 2], [nan, 0, 1, 1], [-inf, 0, inf, 1]]
    a = torch.tensor([*rows, [0, 0, 2, 2], [0, 0, 2, 2]])
    with path(way):
        assert ops.nms(a, torch.ones(8), 0.0).tolist() == list(range(7))


def test_groups_far_apart_in_number_and_boxes_far_apart_in_place():
    # An offset by group would be 2^60 pixels here, where nothing is left of a coordinate.
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4.1], [0, 0, 4, 4]])
    group, score = torch.tensor([2**60, 2**60, -(2**60)]), torch.tensor([0.9, 0.8, 0.7])
    assert ops.batched_nms(a, score, group, 0.5).tolist() == [0, 2]
    far = torch.tensor([[1e6, 0, 1e6 + 4, 4], [1e6, 0, 1e6 + 4, 4], [-1e30, 0, 1e30, 4], [0, 0, 4, 4]])
    assert ops.nms(far, torch.ones(4), 0.5).tolist() == [0, 2, 3]


def test_a_chain_of_4000_and_a_heap_of_4000():
    # Each box of the chain overlaps the next by half: every second one is kept.
    left = 2.0 * torch.arange(4000)
    chain = torch.stack([left, torch.zeros(4000), left + 4, torch.ones(4000)], 1)
    score = torch.arange(4000.0).flip(0)
    assert torch.equal(ops.nms(chain, score, 0.3), torch.arange(0, 4000, 2))
    # All 8 million pairs of the heap hit: more than are listed.
    assert ops.nms(chain[:1].expand(4000, 4), score, 0.3).tolist() == [0]


def test_a_long_chain_by_blocks():
    left = 2.0 * torch.arange(700)
    chain = torch.stack([left, torch.zeros(700), left + 4, torch.ones(700)], 1)[None]
    kept = _keep_by_blocks(chain, torch.zeros(1, 700, dtype=torch.int64), torch.ones(1, 700) > 0, 0.3)
    assert torch.equal(kept[0], torch.arange(700) % 2 == 0)


def test_too_many_hits_fall_back_to_blocks():
    a, score = torch.rand(40, 4).cumsum(1), torch.rand(40)
    expected = reference.nms(a, score, 0.2)
    with patch.object(nms_by_pairs, "MAX_HITS", 3):
        assert torch.equal(ops.nms(a, score, 0.2), expected)


@given(padded_candidates(), thresholds, st.integers(0, 11), st.booleans(), paths)
def test_padded_nms_is_nms_of_the_valid_rows_of_each_image(rows, threshold, max_keep, grouped, way):
    a, score, group, valid = rows
    args = a, score, group if grouped else None, valid, threshold, max_keep
    with path(way):
        index, kept = ops.nms_padded(*args)
    expected_index, expected_kept = reference.nms_padded(*args)
    assert torch.equal(index, expected_index)
    assert torch.equal(kept, expected_kept)


def test_the_definition_of_padded_nms_by_hand():
    a = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 10, 10]]]).repeat(2, 1, 1)
    score = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    group = torch.tensor([[5, 5, 6, 5]] * 2)
    valid = torch.tensor([[True] * 4, [True, True, False, True]])
    for nms_padded in (reference.nms_padded, ops.nms_padded):
        index, kept = nms_padded(a, score, group, valid, 0.5, 3)
        assert index.tolist() == [[0, 2, 3], [3, 1, 0]]
        assert kept.tolist() == [[True, True, True], [True, True, False]]
        index, kept = nms_padded(a, score, None, valid, 0.5, 3)
        assert index.tolist() == [[0, 3, 0], [3, 1, 0]]
        assert kept.tolist() == [[True, True, False]] * 2


def test_boxes_that_require_a_gradient_and_are_not_contiguous():
    a = torch.rand(4, 8).cumsum(0).T.requires_grad_()
    score = torch.rand(16)[::2].requires_grad_()
    expected = reference.nms(a.detach().contiguous(), score.detach(), 0.2)
    assert torch.equal(ops.nms(a, score, 0.2), expected)


@pytest.mark.unhooked
def test_errors_show_the_shapes_and_the_threshold():
    a, score = torch.zeros(1, 3, 4), torch.zeros(1, 3)
    group, valid = torch.zeros(1, 3, dtype=torch.int64), score > 0
    with pytest.raises(ValueError, match=r"\(1, 3, 4\), \(1, 2\)"):
        ops.nms_padded(a, score[:, :2], group, valid, 0.5, 3)
    with pytest.raises(ValueError, match=r"\(1, 3, 4\), \(1, 3\), \(1, 3\), \(3,\)"):
        ops.nms_padded(a, score, group, valid[0], 0.5, 3)
    for threshold in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"iou_threshold {threshold}"):
            ops.nms(a[0], score[0], threshold)
    with pytest.raises(ValueError, match="max_keep -1: expected at least 0"):
        ops.nms_padded(a, score, group, valid, 0.5, -1)
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]: expected one device"):
        ops.nms_padded(a, score, group.to("meta"), valid, 0.5, 3)


@pytest.mark.unhooked
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_errors_show_the_dtypes(backend):
    need("triton")
    a, score = torch.zeros(1, 3, 4), torch.zeros(1, 3)
    group, valid = torch.zeros(1, 3, dtype=torch.int64), score > 0
    for args in [
        (a.long(), score, group, valid),
        (a, score.bool(), group, valid),
        (a, score, group.float(), valid),
        (a, score, group, valid.long()),
    ]:
        kinds = ", ".join(str(t.dtype) for t in args)
        with pytest.raises(
            TypeError, match=f"boxes, scores, groups, valid {kinds}: expected floating point boxes"
        ):
            ops.nms_padded(*args, 0.5, 3, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_boxes_are_compared_in_float32(dtype):
    # 3 × 1 boxes one apart, and some of 2^10 and more cells, whose areas half precision does not have.
    a = torch.tensor([[0.0, 0, 3, 1], [1, 0, 4, 1], [0, 0, 1024, 1024], [8, 8, 1024, 1024]]).to(dtype)
    score = torch.tensor([0.9, 0.8, 0.7, 0.6]).to(dtype)
    assert ops.nms(a, score, 0.5).tolist() == [0, 1, 2]
    assert ops.nms(a, score, 0.4).tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_groups_of_any_integer_type(dtype):
    a = torch.tensor([[0.0, 0, 4, 4]] * 3)
    assert ops.batched_nms(a, torch.ones(3), torch.tensor([1, 2, 1], dtype=dtype), 0.5).tolist() == [0, 1]


@pytest.mark.unhooked
def test_compiles_into_one_graph():
    random = torch.Generator().manual_seed(0)
    a = torch.rand(2, 50, 4, generator=random).cumsum(-1)
    score, group = torch.rand(2, 50, generator=random), torch.randint(0, 2, (2, 50), generator=random)

    def call(a, score, group):
        index, kept = ops.nms_padded(a * 2, score, group, score > 0.1, 0.3, 20)
        return index + 1, kept

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(a, score, group)
    for ours, eager in zip(compiled, call(a, score, group)):
        assert torch.equal(ours, eager)


@pytest.mark.unhooked
def test_opcheck():
    group, alive = torch.zeros(2, 6, dtype=torch.int64), torch.rand(2, 6) > 0.2
    torch.library.opcheck(_keep_in_torch, (torch.rand(2, 6, 4).cumsum(-1), group, alive, 0.5))


@st.composite
def ranked(draw):
    """Candidates with distinct scores, since torchvision's sort is not stable, and a threshold."""
    a, _, group = draw(candidates())
    order = draw(st.permutations(range(len(a))))
    return a, torch.tensor(order, dtype=torch.float32) / 16, group, draw(thresholds)


def of_torchvision(a, score, group, threshold):
    """What torchvision keeps of all boxes, and within groups: one by one, since its batched_nms rounds."""
    peer = torchvision().ops
    each = [
        (rows := (group == k).nonzero()[:, 0])[peer.nms(a[rows], score[rows], threshold)] for k in range(3)
    ]
    grouped = torch.cat(each)
    return peer.nms(a, score, threshold), grouped[score[grouped].argsort(descending=True)]


@pytest.mark.slow
@settings(max_examples=3000)
@given(ranked(), paths)
def test_the_list_of_pairs_against_torchvision(case, way):
    a, score, group, threshold = case
    kept, grouped = of_torchvision(*case)
    with path(way):
        assert torch.equal(ops.nms(a, score, threshold), kept)
        assert torch.equal(ops.batched_nms(a, score, group, threshold), grouped)


@pytest.mark.parametrize("seed", range(6))
def test_parity_with_torchvision(seed):
    peer = torchvision().ops
    random = torch.Generator().manual_seed(seed)
    a = torch.rand(400, 4, generator=random) * torch.tensor([100.0, 100, 50, 50])
    a[:, 2:] += a[:, :2]
    # torchvision's sort is not stable: distinct scores.
    score = torch.randperm(400, generator=random) / 400
    group = torch.randint(0, 5, (400,), generator=random)
    for threshold in (0.1, 0.3, 0.5, 0.7):
        assert torch.equal(ops.nms(a, score, threshold), peer.nms(a, score, threshold))
        assert torch.equal(
            ops.nms(a.double(), score, threshold), peer.nms(a.double(), score.double(), threshold)
        )
        expected = torch.cat([(g := (group == k).nonzero()[:, 0])[peer.nms(a[g], score[g], threshold)]
                              for k in range(5)])  # fmt: skip
        expected = expected[score[expected].argsort(descending=True)]
        assert torch.equal(ops.batched_nms(a, score, group, threshold), expected)
