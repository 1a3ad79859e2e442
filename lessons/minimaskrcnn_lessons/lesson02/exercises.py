"""The exercises of lesson 02: shapes at one cell, the grid, how many, and which fits best."""

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from minimaskrcnn import anchors as package
from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons.exercise import Exercise
from minimaskrcnn_lessons.lesson02 import drawings, mistakes, mistakes_counts

# First the values to which a counterexample shrinks: 4 and 1/4 have whole square roots.
RATIOS = (1.0, 4.0, 0.25, 2.0, 0.5)
SIZES = (8.0, 4.0, 16.0, 32.0)


def cell_anchors(sizes: tuple[float, ...], aspect_ratios: tuple[float, ...]) -> Tensor:
    """The package's, exact."""
    return package.cell_anchors(sizes, aspect_ratios, False)


def grid_anchors(
    sizes: tuple[float, ...], aspect_ratios: tuple[float, ...], rows: int, columns: int, stride: int
) -> Tensor:
    """The package's for one level, exact."""
    config = package.AnchorConfig(
        sizes=(sizes,), aspect_ratios=aspect_ratios, round_corners=False, stride_from_grid=False
    )
    like, padded = torch.zeros(0, dtype=torch.float64), (rows * stride, columns * stride)
    return package.grid_anchors([(rows, columns)], [stride], padded, config, like)[0]


def count_anchors(padded_size: tuple[int, int], strides: list[int], num_sizes: int, num_ratios: int) -> int:
    """Counts the cells of maps that a network would make: layers of stride 2, one after the other."""
    cells = 0
    for stride in strides:
        level = torch.empty(1, 1, *padded_size, device="meta")
        for _ in range(stride.bit_length() - 1):
            level = F.max_pool2d(level, 3, stride=2, padding=1)
        cells += level.shape[2] * level.shape[3]
    return cells * num_sizes * num_ratios


def best_anchors(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row of the IoU matrix, and where it stands first."""
    best = box_iou(gt_boxes, anchors).max(dim=1)
    return best.values, best.indices


def _several(values: tuple[float, ...], most: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def _boxes(draw: st.DrawFn, least: int, most: int) -> Tensor:
    """Boxes with corners on whole pixels of a plane of 8 × 8."""
    place, side = st.integers(0, 4), st.integers(1, 4)
    rows = draw(st.lists(st.tuples(place, place, side, side), min_size=least, max_size=most))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64)


EXERCISES = (
    Exercise(
        name="cell_anchors",
        title="The anchors of one cell",
        difficulty=1,
        minutes=15,
        points=3,
        right=cell_anchors,
        inputs=st.fixed_dictionaries({"sizes": _several(SIZES, 3), "aspect_ratios": _several(RATIOS, 3)}),
        misconceptions=mistakes.CELL_ANCHORS,
        hints=(
            "Two equations, $w h = s^2$ and $h / w = r$, and two unknowns. Put $h = r w$ into the first.",
            "$w = s / \\sqrt r$ and $h = s \\sqrt r$. The box from $-w/2$ to $w/2$ and from $-h/2$ to $h/2$ has its "
            "centre at the origin. Two loops: `for r in aspect_ratios`, and inside it `for s in sizes`.",
        ),
        draw=drawings.cell_difference,
        picture=drawings.cell_picture,
    ),
    Exercise(
        name="grid_anchors",
        title="Anchors on the whole grid",
        difficulty=2,
        minutes=20,
        points=3,
        right=grid_anchors,
        inputs=st.fixed_dictionaries(
            {
                "sizes": _several((4.0, 8.0), 2),
                "aspect_ratios": _several((1.0, 4.0), 2),
                "rows": st.integers(1, 3),
                "columns": st.integers(1, 3),
                "stride": st.sampled_from((4, 8, 16)),
            }
        ),
        misconceptions=mistakes.GRID_ANCHORS,
        hints=(
            "The cell in row $i$ and column $j$ adds $j \\cdot$ stride to both x coordinates and $i \\cdot$ stride "
            "to both y coordinates.",
            "Build the shifts as a tensor `[rows, columns, 1, 4]` of (x, y, x, y) and add the base `[n, 4]`: "
            "broadcasting makes `[rows, columns, n, 4]`, which is already in the order row, column, shape. "
            '`torch.meshgrid(y, x, indexing="ij")` gives y first.',
        ),
        draw=drawings.grid_difference,
        picture=drawings.grid_picture,
    ),
    Exercise(
        name="count_anchors",
        title="How many anchors?",
        difficulty=1,
        minutes=10,
        points=2,
        right=count_anchors,
        inputs=st.fixed_dictionaries(
            {
                "padded_size": st.tuples(st.integers(8, 150), st.integers(8, 150)),
                "strides": st.sampled_from(([4], [4, 8], [16, 32], [4, 8, 16, 32, 64])),
                "num_sizes": st.integers(1, 3),
                "num_ratios": st.integers(1, 3),
            }
        ),
        misconceptions=mistakes_counts.COUNT_ANCHORS,
        hints=(
            "Count the rows and the columns of each level separately, then multiply. What becomes of a cell that the "
            "picture only begins to fill?",
            "`math.ceil(height / stride) * math.ceil(width / stride)` cells on a level; every cell has "
            "`num_sizes * num_ratios` anchors; add up the levels.",
        ),
        draw=drawings.count_difference,
        picture=drawings.count_picture,
    ),
    Exercise(
        name="best_anchors",
        title="The best anchor of each object",
        difficulty=2,
        minutes=15,
        points=3,
        right=best_anchors,
        inputs=st.fixed_dictionaries({"gt_boxes": _boxes(1, 3), "anchors": _boxes(2, 4)}),
        misconceptions=mistakes_counts.BEST_ANCHORS,
        hints=(
            "`box_iou(gt_boxes, anchors)` is a matrix with a row for each object and a column for each anchor. Which "
            "axis has to disappear?",
            "`matrix.max(dim=1)` gives the largest number of each row and its place, the first one where several "
            "are equal. Return both, values first.",
        ),
        draw=drawings.best_difference,
        picture=drawings.best_picture,
    ),
)
