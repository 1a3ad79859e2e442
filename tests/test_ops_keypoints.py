"""Decoding of heat maps: the definition, torchvision's places, whatever the chunk; ties, and what rounding can do."""

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import assert_close, torchvision
from strategies import boxes
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minimaskrcnn.ops import keypoints as op
from minimaskrcnn.ops import reference_keypoints as reference
from minimaskrcnn.ops.keypoints import decode_keypoints

chunks = st.sampled_from([1, 500, 2**20])


def heat_maps(rois: int, keypoints: int, m: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rois, keypoints, m, m, generator=random, dtype=torch.float64).to(dtype)


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Sides of 1 to 400 pixels, half of them short."""
    random = torch.Generator().manual_seed(seed)
    corner = 500 * torch.rand(count, 2, generator=random, dtype=torch.float64) - 100
    return torch.cat([corner, corner + 400 ** torch.rand(count, 2, generator=random).double()], 1).to(dtype)


def resized(plane: Tensor, box: Tensor) -> Tensor:
    width, height = (math.ceil(max(side, 1)) for side in (box[2:] - box[:2]).tolist())
    return F.interpolate(plane[None, None], (height, width), mode="bicubic", align_corners=False)[0, 0]


def value_at(plane: Tensor, box: Tensor, point: Tensor) -> float:
    """Of a map resized to its box, at the pixel whose centre is `point`."""
    image = resized(plane.double(), box)
    x, y = ((point[:2] - box[:2]) / (box[2:] - box[:2]) * torch.tensor(image.shape[::-1])).long()
    return image[y, x].item()


@given(
    boxes(max_count=4, dtype=torch.float64), st.integers(1, 5), st.integers(0, 10**6), chunks, st.booleans()
)
def test_decoding_is_its_definition(a, m, seed, chunk, share):
    a = a[((a[:, 2:] - a[:, :2]) < 15).all(1)]
    score = "softmax" if share else "logit"
    maps = heat_maps(len(a), 2, m, seed)
    expected, expected_scores = reference.decode_keypoints(maps, a, score)
    with patch.object(op, "CHUNK", chunk):
        found, scores = decode_keypoints(maps, a, score)
    assert_close(scores, expected_scores)
    # One cell is a constant map: rounding decides which pixel is the largest.
    if m > 1:
        assert_close(found, expected)


def test_decoding_by_hand():
    """Three pixels a cell; the cell above and to the right is 1.

    The corner's pixel is 4/3 of a cell from the cells that are 0, where the kernel is -1/9, so 10/9 are left for 1,
    along each axis.
    """
    maps = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]], dtype=torch.float64)
    box = torch.tensor([[10.0, 20.0, 16.0, 26.0]], dtype=torch.float64)
    found, score = decode_keypoints(maps, box)
    assert found.tolist() == [[[15.5, 20.5, 1.0]]]
    assert score.item() == pytest.approx(100 / 81)
    _, share = decode_keypoints(maps, box, "softmax")
    assert share.item() == pytest.approx(math.exp(100 / 81) / (math.e + 3))


def test_pixels_of_a_box_with_broken_sides_are_smaller_than_one():
    # 4.5 pixels are resized to 5, each 0.9 wide; the map's largest cell is the last.
    maps = torch.arange(9.0).view(1, 1, 3, 3)
    found, _ = decode_keypoints(maps, torch.tensor([[1.0, 2.0, 5.5, 4.0]]))
    assert torch.allclose(found[0, 0, :2], torch.tensor([1 + 4.5 * 0.9, 2 + 1.5]))


def test_a_box_without_area_is_one_pixel():
    maps, corner = heat_maps(3, 2, 4, 0), torch.tensor([7.0, 9.0]).double()
    ends = torch.tensor([[7.0, 9.0], [3.0, 5.0], [7.25, 9.0]]).double()
    found, scores = decode_keypoints(maps, torch.cat([corner.expand(3, 2), ends], 1))
    assert (found == torch.tensor([7.5, 9.5, 1.0])).all()
    for roi in range(3):
        for k in range(2):
            assert scores[roi, k].item() == pytest.approx(reference.bicubic(maps[roi, k].tolist(), 1.5, 1.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_pixels_the_first_is_found(dtype):
    maps = torch.zeros(1, 2, 6, 6, dtype=dtype)
    maps[0, 0, 2, 3] = 1
    found, _ = decode_keypoints(maps, torch.tensor([[0.0, 0.0, 12.0, 12.0]], dtype=dtype))
    # Two pixels a cell, so four pixels lie equally far from the centre of the cell; of the empty map all are equal.
    assert found[0].tolist() == [[6.5, 4.5, 1.0], [0.5, 0.5, 1.0]]


@pytest.mark.parametrize("side", [12, 36, 60])
def test_scores_that_differ_by_a_billionth_are_told_apart(side):
    maps = torch.zeros(1, 2, 12, 12, dtype=torch.float64)
    maps[0, :, 3, 4] = maps[0, :, 8, 7] = 1
    maps[0, 0, 3, 4] += 1e-9
    maps[0, 1, 8, 7] += 1e-9
    found, _ = decode_keypoints(maps, torch.tensor([[0.0, 0.0, side, side]], dtype=torch.float64))
    expected = torch.tensor([[4.5, 3.5], [7.5, 8.5]]).double() * side / 12
    assert_close(found[0, :, :2], expected)


def test_what_rounding_can_do_is_choose_among_near_ties():
    # The left half again on the right: a place and its copy are equal, up to what float32 rounds.
    maps = heat_maps(20, 5, 56, 0)[..., :28].repeat(1, 1, 1, 2).float()
    # Other weights at an inner than at an outer edge: the largest value is to be inside.
    maps[..., [0, 1, 2, 25, 26, 27, 28, 29, 30, 53, 54, 55]] = -3
    box = torch.tensor([[0.0, 0.0, 130.0, 170.0]]).expand(20, 4)
    found, scores = decode_keypoints(maps, box)
    best, best_scores = decode_keypoints(maps.double(), box.double())
    moved = (found - best).abs().amax(2) > 1e-3
    assert moved.any()
    for roi, k in moved.nonzero().tolist():
        loss = best_scores[roi, k].item() - value_at(maps[roi, k], box[roi], found[roi, k])
        # 16 units in the last place of a sum whose terms add up to about 8.
        assert loss < 16 * 2**-21
    assert (scores - best_scores).abs().max() < 16 * 2**-21


@given(st.integers(2, 60), st.integers(1, 130))
def test_resizing_is_torchs(m, size):
    found = op.resize_matrix(torch.tensor([size, 1]), size + 3, m, torch.float64)
    identity = torch.eye(m, dtype=torch.float64)[:, None, None]
    expected = F.interpolate(identity, (1, size), mode="bicubic", align_corners=False)[:, 0, 0].T
    torch.testing.assert_close(found[0, :size], expected, rtol=0, atol=1e-12)
    # Pixels beyond its own repeat the last.
    assert torch.equal(found[0, size:], found[0, size - 1].expand(3, m))
    assert torch.equal(found[1], found[1, :1].expand(size + 3, m))


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=40), st.integers(1, 17))
def test_chunks_hold_every_roi_once_within_the_bound(sizes, keypoints):
    seen = []
    with patch.object(op, "CHUNK", 10**5):
        for rois, width, height in op._chunks([[float(w), float(h)] for w, h in sizes], keypoints, 5):
            assert width == max(sizes[roi][0] for roi in rois)
            assert height == max(sizes[roi][1] for roi in rois)
            assert len(rois) == 1 or len(rois) * keypoints * max(width, 5) * max(height, 5) <= 10**5
            seen += rois
    assert sorted(seen) == list(range(len(sizes)))


class Largest(TorchDispatchMode):
    """Notes the most numbers in a result of any operation."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        parts = out if isinstance(out, (tuple, list)) else [out]
        self.numbers = max(self.numbers, *(part.numel() for part in parts if isinstance(part, Tensor)), 0)
        return out


