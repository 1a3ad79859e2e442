"""match_boxes: against its definition, its chunks, what padding and degenerate boxes may not do, and its memory."""

import math
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from devices import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close, torchvision
from strategies import boxes

from minimaskrcnn import ops
from minimaskrcnn.ops import reference


@st.composite
def cases(draw, dtype=torch.float64):
    """Ground truths and boxes of two images: ugly ones, and a crowd on a grid of 6 cells; some are padding."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    padded = []
    for most in (4, 12):
        ugly = [draw(boxes(max_count=2, dtype=dtype)) for _ in range(2)]
        count = draw(st.integers(0, most))
        corner = torch.randint(0, 5, (2, count + 2, 2), generator=random)
        crowd = torch.cat([corner, corner + torch.randint(0, 4, corner.shape, generator=random)], 2).to(dtype)
        for image, own in enumerate(ugly):
            crowd[image, : len(own)] = own
        crowd = crowd[:, torch.randperm(count + 2, generator=random)]
        crowd = crowd[:, : draw(st.integers(0, count + 2))]
        padded += [crowd.to(DEVICE), (torch.rand(crowd.shape[:2], generator=random) < 0.8).to(DEVICE)]
    return padded


def assert_equal(found, expected) -> None:
    assert_close(found.iou.cpu(), expected.iou)
    assert torch.equal(found.index.cpu(), expected.index)
    assert torch.equal(found.best_for_gt.cpu(), expected.best_for_gt)


@given(cases(), st.sampled_from([1, 5, 2**18]))
def test_match_boxes_is_its_definition(case, chunk):
    # A chunk of 1 takes one ground truth at a time, of 5 one or two.
    with patch("minimaskrcnn.ops.match_boxes.CHUNK", chunk):
        assert_equal(ops.match_boxes(*case), reference.match_boxes(*(t.cpu() for t in case)))


@given(cases())
def test_overlaps_are_those_of_box_iou_to_the_last_bit(case):
    gt, gt_valid, a, valid = (t.float() if t.is_floating_point() else t for t in case)
    found = ops.match_boxes(gt, gt_valid, a, valid)
    iou = torch.where(gt_valid[:, :, None], ops.box_iou(gt, a).nan_to_num(nan=0.0), -1.0)
    best = torch.cat([torch.full_like(valid, -1, dtype=torch.float32)[:, None], iou], 1).amax(1)
    assert torch.equal(found.iou, torch.where(valid, best, -1))


@given(cases(), st.integers(0, 2**16))
def test_what_is_not_valid_may_be_anything(case, seed):
    gt, gt_valid, a, valid = case
    expected = ops.match_boxes(gt, gt_valid, a, valid)
    fill = [0.0, math.nan, math.inf, 3.0][seed % 4]
    gt, a = torch.where(gt_valid[..., None], gt, fill), torch.where(valid[..., None], a, fill)
    for found, same in zip(ops.match_boxes(gt, gt_valid, a, valid), expected):
        assert torch.equal(found, same)


def test_boxes_that_are_not_finite_and_pairs_without_union_have_iou_0():
    gt = torch.tensor(
        [[[0.0, 0, 0, 0], [math.nan, 0, 4, 4], [0, 0, math.inf, 4], [0, 0, 4, 4]]], device=DEVICE
    )
    a = torch.tensor([[[0.0, 0, 0, 0], [math.nan, 0, 4, 4], [0, 0, math.inf, 4], [0, 0, 4, 4], [1, 1, 1, 1]]])
    true = torch.ones(1, 5, dtype=torch.bool, device=DEVICE)
    found = ops.match_boxes(gt, true[:, :4], a.to(DEVICE), true)
    assert found.iou.tolist() == [[0, 0, 0, 1, 0]]
    assert found.index.tolist() == [[0, 0, 0, 3, 0]]
    assert found.best_for_gt.tolist() == [[False, False, False, True, False]]


@pytest.mark.parametrize(("objects", "count"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_match(objects, count):
    gt_valid = torch.ones(2, objects, dtype=torch.bool, device=DEVICE)
    valid = torch.ones(2, count, dtype=torch.bool, device=DEVICE)
    gt, a = torch.ones(2, objects, 4, device=DEVICE), torch.ones(2, count, 4, device=DEVICE)
    found = ops.match_boxes(gt, gt_valid, a, valid)
    assert found.iou.tolist() == [[-1.0] * count] * 2
    assert found.index.tolist() == [[0] * count] * 2
    assert found.best_for_gt.tolist() == [[False] * count] * 2


@given(cases(), st.sampled_from([(0.7, 0.3), (0.5, 0.5)]))
def test_matches_are_torchvisions(case, thresholds):
    matcher = torchvision().models.detection._utils.Matcher
    gt, _, a, _ = (t.cpu() for t in case)
    positive, negative = thresholds
    for image in range(2):
        # torchvision refuses ground truths without area, and images without boxes.
        objects = gt[image][((gt[image, :, 2:] - gt[image, :, :2]) > 0).all(1)]
        if not len(objects) or not a.shape[1]:
            continue
        true = torch.ones(1, len(objects), dtype=torch.bool), torch.ones(1, a.shape[1], dtype=torch.bool)
        found = ops.match_boxes(objects[None], true[0], a[image : image + 1], true[1])
        expected = matcher(positive, negative, False)(torchvision().ops.box_iou(objects, a[image]))
        low, between = found.iou[0] < negative, (found.iou[0] >= negative) & (found.iou[0] < positive)
        ours = torch.where(low, -1, torch.where(between, -2, found.index[0]))
        assert torch.equal(ours, expected)


@pytest.mark.slow
def test_matches_are_torchvisions_at_length():
    settings(max_examples=3000)(test_matches_are_torchvisions)()


def test_no_gradient():
    gt, a = (torch.rand(1, 3, 4, device=DEVICE).requires_grad_() for _ in range(2))
    true = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
    assert not any(t.requires_grad for t in ops.match_boxes(gt, true, a, true))


MEASURE = """
import resource, torch
from minimaskrcnn import ops
torch.set_num_threads(1)
corner = 1000 * torch.rand(1, {boxes}, 2)
boxes = torch.cat([corner, corner + 100], 2)
gt, true = boxes[:, : {objects}], torch.ones(1, {boxes}, dtype=torch.bool)
ops.match_boxes(gt[:, :2], true[:, :2], boxes[:, :9], true[:, :9])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ops.match_boxes(gt, true[:, : {objects}], boxes, true)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_memory_does_not_grow_with_the_ground_truths():
    script = MEASURE.format(objects=100, boxes=100_000)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # All pairs once are 39,000 KiB, and box_iou would hold seven times that.
    assert int(run.stdout) < 25_000


