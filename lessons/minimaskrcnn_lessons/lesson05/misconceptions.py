"""Lesson 05's wrong answers by name, and what to say of each; the first that fits is said."""

from minimaskrcnn_lessons.exercise import Misconception
from minimaskrcnn_lessons.lesson05 import mistakes

BILINEAR = (
    Misconception(
        name="x and y swapped",
        sentence="This is the value at (x, y): a plane is indexed [row, column], so y comes first.",
        answer=mistakes.bilinear_swapped,
    ),
    Misconception(
        name="nearest cell",
        sentence="This is the nearest cell's value: rounding to a cell is what RoIPool does. "
        "Weight the four cells around the point.",
        answer=mistakes.bilinear_nearest,
    ),
    Misconception(
        name="no clamp at the border",
        sentence="This is the sample with cells outside of the map counted as 0, so that values fade at the "
        "border. Within one cell of the map, move the point onto the edge first.",
        answer=mistakes.bilinear_fading,
    ),
    Misconception(
        name="shifted by half a cell",
        sentence="This is the sample half a cell up and to the left. Here cell i has its value at i itself; "
        "the half cell is taken off elsewhere, once, when the box is turned into sample points.",
        answer=mistakes.bilinear_shifted,
    ),
    Misconception(
        name="clamped from any distance",
        sentence="This is the edge's value however far outside the point lies. More than one cell outside of "
        "the map a sample counts 0.",
        answer=mistakes.bilinear_everywhere,
    ),
    Misconception(
        name="0 just outside",
        sentence="This is 0 as soon as the point leaves the outermost values. Up to one cell outside of the "
        "map it is moved onto the edge.",
        answer=mistakes.bilinear_zero_outside,
    ),
    Misconception(
        name="limits excluded",
        sentence="This is right but for points exactly on a limit: a point with y = -1 or y = H still counts. "
        "Compare with < and >, as the task does.",
        answer=mistakes.bilinear_open,
    ),
    Misconception(
        name="height and width swapped",
        sentence="This is y compared with the width, and x with the height. `plane.shape` is (height, width), "
        "and y runs along the height.",
        answer=mistakes.bilinear_limits_swapped,
    ),
    Misconception(
        name="weights swapped",
        sentence="This is the near cell with the small weight: the fraction past a cell is the weight of the "
        "next one, and the cell itself gets 1 minus it.",
        answer=mistakes.bilinear_weights_swapped,
    ),
    Misconception(
        name="cell above and to the left",
        sentence="This is the cell above and to the left of the point, without the other three. Weight the "
        "four cells around it.",
        answer=mistakes.bilinear_floor,
    ),
)

POINTS = (
    Misconception(
        name="half cell left out",
        sentence="This is RoIAlign with the half-pixel offset left out (aligned=False): every point lies half "
        "a cell too far to the right.",
        answer=mistakes.points_unaligned,
    ),
    Misconception(
        name="half a pixel for half a cell",
        sentence="This is the offset taken off before the division: half a pixel of the image, "
        "where half a cell of the map is meant.",
        answer=mistakes.points_half_pixel,
    ),
    Misconception(
        name="samples at the corners of their parts",
        sentence="This is a sample at the beginning of each part of a bin. It belongs in the part's middle.",
        answer=mistakes.points_at_corners,
    ),
    Misconception(
        name="samples on both ends of a bin",
        sentence="This is linspace from one end of the bin to the other, ends included. Then two neighbouring "
        "bins sample the same point, and the spacing is too wide.",
        answer=mistakes.points_to_both_ends,
    ),
    Misconception(
        name="inclusive end",
        sentence="This is a box one cell too long, as if its end were the last cell it contains. "
        "Boxes are continuous here: the length is end - start.",
        answer=mistakes.points_inclusive,
    ),
    Misconception(
        name="linspace over the box",
        sentence="This is linspace from one end of the box to the other, ends included: the spacing is too "
        "wide. The box is cut into bins × samples parts, and a point lies in the middle of each.",
        answer=mistakes.points_linspace,
    ),
    Misconception(
        name="pixels for cells",
        sentence="This is in pixels. Points are asked for in cells: divide by the stride, then take off half a "
        "cell.",
        answer=mistakes.points_in_pixels,
    ),
    Misconception(
        name="half cell off the start only",
        sentence="This is half a cell taken off the start and not off the end, which makes the box longer. "
        "Both ends move alike.",
        answer=mistakes.points_start_moved,
    ),
    Misconception(
        name="one line of points",
        sentence="This is all points in one line. The result has a row for each bin: [bins, samples].",
        answer=mistakes.points_flat,
    ),
)

LEVEL = (
    Misconception(
        name="area over 224",
        sentence="This is the logarithm of the area over 224. The area's square root is compared with 224.",
        answer=mistakes.fpn_level_of_area,
    ),
    Misconception(
        name="areas compared",
        sentence="This is the logarithm of area over 224²: two levels for each doubling of the side. "
        "Take the square root of the area first.",
        answer=mistakes.fpn_level_of_areas,
    ),
    Misconception(
        name="natural logarithm",
        sentence="This is math.log, the natural logarithm. Strides double, so the base is 2.",
        answer=mistakes.fpn_level_natural_log,
    ),
    Misconception(
        name="rounded to the nearest level",
        sentence="This is the nearest level. The equation rounds down.",
        answer=mistakes.fpn_level_rounded,
    ),
    Misconception(
        name="longest side",
        sentence="This is the level of the longer side. The equation takes √(w·h), so that a box of the same "
        "area has the same level whatever its shape.",
        answer=mistakes.fpn_level_longest_side,
    ),
    Misconception(
        name="not clamped",
        sentence="This is right within the pyramid. Boxes beyond it go to its first or last level: clamp to "
        "2 and 5.",
        answer=mistakes.fpn_level_unclamped,
    ),
    Misconception(
        name="rounded up",
        sentence="This is the next level up. The equation rounds down.",
        answer=mistakes.fpn_level_rounded_up,
    ),
    Misconception(
        name="border left to the lower level",
        sentence="This is right but on a border: a box of exactly 112, 224 or 448 pixels belongs to the higher "
        "level.",
        answer=mistakes.fpn_level_above_border,
    ),
    Misconception(
        name="counted from 0",
        sentence="This is a count from 0. P2 is level 2, so levels go from 2 to 5.",
        answer=mistakes.fpn_level_from_zero,
    ),
    Misconception(
        name="not rounded",
        sentence="This is the number before it is rounded down. A level is an integer.",
        answer=mistakes.fpn_level_whole,
    ),
    Misconception(
        name="mean of the sides",
        sentence="This is the level of the mean of the sides. The equation takes √(w·h), so that a box of the "
        "same area has the same level whatever its shape.",
        answer=mistakes.fpn_level_mean_side,
    ),
)
