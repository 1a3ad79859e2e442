"""Wrong answers to lesson 02's first two exercises, as people really write them."""

import math

import torch
from torch import Tensor

from minimaskrcnn.anchors import cell_anchors
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


def _return_in_the_loop(sizes: tuple[float, ...], aspect_ratios: tuple[float, ...]) -> Tensor:
    return cell_anchors(sizes, aspect_ratios[:1], False)


def _pairs(sizes: tuple[float, ...], aspect_ratios: tuple[float, ...]) -> Tensor:
    return torch.cat([cell_anchors((s,), (r,), False) for s, r in zip(sizes, aspect_ratios)])


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
    Misconception(
        name="// for /",
        sentence="This is // where / belongs: it rounds down, and an anchor's corner need not be a whole number.",
        answer=_shape(_right_sides, lambda w, h: (-w // 2, -h // 2, w // 2, h // 2)),
    ),
    Misconception(
        name="size taken for the area",
        sentence="This is s taken for the area. The area of an anchor of size s is s²: for r = 1 its side is s.",
        answer=_shape(lambda s, r: (math.sqrt(s / r), math.sqrt(s * r))),
    ),
    Misconception(
        name="first ratio only",
        sentence="This is the first ratio alone. Is the `return` inside the loop? It then ends the function "
        "after one turn.",
        answer=_return_in_the_loop,
    ),
    Misconception(
        name="sizes and ratios in pairs",
        sentence="This is one size for each ratio, as `zip` pairs them. Every ratio comes in every size.",
        answer=_pairs,
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


def _shifts(rows: int, columns: int, stride: int) -> Tensor:
    """(x, y, x, y) of every cell: `[rows, columns, 4]`."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return stride * torch.stack([x, y, x, y], dim=2)


def _no_axis_for_shapes(
    sizes: tuple[float, ...], aspect_ratios: tuple[float, ...], rows: int, columns: int, stride: int
) -> Tensor:
    return _shifts(rows, columns, stride).reshape(-1, 4) + cell_anchors(sizes, aspect_ratios, False)


def _not_flattened(
    sizes: tuple[float, ...], aspect_ratios: tuple[float, ...], rows: int, columns: int, stride: int
) -> Tensor:
    return _shifts(rows, columns, stride)[:, :, None] + cell_anchors(sizes, aspect_ratios, False)


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
    Misconception(
        name="cells counted from one",
        sentence="This is a count that begins with 1: the first cell is number 0, and its anchors lie at the origin.",
        answer=_grid(
            lambda base, rows, columns, s: (
                _at(a, (j + 1) * s, (i + 1) * s) for i in range(rows) for j in range(columns) for a in base
            )
        ),
    ),
    Misconception(
        name="arange in steps of the stride",
        sentence="This is `arange(0, columns, stride)`: it ends at the number of cells, and the last cell lies at "
        "(columns - 1) · stride. Count cells, then multiply.",
        answer=_grid(
            lambda base, rows, columns, s: (
                _at(a, x, y) for y in range(0, rows, s) for x in range(0, columns, s) for a in base
            )
        ),
    ),
    Misconception(
        name="shift in the order x, x, y, y",
        sentence="This is a shift in the order (x, x, y, y). A box is (x1, y1, x2, y2): its shift is (x, y, x, y).",
        answer=_grid(
            lambda base, rows, columns, s: (
                a + torch.tensor([j, j, i, i], dtype=torch.float64) * s
                for i in range(rows)
                for j in range(columns)
                for a in base
            )
        ),
    ),
    Misconception(
        name="no axis for the shapes",
        sentence="This is cell 0 with shape 0, cell 1 with shape 1, and an error where there are not as many of "
        "both. Every cell gets every shape: the shifts need an axis of length 1 for the shapes.",
        answer=_no_axis_for_shapes,
    ),
    Misconception(
        name="not flattened",
        sentence="This is the right set of anchors, but still in axes for rows, columns and shapes. Asked is one row "
        "for each anchor, `[rows · columns · n, 4]`.",
        answer=_not_flattened,
    ),
)