@pytest.mark.unhooked
def test_errors_say_what_was_expected():
    gt, a = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)
    gt_valid, valid = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    shapes = [
        (gt[..., :3], gt_valid, a, valid),
        (gt, gt_valid[:, :2], a, valid),
        (gt, gt_valid, a[:1], valid),
        (gt[:1], gt_valid[:1], a, valid),
        (gt[0], gt_valid[0], a[0], valid[0]),
    ]
    for wrong in shapes:
        with pytest.raises(ValueError, match=r"expected \[B,G,4\], \[B,G\], \[B,K,4\] and \[B,K\]"):
            ops.match_boxes(*wrong)
    with pytest.raises(
        TypeError, match=r"gt_boxes torch.int64, boxes torch.float32: expected floating point"
    ):
        ops.match_boxes(gt.long(), gt_valid, a, valid)
    with pytest.raises(TypeError, match=r"gt_valid torch.float32, valid torch.bool: expected bool"):
        ops.match_boxes(gt, gt_valid.float(), a, valid)
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]: expected one device"):
        ops.match_boxes(gt, gt_valid, a.to("meta"), valid)


@pytest.mark.unhooked
@pytest.mark.parametrize("dynamic", [False, None])
def test_compiles_into_one_graph(dynamic):
    corner = 9 * torch.rand(2, 12, 2, generator=torch.Generator().manual_seed(0))
    a = torch.cat([corner, corner + 3], 2).to(DEVICE)
    valid = torch.arange(12, device=DEVICE).expand(2, 12) < 10
    arguments = (a[:, :4] + 1, valid[:, :4], a, valid)
    compiled = torch.compile(ops.match_boxes, fullgraph=True, backend="aot_eager", dynamic=dynamic)(
        *arguments
    )
    for got, want in zip(compiled, ops.match_boxes(*arguments)):
        assert torch.equal(got, want)


@pytest.mark.unhooked
def test_opcheck():
    from minimaskrcnn.ops.match_boxes import _match_boxes

    a, true = torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    torch.library.opcheck(_match_boxes, (a, true, a.flip(1), true))