@pytest.mark.parametrize("sides", [[(1000, 900)], [(1, 1)] * 300, [(300, 2), (5, 400), (60, 60)]])
def test_no_temporary_is_larger_than_a_chunk(sides):
    a = torch.tensor([(0, 0, *side) for side in sides]).double()
    maps = heat_maps(len(a), 2, 5, 0)
    with patch.object(op, "CHUNK", 10**4), Largest() as largest:
        found, _ = decode_keypoints(maps, a)
    assert largest.numbers <= max(10**4, maps.numel(), 2 * 5 * 1000)
    assert torch.equal(found, decode_keypoints(maps, a)[0])


@given(st.integers(0, 10**6), st.sampled_from([20_000, 2**20]))
def test_rois_do_not_depend_on_each_other(seed, chunk):
    maps, a = heat_maps(7, 3, 8, seed), random_boxes(7, seed)
    found, scores = decode_keypoints(maps, a)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    with patch.object(op, "CHUNK", chunk):
        permuted, permuted_scores = decode_keypoints(maps[order], a[order])
    assert_close(permuted, found[order])
    assert_close(permuted_scores, scores[order])


@given(st.integers(0, 10**6), st.integers(-300, 300), st.integers(-300, 300))
def test_a_moved_box_moves_its_keypoints(seed, dx, dy):
    maps, a = heat_maps(4, 3, 8, seed), (random_boxes(4, seed) * 64).round() / 64
    found, scores = decode_keypoints(maps, a)
    moved, moved_scores = decode_keypoints(maps, a + torch.tensor([dx, dy, dx, dy]))
    assert_close(moved, found + torch.tensor([dx, dy, 0]))
    assert torch.equal(moved_scores, scores)


