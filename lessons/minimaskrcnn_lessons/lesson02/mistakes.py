"""Wrong answers to lesson 02's exercises, as people really write them."""

import math

import torch
from torch import Tensor

from minimaskrcnn.anchors import cell_anchors
from minimaskrcnn.ops import box_area, box_iou
from minimaskrcnn_lessons.exercise import Misconception


def _shape(sides, corners=None, by_size=False):
    """A wrong `cell_anchors`: `sides(s, r)` gives width and height, `corners(w, h)` the four numbers."""

    def answer(sizes: tuple[float, ...], aspect_ratios: tuple[float, ...]) -> Tensor:
        pairs = [(s, r) for r in aspect_ratios for s in sizes]
        if by_size:
            pairs = [(s, r) for s in sizes for r in aspect_ratios]
        place = corners or (lambda w, h: (-w / 2, -h / 2, w / 2, h / 2))
        return torch.tensor([place(*sides(s, r)) for s, r in pairs], dtype=torch.float64)

    return answer


def _right_sides(s: float, r: float) -> tuple[float, float]:
    return s / math.sqrt(r), s * math.sqrt(r)


CELL_ANCHORS = (
    Misconception(
        name="ratio as width over height",
        sentence="This is the ratio taken as width over height. Here r is height / width: r = 2 is a tall box.",
        answer=_shape(lambda s, r: (s * math.sqrt(r), s / math.sqrt(r))),
    ),
    Misconception(
        name="area not kept",
        sentence="This is a width of s whatever the ratio, so the area is r·s². Every anchor of size s has area s².",
        answer=_shape(lambda s, r: (s, s * r)),
    ),
    Misconception(
        name="ratio without its square root",
        sentence="This is r where its square root belongs: the area is right, but height / width comes out as r².",
        answer=_shape(lambda s, r: (s / r, s * r)),
    ),
    Misconception(
        name="box that starts at the origin",
        sentence="This is (0, 0, width, height): read as corners, a box that starts at the origin. The anchor has "
        "its centre there.",
        answer=_shape(_right_sides, lambda w, h: (0.0, 0.0, w, h)),
    ),
    Misconception(
        name="corner and size",
        sentence="This is xywh: the first corner and the size. Boxes are two corners, (x1, y1, x2, y2).",
        answer=_shape(_right_sides, lambda w, h: (-w / 2, -h / 2, w, h)),
    ),
    Misconception(
        name="whole sides on each side of the centre",
        sentence="This is a box that reaches a whole side from its centre in each direction: twice too wide and "
        "twice too high.",
        answer=_shape(_right_sides, lambda w, h: (-w, -h, w, h)),
    ),
    Misconception(
        name="sizes in the outer loop",
        sentence="This is the order size, ratio. The contract is ratio first, and sizes within each ratio: the "
        "network's output channels are read in that order.",
        answer=_shape(_right_sides, by_size=True),
    ),
    Misconception(
        name="corners rounded",
        sentence="This is rounded to whole pixels, as torchvision does. Asked are the exact anchors.",
        answer=lambda sizes, aspect_ratios: cell_anchors(sizes, aspect_ratios, True),
    ),
)


def _grid(place):
    """A wrong `grid_anchors`: `place(base, rows, columns, stride)` yields the anchors one by one."""

    def answer(
        sizes: tuple[float, ...], aspect_ratios: tuple[float, ...], rows: int, columns: int, stride: int
    ) -> Tensor:
        base = cell_anchors(sizes, aspect_ratios, False)
        return torch.stack(list(place(base, rows, columns, stride)))

    return answer


def _at(anchor: Tensor, x: float, y: float) -> Tensor:
    return anchor + torch.tensor([x, y, x, y], dtype=torch.float64)


GRID_ANCHORS = (
    Misconception(
        name="half-cell offset",
        sentence="This is the grid moved by half a cell: centres at (column + 0.5) · stride. Here the centre lies on "
        "the cell's first corner, column · stride.",
        answer=_grid(
            lambda base, rows, columns, s: (
                _at(a, (j + 0.5) * s, (i + 0.5) * s)
                for i in range(rows)
                for j in range(columns)
                for a in base
            )
        ),
    ),
    Misconception(
        name="column by column",
        sentence="This is the right set of anchors in the wrong order, column by column (a transposed grid). Rows "
        "come first: the x of the second cell is one stride further.",
        answer=_grid(
            lambda base, rows, columns, s: (
                _at(a, j * s, i * s) for j in range(columns) for i in range(rows) for a in base
            )
        ),
    ),
    Misconception(
        name="x and y exchanged",
        sentence="This is x counted by rows and y by columns. A step along a row changes x.",
        answer=_grid(
            lambda base, rows, columns, s: (
                _at(a, i * s, j * s) for i in range(rows) for j in range(columns) for a in base
            )
        ),
    ),
    Misconception(
        name="anchor shapes in the outer loop",
        sentence="This is all cells for the first shape, then all cells for the next. The shapes of one cell lie "
        "beside each other: row, column, shape.",
        answer=_grid(
            lambda base, rows, columns, s: (
                _at(a, j * s, i * s) for a in base for i in range(rows) for j in range(columns)
            )
        ),
    ),
    Misconception(
        name="only the first corner moved",
        sentence="This is the shift added to (x1, y1) alone: boxes shrink as they move. Both corners move.",
        answer=_grid(
            lambda base, rows, columns, s: (
                a + torch.tensor([j * s, i * s, 0, 0], dtype=torch.float64)
                for i in range(rows)
                for j in range(columns)
                for a in base
            )
        ),
    ),
    Misconception(
        name="cells instead of pixels",
        sentence="This is a shift counted in cells. Anchors are in pixels of the picture: multiply by the stride.",
        answer=_grid(
            lambda base, rows, columns, s: (
                _at(a, j, i) for i in range(rows) for j in range(columns) for a in base
            )
        ),
    ),
)


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
)
