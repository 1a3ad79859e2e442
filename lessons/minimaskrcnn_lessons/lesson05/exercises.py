"""Lesson 05's exercises: what is asked, on which inputs, and the wrong answers that are known."""

from minimaskrcnn_lessons.exercise import Exercise, Misconception
from minimaskrcnn_lessons.lesson05 import answers, drawings, inputs

BILINEAR = Exercise(
    name="bilinear",
    title="A value between four cells",
    difficulty=1,
    minutes=12,
    points=2,
    right=answers.bilinear,
    inputs=inputs.bilinear_inputs(),
    misconceptions=(
        Misconception(
            name="x and y swapped",
            sentence="This is the value at (x, y): a plane is indexed [row, column], so y comes first.",
            answer=answers.bilinear_swapped,
        ),
        Misconception(
            name="nearest cell",
            sentence="This is the nearest cell's value: rounding to a cell is what RoIPool does. "
            "Weight the four cells around the point.",
            answer=answers.bilinear_nearest,
        ),
        Misconception(
            name="no clamp at the border",
            sentence="This is the sample with cells outside of the map counted as 0, so that values fade at the "
            "border. Within one cell of the map, move the point onto the edge first.",
            answer=answers.bilinear_fading,
        ),
        Misconception(
            name="shifted by half a cell",
            sentence="This is the sample half a cell up and to the left. Here cell i has its value at i itself; "
            "the half cell is taken off elsewhere, once, when the box is turned into sample points.",
            answer=answers.bilinear_shifted,
        ),
        Misconception(
            name="clamped from any distance",
            sentence="This is the edge's value however far outside the point lies. More than one cell outside of "
            "the map a sample counts 0.",
            answer=answers.bilinear_everywhere,
        ),
    ),
    hints=(
        "Three cases: too far outside (0), just outside (move the point onto the edge), inside. "
        "Then `top = int(y)` and the fraction `fy = y - top`.",
        "After clamping `y` to `0 .. height - 1`, the lower row is `min(top + 1, height - 1)`. "
        "Mix left and right by `fx` in both rows, then mix the two results by `fy`.",
    ),
    draw=drawings.bilinear,
    picture=drawings.bilinear_surface,
)

POINTS = Exercise(
    name="roi_align_points",
    title="Where RoIAlign samples",
    difficulty=2,
    minutes=12,
    points=2,
    right=answers.points,
    inputs=inputs.points_inputs(),
    misconceptions=(
        Misconception(
            name="half cell left out",
            sentence="This is RoIAlign with the half-pixel offset left out (aligned=False): every point lies half "
            "a cell too far to the right.",
            answer=answers.points_unaligned,
        ),
        Misconception(
            name="half a pixel for half a cell",
            sentence="This is the offset taken off before the division: half a pixel of the image, "
            "where half a cell of the map is meant.",
            answer=answers.points_half_pixel,
        ),
        Misconception(
            name="samples at the corners of their parts",
            sentence="This is a sample at the beginning of each part of a bin. It belongs in the part's middle.",
            answer=answers.points_at_corners,
        ),
        Misconception(
            name="samples on both ends of a bin",
            sentence="This is linspace from one end of the bin to the other, ends included. Then two neighbouring "
            "bins sample the same point, and the spacing is too wide.",
            answer=answers.points_to_both_ends,
        ),
        Misconception(
            name="inclusive end",
            sentence="This is a box one cell too long, as if its end were the last cell it contains. "
            "Boxes are continuous here: the length is end - start.",
            answer=answers.points_inclusive,
        ),
    ),
    hints=(
        "Work in cells: divide both ends by the stride, then take off half a cell. "
        "A bin has length `(end - start) / bins`, in cells.",
        "Cut bin `b` into `samples` equal parts; the middle of part `i` is `(i + 0.5) / samples` of a bin from "
        "the bin's beginning.",
    ),
    draw=drawings.points,
    picture=drawings.points_of_a_box,
)