def test_keypoints_lie_in_their_box():
    a = random_boxes(40, 5, torch.float32)
    found, _ = decode_keypoints(heat_maps(40, 4, 14, 5, torch.float32), a)
    assert (found[..., 0] > a[:, None, 0]).all() and (found[..., 0] < a[:, None, 2]).all()
    assert (found[..., 1] > a[:, None, 1]).all() and (found[..., 1] < a[:, None, 3]).all()


def test_half_precision_and_autocast_are_computed_in_float32():
    maps, a = heat_maps(3, 2, 14, 0, torch.bfloat16), random_boxes(3, 0, torch.float32)
    expected = decode_keypoints(maps.float(), a)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decode_keypoints(maps, a)
    for one, other in zip(found, expected):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_there_is_no_gradient():
    maps, a = heat_maps(2, 2, 5, 0).requires_grad_(), random_boxes(2, 0).requires_grad_()
    assert not any(part.requires_grad for part in decode_keypoints(maps, a, "softmax"))


@pytest.mark.parametrize("shape", [(0, 17), (2, 0)])
def test_nothing_to_decode(shape):
    found, scores = decode_keypoints(torch.zeros(*shape, 56, 56), torch.ones(shape[0], 4), "softmax")
    assert found.shape == (*shape, 3) and scores.shape == shape


@pytest.mark.parametrize("side", [math.nan, math.inf, 2.0**16 + 1])
@pytest.mark.parametrize("place", [2, 3])
def test_a_side_beyond_reason_is_an_error(side, place):
    a = torch.tensor([[0.0, 0, 5, 5], [0.0, 0, 5, 5]])
    a[1, place] = side
    with pytest.raises(ValueError, match=r"box 1: .* expected at most 65536"):
        decode_keypoints(torch.zeros(2, 1, 4, 4), a)


@pytest.mark.unhooked
def test_wrong_arguments_are_errors():
    maps, a = torch.zeros(2, 1, 4, 4), torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"logits \(2, 1, 4, 3\), boxes \(2, 4\): expected"):
        decode_keypoints(maps[..., :3], a)
    with pytest.raises(ValueError, match=r"logits \(2, 1, 4, 4\), boxes \(1, 4\): expected"):
        decode_keypoints(maps, a[:1])
    with pytest.raises(ValueError, match="score 'best': expected 'logit' or 'softmax'"):
        decode_keypoints(maps, a, "best")


def torchvisions(maps: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    return torchvision().models.detection.roi_heads.heatmaps_to_keypoints(maps, a)


ODD_BOXES = [
    [5.0, 6.0, 5.0, 6.0],
    [5.0, 6.0, 40.0, 6.0],
    [5.0, 6.0, 2.0, 30.0],
    [0.0, 0.0, 3000.0, 2.0],
    [0.0, 0.0, 1.5, 2500.0],
    [0.0, 0.0, 900.0, 700.0],
    [-700.0, -900.0, -644.0, -844.0],
]


@pytest.mark.parametrize("seed", range(3))
def test_parity_with_torchvision_in_float64(seed):
    a = torch.cat([random_boxes(40, seed), torch.tensor(ODD_BOXES, dtype=torch.float64)])
    maps = heat_maps(len(a), 3, 56, seed)
    expected, expected_scores = torchvisions(maps, a)
    found, scores = decode_keypoints(maps, a)
    # torchvision gives float32, which rounds 3000 by 1e-4; a neighbouring pixel would be half a pixel away or more.
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=5e-4)
    torch.testing.assert_close(scores.float(), expected_scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_parity_with_torchvision_in_float32(seed):
    a, maps = random_boxes(60, seed, torch.float32), heat_maps(60, 3, 56, seed, torch.float32)
    expected, expected_scores = torchvisions(maps, a)
    found, scores = decode_keypoints(maps, a)
    # torchvision rounds a place of up to 56 cells, so weights by 4e-6.
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=5e-5)
    differs = (found - expected).abs().amax(2) > 1e-3
    for roi, k in differs.nonzero().tolist():
        places = found[roi, k], expected[roi, k]
        ours, theirs = (value_at(maps[roi, k], a[roi], place) for place in places)
        assert abs(ours - theirs) < 5e-5
    assert differs.float().mean() < 0.02
