"""Lesson 05's exercises: what is asked, on which inputs."""

from minimaskrcnn_lessons.exercise import Exercise
from minimaskrcnn_lessons.lesson05 import answers, drawings, inputs, misconceptions, misconceptions_pooling

BILINEAR = Exercise(
    name="bilinear",
    title="A value between four cells",
    difficulty=1,
    minutes=12,
    points=2,
    right=answers.bilinear,
    inputs=inputs.bilinear_inputs(),
    misconceptions=misconceptions.BILINEAR,
    hints=(
        "Three cases: too far outside (0), just outside (move the point onto the edge), inside. "
        "Then `top = int(y)` and the fraction `fy = y - top`.",
        "After clamping `y` to `0 .. height - 1`, the lower row is `min(top + 1, height - 1)`. "
        "Mix left and right by `fx` in both rows, then mix the two results by `fy`.",
    ),
    draw=drawings.bilinear,
    picture=drawings.bilinear_surface,
    examples=200,
)

POINTS = Exercise(
    name="roi_align_points",
    title="Where RoIAlign samples",
    difficulty=2,
    minutes=12,
    points=2,
    right=answers.points,
    inputs=inputs.points_inputs(),
    misconceptions=misconceptions.POINTS,
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
    misconceptions=misconceptions_pooling.ALIGN,
    hints=(
        "Get the sample points of the rows from `box[1], box[3]` and of the columns from `box[0], box[2]`: "
        "`points(start, end, stride, bins, samples)`, given above the stub.",
        "`out[ph, pw]` is the mean of `bilinear(plane, y, x)` over all `y` of row bin `ph` and all `x` of "
        "column bin `pw`.",
    ),
    draw=drawings.align,
    picture=drawings.align_of_a_ramp,
    # What the drawing's three digits show.
    tolerance=5e-3,
)

POOL = Exercise(
    name="roi_pool_cells",
    title="RoIPool's two roundings",
    difficulty=2,
    minutes=15,
    points=2,
    right=answers.pool_cells,
    inputs=inputs.pool_inputs(),
    misconceptions=misconceptions_pooling.POOL,
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
    misconceptions=misconceptions.LEVEL,
    hints=(
        "Write the equation as it stands: `4 + log2(sqrt(w * h) / 224)`, rounded down.",
        "`math.floor(...)`, then `min(max(k, 2), 5)`.",
    ),
    draw=drawings.level,
    picture=drawings.levels,
)

EXERCISES = (BILINEAR, POINTS, ALIGN, POOL, LEVEL)