ALIGN = Exercise(
    name="roi_align",
    title="RoIAlign of one box",
    difficulty=2,
    minutes=20,
    points=3,
    right=answers.align,
    inputs=inputs.align_inputs(),
    misconceptions=(
        Misconception(
            name="half cell left out",
            sentence="This is RoIAlign with the half-pixel offset left out: it pools what lies half a cell below "
            "and to the right of the box.",
            answer=answers.align_unaligned,
        ),
        Misconception(
            name="rows and columns swapped",
            sentence="This is the result transposed: out[ph, pw] has ph along y and pw along x.",
            answer=answers.align_transposed,
        ),
        Misconception(
            name="one sample a bin",
            sentence="This is one sample in the middle of each bin. Take samples × samples of them and average.",
            answer=answers.align_one_sample,
        ),
        Misconception(
            name="xyxy taken for xywh",
            sentence="This is the box read as (x, y, width, height). It is (x1, y1, x2, y2).",
            answer=answers.align_xywh,
        ),
        Misconception(
            name="box rounded first",
            sentence="This is RoIAlign of a box that was rounded to cells first. RoIAlign rounds nothing.",
            answer=answers.align_rounded,
        ),
        Misconception(
            name="largest sample",
            sentence="This is the largest sample of each bin. The exercise asks for the mean.",
            answer=answers.align_max,
        ),
        Misconception(
            name="stride forgotten",
            sentence="This is the box taken as if its pixels were cells. Divide by the stride.",
            answer=answers.align_unscaled,
        ),
    ),
    hints=(
        "Get the sample points of the rows from `box[1], box[3]` and of the columns from `box[0], box[2]`: "
        "`points(start, end, stride, bins, samples)`, given above the stub.",
        "`out[ph, pw]` is the mean of `bilinear(plane, y, x)` over all `y` of row bin `ph` and all `x` of "
        "column bin `pw`.",
    ),
    draw=drawings.align,
    picture=drawings.align_of_a_ramp,
)

POOL = Exercise(
    name="roi_pool_cells",
    title="RoIPool's two roundings",
    difficulty=2,
    minutes=15,
    points=2,
    right=answers.pool_cells,
    inputs=inputs.pool_inputs(),
    misconceptions=(
        Misconception(
            name="floor for round",
            sentence="This is the box with its ends rounded down. RoIPool takes the nearest cell.",
            answer=answers.pool_cells_floor,
        ),
        Misconception(
            name="halves to even",
            sentence="This is Python's round(), which takes 0.5 to 0 and 2.5 to 2. RoIPool rounds halves up, "
            "as C does.",
            answer=answers.pool_cells_bankers,
        ),
        Misconception(
            name="last cell left out",
            sentence="This is the box without its last cell. The rounded end is a cell that belongs to the box, "
            "so there are last - first + 1 of them.",
            answer=answers.pool_cells_exclusive,
        ),
        Misconception(
            name="bins that do not share cells",
            sentence="This is each bin's end rounded down. A bin takes every cell that it covers in part, so its "
            "end is rounded up and neighbouring bins share a cell.",
            answer=answers.pool_cells_disjoint,
        ),
        Misconception(
            name="not clipped to the map",
            sentence="This is right inside of the map. Cells below 0 or from extent on do not exist: clip both "
            "ends of each bin.",
            answer=answers.pool_cells_unclipped,
        ),
    ),
    hints=(
        "`math.floor(x + 0.5)` rounds halves up. The box has `last - first + 1` cells.",
        "With `size = cells / bins`, bin `b` goes from `first + floor(b * size)` to "
        "`first + ceil((b + 1) * size)`, both clipped to `0 .. extent`.",
    ),
    draw=drawings.pool_cells,
    picture=drawings.pool_cells_of_a_box,
)

LEVEL = Exercise(
    name="fpn_level",
    title="Which level of the pyramid",
    difficulty=1,
    minutes=8,
    points=1,
    right=answers.fpn_level,
    inputs=inputs.level_inputs(),
    misconceptions=(
        Misconception(
            name="area over 224",
            sentence="This is the logarithm of the area over 224. The area's square root is compared with 224.",
            answer=answers.fpn_level_of_area,
        ),
        Misconception(
            name="areas compared",
            sentence="This is the logarithm of area over 224²: two levels for each doubling of the side. "
            "Take the square root of the area first.",
            answer=answers.fpn_level_of_areas,
        ),
        Misconception(
            name="natural logarithm",
            sentence="This is math.log, the natural logarithm. Strides double, so the base is 2.",
            answer=answers.fpn_level_natural_log,
        ),
        Misconception(
            name="rounded to the nearest level",
            sentence="This is the nearest level. The equation rounds down.",
            answer=answers.fpn_level_rounded,
        ),
        Misconception(
            name="longest side",
            sentence="This is the level of the longer side. The equation takes √(w·h), so that a box of the same "
            "area has the same level whatever its shape.",
            answer=answers.fpn_level_longest_side,
        ),
        Misconception(
            name="not clamped",
            sentence="This is right within the pyramid. Boxes beyond it go to its first or last level: clamp to "
            "2 and 5.",
            answer=answers.fpn_level_unclamped,
        ),
    ),
    hints=(
        "Write the equation as it stands: `4 + log2(sqrt(w * h) / 224)`, rounded down.",
        "`math.floor(...)`, then `min(max(k, 2), 5)`.",
    ),
    draw=drawings.level,
    picture=drawings.levels,
)

EXERCISES = (BILINEAR, POINTS, ALIGN, POOL, LEVEL)
