"""Lesson 05's wrong answers about RoIAlign and RoIPool by name; the first that fits is said."""

from minimaskrcnn_lessons.exercise import Misconception
from minimaskrcnn_lessons.lesson05 import mistakes

ALIGN = (
    Misconception(
        name="half cell left out",
        sentence="This is RoIAlign with the half-pixel offset left out: it pools what lies half a cell below "
        "and to the right of the box.",
        answer=mistakes.align_unaligned,
    ),
    Misconception(
        name="rows and columns swapped",
        sentence="This is the result transposed: out[ph, pw] has ph along y and pw along x.",
        answer=mistakes.align_transposed,
    ),
    Misconception(
        name="one sample a bin",
        sentence="This is one sample in the middle of each bin. Take samples × samples of them and average.",
        answer=mistakes.align_one_sample,
    ),
    Misconception(
        name="xyxy taken for xywh",
        sentence="This is the box read as (x, y, width, height). It is (x1, y1, x2, y2).",
        answer=mistakes.align_xywh,
    ),
    Misconception(
        name="box rounded first",
        sentence="This is RoIAlign of a box that was rounded to cells first. RoIAlign rounds nothing.",
        answer=mistakes.align_rounded,
    ),
    Misconception(
        name="largest sample",
        sentence="This is the largest sample of each bin. The exercise asks for the mean.",
        answer=mistakes.align_max,
    ),
    Misconception(
        name="stride forgotten",
        sentence="This is the box taken as if its pixels were cells. Divide by the stride.",
        answer=mistakes.align_unscaled,
    ),
    Misconception(
        name="rows along x",
        sentence="This is the box's x range taken for the rows. Rows run along y: their points come from y1 "
        "and y2.",
        answer=mistakes.align_axes_swapped,
    ),
    Misconception(
        name="bilinear called with x first",
        sentence="This is `bilinear(feature, x, y)`: it takes y first.",
        answer=mistakes.align_bilinear_swapped,
    ),
    Misconception(
        name="not divided",
        sentence="This is the sum of the samples of each bin. Divide by how many there are.",
        answer=mistakes.align_sum,
    ),
    Misconception(
        name="divided by samples",
        sentence="This is the sum divided by `samples`. A bin has samples × samples points.",
        answer=mistakes.align_over_samples,
    ),
    Misconception(
        name="divided by the stride twice",
        sentence="This is the box divided by the stride twice: `points` takes pixels and divides itself.",
        answer=mistakes.align_scaled_twice,
    ),
    Misconception(
        name="half cell twice",
        sentence="This is half a cell taken off twice: `points` takes it off already.",
        answer=mistakes.align_half_twice,
    ),
    Misconception(
        name="samples in pairs",
        sentence="This is a line of samples across each bin, the first row point with the first column point, "
        "and so on. Every row point meets every column point.",
        answer=mistakes.align_diagonal,
    ),
)

POOL = (
    Misconception(
        name="floor for round",
        sentence="This is the box with its ends rounded down. RoIPool takes the nearest cell.",
        answer=mistakes.pool_cells_floor,
    ),
    Misconception(
        name="rounded outwards",
        sentence="This is the box's beginning rounded down and its end rounded up. RoIPool takes the nearest cell "
        "for both.",
        answer=mistakes.pool_cells_outwards,
    ),
    Misconception(
        name="halves to even",
        sentence="This is Python's round(), which takes 0.5 to 0 and 2.5 to 2. RoIPool rounds halves up, "
        "as C does.",
        answer=mistakes.pool_cells_bankers,
    ),
    Misconception(
        name="last cell left out",
        sentence="This is the box without its last cell. The rounded end is a cell that belongs to the box, "
        "so there are last - first + 1 of them.",
        answer=mistakes.pool_cells_exclusive,
    ),
    Misconception(
        name="bins that do not share cells",
        sentence="This is each bin's end rounded down. A bin takes every cell that it covers in part, so its "
        "end is rounded up and neighbouring bins share a cell.",
        answer=mistakes.pool_cells_disjoint,
    ),
    Misconception(
        name="not clipped to the map",
        sentence="This is right inside of the map. Cells below 0 or from extent on do not exist: clip both "
        "ends of each bin.",
        answer=mistakes.pool_cells_unclipped,
    ),
    Misconception(
        name="counted from the box",
        sentence="This is counted from the box's first cell. The map's cells are asked for: add the first "
        "cell.",
        answer=mistakes.pool_cells_from_zero,
    ),
    Misconception(
        name="last for one past the last",
        sentence="This is the last cell of each bin as its second number. One past the last is asked for, as "
        "in a slice.",
        answer=mistakes.pool_cells_last,
    ),
    Misconception(
        name="clipped to the last cell",
        sentence="This is a clip at extent - 1. The second number is one past the last cell, so it may be "
        "extent.",
        answer=mistakes.pool_cells_last_index,
    ),
    Misconception(
        name="borders to the nearest cell",
        sentence="This is each bin's borders rounded to the nearest cell. A bin takes every cell that it "
        "covers in part: its beginning is rounded down and its end up.",
        answer=mistakes.pool_cells_nearest,
    ),
    Misconception(
        name="bins of whole cells",
        sentence="This is bins of equally many whole cells. The cells divided by the bins is a fraction in general: "
        "multiply first, then round each bin's ends.",
        answer=mistakes.pool_cells_equal,
    ),
    Misconception(
        name="clipped before it was cut",
        sentence="This is the box clipped to the map before it was cut into bins, which makes them smaller. "
        "Cut the whole box, then clip each bin.",
        answer=mistakes.pool_cells_clipped_first,
    ),
)
