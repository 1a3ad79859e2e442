"""The judge judged: each definition on a case that was worked by hand."""

import math

import pytest
import torch

from minimaskrcnn.ops import reference


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2]])
    b = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [0.5, 0.5, 1.5, 1.5], [1, 1, 1, 1]])
    assert reference.box_iou(a, b)[0].tolist() == [1 / 7, 1, 0, 1 / 4, 0]
    assert math.isnan(reference.box_iou(b[4:], b[4:]).item())


def test_nms_by_hand():
    # b overlaps a by 3 / 5 and c overlaps b by 3 / 5, but c overlaps a by 2 / 6 only.
    a = torch.tensor([[0.0, 0, 4, 1], [1, 0, 5, 1], [2, 0, 6, 1]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert reference.nms(a, scores, 0.5).tolist() == [0, 2]
    assert reference.nms(a, scores, 0.3).tolist() == [0]
    assert reference.nms(a, scores, 0.75).tolist() == [0, 1, 2]
    assert reference.nms(a, scores.flip(0), 0.5).tolist() == [2, 0]
    assert reference.nms(a, torch.ones(3), 0.5, torch.tensor([0, 1, 0])).tolist() == [0, 1, 2]


def test_nms_compares_float32_with_a_double():
    # 0.3 in float32 is above the double 0.3; the IoU of these is 3 / 10.
    a = torch.tensor([[0.0, 0, 10, 1], [7, 0, 10, 1]])
    assert reference.nms(a, torch.ones(2), 0.3).tolist() == [0]
    assert reference.nms(a.double(), torch.ones(2), 0.3).tolist() == [0, 1]


POINTS = [(0, 0, 1), (0.5, 0, 2), (0, 0.5, 1.5), (0.5, 0.5, 2.5), (1, 1, 4), (0, 1.9, 2), (0, -0.5, 1)]
EDGES = [(-1, 0, 1), (-1.01, 0, 0), (2, 0, 3), (2.01, 0, 0), (0, -1.01, 0), (0, 2.01, 0)]


@pytest.mark.parametrize(("y", "x", "value"), POINTS + EDGES)
def test_bilinear_by_hand(y, x, value):
    assert reference.bilinear([[1.0, 2.0], [3.0, 4.0]], y, x) == value


def test_roi_align_by_hand():
    plane = torch.arange(16.0).view(1, 1, 4, 4)
    box = torch.tensor([[0.0, 0, 0, 2, 2]])
    # One bin, one sample at (1, 1), which is cell 5; aligned half a cell further up and left: 5 - 2 - 0.5.
    assert reference.roi_align(plane, box, (1, 1), 1.0, 1).item() == 5
    assert reference.roi_align(plane, box, (1, 1), 1.0, 1, aligned=True).item() == 2.5
    # Two bins a side of one cell each, adaptive: one sample each, at 0.5 and 1.5.
    assert reference.roi_align(plane, box, (2, 2))[0, 0].tolist() == [[2.5, 3.5], [6.5, 7.5]]
    # At scale 1 / 2 the box is 0..1.
    assert reference.roi_align(plane, box, (1, 1), 0.5, 1).item() == 2.5


def test_a_small_box_is_one_cell_unless_aligned():
    plane = torch.arange(16.0).view(1, 1, 4, 4)
    box = torch.tensor([[0.0, 1, 1, 1.2, 1.2]])
    assert reference.roi_align(plane, box, (1, 1), 1.0, 1).item() == pytest.approx(7.5)
    assert reference.roi_align(plane, box, (1, 1), 1.0, 1, aligned=True).item() == pytest.approx(0.6 * 5)


def test_levels_by_hand():
    def level(side: float) -> int:
        return reference.fpn_level(torch.tensor([0, 0, side, side]), [4, 8, 16, 32])

    assert [level(s) for s in (0, 50, 112, 223, 224, 447, 448, 900, 5000)] == [0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_paste_by_hand():
    # m = 1: the padded mask is 3 × 3, the box 2..5 grows threefold to -1..8, pixels -1..8, that is 10 for 3 samples.
    inside, values = reference.paste_mask(torch.ones(1, 1), torch.tensor([2.0, 2, 5, 5]), (9, 9))
    row = [max(0.0, 1 - abs((x + 1 + 0.5) * 0.3 - 0.5 - 1)) for x in range(9)]
    torch.testing.assert_close(values, torch.tensor(row).double().outer(torch.tensor(row).double()))
    assert inside.nonzero().amin(0).tolist() == [3, 3]
    assert torch.equal(inside, values > 0.5)
