"""Wrong answers to lesson 02's last two exercises, as people really write them."""

import math

import torch
from torch import Tensor

from minimaskrcnn.ops import box_area, box_iou
from minimaskrcnn_lessons.exercise import Misconception


def _count(cells, per_cell=lambda sizes, ratios: sizes * ratios, levels=slice(None)):
    """A wrong `count_anchors`: `cells(height, width, stride)` counts the cells of a level."""

    def answer(padded_size: tuple[int, int], strides: list[int], num_sizes: int, num_ratios: int) -> int:
        return sum(cells(*padded_size, s) for s in strides[levels]) * per_cell(num_sizes, num_ratios)

    return answer


def _cells(height: int, width: int, stride: int) -> int:
    return math.ceil(height / stride) * math.ceil(width / stride)


COUNT_ANCHORS = (
    Misconception(
        name="rounded down",
        sentence="This is the grid rounded down. A cell that the picture fills only in part exists too: 800 rows "
        "at stride 64 make 13 rows of cells, not 12.",
        answer=_count(lambda h, w, s: (h // s) * (w // s)),
    ),
    Misconception(
        name="rounded to the nearest",
        sentence="This is the grid rounded to the nearest whole number. A cell that the picture fills less than half "
        "exists too.",
        answer=_count(lambda h, w, s: round(h / s) * round(w / s)),
    ),
    Misconception(
        name="sizes plus ratios",
        sentence="This is the number of sizes plus that of ratios. Every size comes with every ratio.",
        answer=_count(_cells, lambda sizes, ratios: sizes + ratios),
    ),
    Misconception(
        name="one anchor a cell",
        sentence="This is the number of cells. Each holds several anchors.",
        answer=_count(_cells, lambda sizes, ratios: 1),
    ),
    Misconception(
        name="area rounded instead of each side",
        sentence="This is the picture's area divided by the cell's and then rounded up. Rows and columns are rounded "
        "up each on its own.",
        answer=_count(lambda h, w, s: math.ceil(h * w / s**2)),
    ),
    Misconception(
        name="one row and column too many",
        sentence="This is a fence with its last post: side // stride + 1 also counts a row that begins where the "
        "picture ends.",
        answer=_count(lambda h, w, s: (h // s + 1) * (w // s + 1)),
    ),
    Misconception(
        name="last level only",
        sentence="This is the last level alone: = where += belongs, or a `return` of the last turn's number. Add the "
        "levels up.",
        answer=_count(_cells, levels=slice(-1, None)),
    ),
    Misconception(
        name="not rounded",
        sentence="This is a share of cells: a picture has no half rows of them. Round rows and columns up.",
        answer=_count(lambda h, w, s: h / s * w / s),
    ),
    Misconception(
        name="finest level only",
        sentence="This is the first level alone. Every level has anchors.",
        answer=_count(_cells, levels=slice(0, 1)),
    ),
)


def _pick(score, value=box_iou):
    """A wrong `best_anchors`: takes the anchor of the highest `score`, and reports `value` there."""

    def answer(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        index = score(gt_boxes, anchors).max(dim=1).indices
        return value(gt_boxes, anchors)[torch.arange(len(gt_boxes)), index], index

    return answer


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    lower, upper = (
        torch.maximum(a[:, None, :2], b[None, :, :2]),
        torch.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    return (upper - lower).clamp(min=0).prod(-1)


def _covered_share(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    return _intersection(gt_boxes, anchors) / box_area(gt_boxes)[:, None]


def _nearness(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    return -torch.cdist(gt_boxes[:, :2] + gt_boxes[:, 2:], anchors[:, :2] + anchors[:, 2:])


def _likeness_of_area(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    return -(box_area(gt_boxes)[:, None] - box_area(anchors)).abs()


def _last_of_ties(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    best = box_iou(gt_boxes, anchors).flip(1).max(dim=1)
    return best.values, len(anchors) - 1 - best.indices


def _best_object(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    best = box_iou(gt_boxes, anchors).max(dim=0)
    return best.values, best.indices


def _index_first(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    best = box_iou(gt_boxes, anchors).max(dim=1)
    return best.indices, best.values


def _one_for_all(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    iou = box_iou(gt_boxes, anchors)
    return iou.max(), iou.argmax()


def _none_without_overlap(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    best = box_iou(gt_boxes, anchors).max(dim=1)
    return best.values, torch.where(best.values > 0, best.indices, -1)


BEST_ANCHORS = (
    Misconception(
        name="best object of each anchor",
        sentence="This is the maximum over the wrong axis: the best object for each anchor. Asked is the best anchor "
        "for each object, one result a row of the matrix.",
        answer=_best_object,
    ),
    Misconception(
        name="nearest centre",
        sentence="This is the anchor whose centre lies nearest. Its shape may be quite another: let the IoU decide.",
        answer=_pick(_nearness),
    ),
    Misconception(
        name="most similar area",
        sentence="This is the anchor whose area is nearest to the object's, wherever it lies. Let the IoU decide.",
        answer=_pick(_likeness_of_area),
    ),
    Misconception(
        name="largest intersection",
        sentence="This is the anchor with the largest intersection, not divided by the union: large anchors win "
        "because they are large.",
        answer=_pick(_intersection),
    ),
    Misconception(
        name="intersection over the object's area",
        sentence="This is the share of the object that an anchor covers. IoU divides by the union of both, so that "
        "an anchor pays for what it covers beside the object.",
        answer=_pick(_covered_share, _covered_share),
    ),
    Misconception(
        name="last of equals",
        sentence="This is the last of several anchors with the same IoU (a loop with >= instead of >). The contract "
        "is the first.",
        answer=_last_of_ties,
    ),
    Misconception(
        name="index first",
        sentence="This is the pair in the wrong order: the IoU comes first, then the number of the anchor.",
        answer=_index_first,
    ),
    Misconception(
        name="one maximum of the whole matrix",
        sentence="This is the maximum of the whole matrix. Asked is one result for each object: give `max` the axis "
        "of the anchors.",
        answer=_one_for_all,
    ),
    Misconception(
        name="-1 without overlap",
        sentence="This is -1 for an object that no anchor overlaps (a loop that starts with best = 0 and asks for "
        "more). All its IoUs are 0 then, and the first anchor is the first of equals.",
        answer=_none_without_overlap,
    ),
)
